"""COCO evaluation beside plain pycocotools, on made-up objects and detections."""

import contextlib
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from benchmarks.timing import alternate, cpu_pressure, describe_machine, ratio_of, spread
from frcnn.annotations import ImageDetections, ImageRecord, to_xywh
from frcnn.evaluation.coco import METRICS, evaluate_coco

HEIGHT, WIDTH = 480, 640
OBJECTS = 7.3
"""An image on average, as in COCO val2017."""
CROWD_SHARE = 0.01
FOUND_SHARE = 0.35
"""Of the detections, those that begin from an object of their image; the others lie anywhere."""


def compare_evaluation(*, images: int, classes: int, detections: int, rounds: int) -> dict[str, Any]:
    """Time `evaluate_coco` and pycocotools in alternation and compare their 12 numbers.

    Ours begins with arrays, as detection leaves them; pycocotools with the dictionaries of its file format, in memory.
    Both end with the 12 numbers. A first round of each, not timed, is what is compared.

    Returns:
        plain data: numbers of both, the largest difference, seconds, and the ratio; None where a number differs.
    """
    records, found = make_up(images=images, classes=classes, detections=detections, seed=0)
    names = [f"class {number}" for number in range(1, classes + 1)]
    dataset, results = as_coco(records, found, classes=classes)
    ours = evaluate_coco(records, found, class_names=names)
    mine = [ours[name] for name in METRICS]
    theirs = run_pycocotools(dataset, results)
    difference = max(
        0.0 if one is None and two is None else float("inf") if one is None or two is None else abs(one - two)
        for one, two in zip(mine, theirs, strict=True)
    )
    pressure = cpu_pressure()
    seconds = alternate(
        [
            lambda: evaluate_coco(records, found, class_names=names),
            lambda: run_pycocotools(dataset, results),
        ],
        warmup=0,
        rounds=rounds,
        synchronise=lambda: None,
    )
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
        "rounds": rounds,
        "sides": {
            name: {"seconds": spread(times).as_dict()}
            for name, times in zip(("ours", "pycocotools"), seconds, strict=True)
        },
        "ratio": ratio_of(seconds[1], seconds[0]).as_dict() if is_same else None,
        "no_ratio": [] if is_same else [f"the 12 numbers differ by up to {difference:g}"],
        "cpu_pressure": [pressure, cpu_pressure()],
        "machine": describe_machine(torch.device("cpu")),
    }


def make_up(
    *, images: int, classes: int, detections: int, seed: int
) -> tuple[list[ImageRecord], list[ImageDetections]]:
    """Images of 480 x 640 with objects of COCO's sizes, and as many detections on each; many near an object."""
    random = np.random.default_rng(seed)
    records, found = [], []
    share = np.full(images, detections // images)
    share[: detections % images] += 1
    for number in range(images):
        boxes = _boxes(random, random.poisson(OBJECTS))
        labels = random.integers(1, classes + 1, len(boxes))
        is_crowd = random.random(len(boxes)) < CROWD_SHARE
        none = np.zeros(len(boxes), bool)
        areas = ((boxes[:, 2:] - boxes[:, :2]).prod(axis=1) * 0.7).astype(np.float64)  # of the mask
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


def as_coco(
    records: Sequence[ImageRecord], found: Sequence[ImageDetections], *, classes: int
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The content of a COCO file and of a results file."""
    annotations, results = [], []
    for record in records:
        columns = zip(
            to_xywh(record.boxes).tolist(), record.labels.tolist(), record.areas.tolist(), record.is_crowd, strict=True
        )
        for box, label, area, is_crowd in columns:
            entry = {"image_id": record.image_id, "category_id": label, "bbox": box, "area": area}
            annotations.append({"id": len(annotations) + 1, "iscrowd": int(is_crowd), **entry})
    for record, each in zip(records, found, strict=True):
        for box, label, score in zip(
            to_xywh(each.boxes).tolist(), each.labels.tolist(), each.scores.tolist(), strict=True
        ):
            results.append({"image_id": record.image_id, "category_id": label, "bbox": box, "score": score})
    dataset = {
        "info": {},
        "images": [{"id": record.image_id, "height": record.height, "width": record.width} for record in records],
        "categories": [{"id": label, "name": f"class {label}"} for label in range(1, classes + 1)],
        "annotations": annotations,
    }
    return dataset, results


def run_pycocotools(dataset: dict[str, Any], results: list[dict[str, Any]]) -> list[float | None]:
    """Its 12 numbers, as its demo computes them; None for -1.

    It adds keys to what it is given, each time the same.
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
