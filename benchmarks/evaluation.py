"""COCO evaluation compared with plain pycocotools, on generated objects and detections."""

import contextlib
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from benchmarks.timing import alternate, spread
from frcnn.annotations import ImageDetections, ImageRecord, to_xywh
from frcnn.evaluation.coco import METRICS, evaluate_coco

HEIGHT, WIDTH = 480, 640
OBJECTS = 7.3
"""Mean number of objects per image, as in COCO val2017."""
CROWD_SHARE = 0.01
FOUND_SHARE = 0.35
"""Share of the detections that are near an object of their image; the others are anywhere."""


def compare_evaluation(*, images: int, classes: int, detections: int, rounds: int) -> dict[str, Any]:
    """Time `evaluate_coco` and pycocotools in alternation and compare their 12 numbers.

    Ours starts from arrays, as detection returns them; pycocotools starts from the dictionaries of its file format, in
    memory. The numbers are compared in a first round that is not timed.

    Returns:
        Plain data: numbers of both, the largest difference, seconds, and the ratio, which is None if a number differs.
    """
    records, found = make_up(images=images, classes=classes, detections=detections, seed=0)
    names = [f"class {number}" for number in range(1, classes + 1)]
    dataset, results = annotation_file(records, names), result_file(records, found)
    ours = evaluate_coco(records, found, class_names=names)
    mine = [ours[name] for name in METRICS]
    theirs = run_pycocotools(dataset, results)
    difference = max(
        0.0 if one is None and two is None else float("inf") if one is None or two is None else abs(one - two)
        for one, two in zip(mine, theirs, strict=True)
    )
    steps = {
        "ours": lambda: evaluate_coco(records, found, class_names=names),
        "pycocotools": lambda: run_pycocotools(dataset, results),
    }
    timings = alternate(steps, warmup=0, rounds=rounds)
    is_same = difference == 0
    return {
        "what": "eval",
        "input": {
            "images": images,
            "classes": classes,
            "objects": sum(len(record.boxes) for record in records),
            "detections": sum(len(each.boxes) for each in found),
        },
        "numbers": {name: [one, two] for name, one, two in zip(METRICS, mine, theirs, strict=True)},
        "difference": difference if np.isfinite(difference) else None,
        "sides": {name: {"seconds": spread(seconds).as_dict()} for name, seconds in timings.seconds.items()},
        "ratio": timings.ratio("pycocotools", "ours") if is_same else None,
        "no_ratio": [] if is_same else [f"the 12 numbers differ by up to {difference:g}"],
        **timings.conditions,
    }


def make_up(
    *, images: int, classes: int, detections: int, seed: int
) -> tuple[list[ImageRecord], list[ImageDetections]]:
    """Generate images of 480 x 640 with objects of COCO's sizes, and equally many detections on each image."""
    random = np.random.default_rng(seed)
    records, found = [], []
    share = np.full(images, detections // images)
    share[: detections % images] += 1
    for number in range(images):
        boxes = _boxes(random, random.poisson(OBJECTS))
        labels = random.integers(1, classes + 1, len(boxes))
        is_crowd = random.random(len(boxes)) < CROWD_SHARE
        none = np.zeros(len(boxes), bool)
        areas = ((boxes[:, 2:] - boxes[:, :2]).prod(axis=1) * 0.7).astype(np.float64)  # areas of masks
        record = ImageRecord(number + 1, None, HEIGHT, WIDTH, boxes, labels, areas, is_crowd, none, is_crowd)
        records.append(record)
        found.append(_detections(random, record, int(share[number]), classes))
    return records, found


def _boxes(random: np.random.Generator, count: int) -> np.ndarray:
    sides = np.exp(random.uniform(np.log(8), np.log(400), (count, 2)))
    corner = random.uniform(0, 1, (count, 2)) * (np.array([WIDTH, HEIGHT]) - sides)
    return np.concatenate([corner, corner + sides], axis=1).astype(np.float32)


def _detections(random: np.random.Generator, record: ImageRecord, count: int, classes: int) -> ImageDetections:
    boxes, labels = _boxes(random, count), random.integers(1, classes + 1, count)
    if len(record.boxes):
        chosen = random.integers(len(record.boxes), size=count)
        is_near = random.random(count) < FOUND_SHARE
        sides = np.tile(record.boxes[chosen, 2:] - record.boxes[chosen, :2], 2)
        near = record.boxes[chosen] + random.normal(0, 0.08, (count, 4)).astype(np.float32) * sides
        near[:, 2:] = np.maximum(near[:, 2:], near[:, :2] + 1)
        boxes = np.where(is_near[:, None], near, boxes)
        labels = np.where(is_near, record.labels[chosen], labels)
    order = np.argsort(-(scores := random.random(count).astype(np.float32)), kind="stable")
    return ImageDetections(boxes[order], scores[order], labels[order])


def annotation_file(records: Sequence[ImageRecord], class_names: Sequence[str]) -> dict[str, Any]:
    """The content of a COCO annotation file, without file names."""
    annotations = []
    for record in records:
        columns = zip(
            to_xywh(record.boxes).tolist(), record.labels.tolist(), record.areas.tolist(), record.is_crowd, strict=True
        )
        for box, label, area, is_crowd in columns:
            entry = {"image_id": record.image_id, "category_id": label, "bbox": box, "area": area}
            annotations.append({"id": len(annotations) + 1, "iscrowd": int(is_crowd), **entry})
    return {
        "info": {},
        "images": [{"id": record.image_id, "height": record.height, "width": record.width} for record in records],
        "categories": [{"id": label, "name": name} for label, name in enumerate(class_names, start=1)],
        "annotations": annotations,
    }


def result_file(records: Sequence[ImageRecord], found: Sequence[ImageDetections]) -> list[dict[str, Any]]:
    """The content of a COCO results file."""
    return [
        {"image_id": record.image_id, "category_id": label, "bbox": box, "score": score}
        for record, each in zip(records, found, strict=True)
        for box, label, score in zip(
            to_xywh(each.boxes).tolist(), each.labels.tolist(), each.scores.tolist(), strict=True
        )
    ]


def run_pycocotools(dataset: dict[str, Any], results: list[dict[str, Any]]) -> list[float | None]:
    """Compute pycocotools' 12 numbers as its demo does; None for -1.

    It adds the same keys to its arguments on each call.
    """
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = dataset  # pyright: ignore[reportAttributeAccessIssue]
        truth.createIndex()
        loaded = truth.loadRes(results)  # pyright: ignore[reportArgumentType] - its stub knows files only
        evaluation = COCOeval(truth, loaded, iouType="bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [None if value < 0 else float(value) for value in evaluation.stats]
