"""COCO's numbers by pycocotools, for records of any data set."""

import contextlib
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from frcnn.records import ImageDetections, ImageRecord

METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
"""In the order of pycocotools' `stats`: AP at IoU 0.50:0.95, 0.50, 0.75, small, medium, large; AR likewise at
0.50:0.95 with 1, 10 and 100 detections an image, and of small, medium and large objects with 100."""


def evaluate_coco(
    records: Sequence[ImageRecord], detections: Sequence[ImageDetections], *, class_names: Sequence[str]
) -> dict[str, Any]:
    """The 12 numbers of COCO, and AP and AP50 of each class.

    1. Hand objects and detections to pycocotools, as boxes with the annotated areas.
    2. Let it match and accumulate, without its printing.
    3. Take its summary; the numbers of a class are means over its part of the precision table.

    Args:
        records: the annotation of n images.
        detections: of the same images in the same order.
        class_names: K names; label k is class_names[k - 1].

    Returns:
        the 12 of `METRICS`, and per_class: {name: {"AP", "AP50"}}; values in 0..1, or None where the data set holds no
        object to measure by (pycocotools says -1). Without any detection the numbers are 0.

    Crowds are ignore regions as in COCO: detections that lie in one count neither way, however many they are.
    Difficult objects, which COCO does not know, are handled as crowds. COCO's rules hold for every data set: areas are
    small below 32^2 and large above 96^2 square pixels, and at most 100 detections of each class and image count.
    """
    if len(records) != len(detections):
        raise ValueError(f"{len(records)} records but detections of {len(detections)} images")
    image_ids = _image_ids(records)
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(
            _index(image_ids, _objects(records, image_ids), num_classes=len(class_names)),
            _index(image_ids, _detections(detections, image_ids), num_classes=len(class_names)),
            iouType="bbox",
        )
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    report: dict[str, Any] = {
        name: _known(value) for name, value in zip(METRICS, evaluation.stats.tolist(), strict=True)
    }
    # (thresholds, recall points, K, areas, limits) -> all areas, 100 detections: (10, 101, K)
    precision = evaluation.eval["precision"][:, :, :, 0, 2]
    report["per_class"] = {
        name: {"AP": _known_mean(precision[:, :, k]), "AP50": _known_mean(precision[0, :, k])}
        for k, name in enumerate(class_names)
    }
    return report


def _image_ids(records: Sequence[ImageRecord]) -> list[int]:
    """COCO's own ids, whose order breaks ties of scores between images; positions where they are no such ids."""
    ids = [record.image_id for record in records]
    if len(set(ids)) == len(ids) and all(isinstance(image_id, int) for image_id in ids):
        return ids  # type: ignore[return-value]
    return list(range(len(records)))


def _objects(records: Sequence[ImageRecord], image_ids: Sequence[int]) -> list[dict[str, Any]]:
    annotations = []
    for record, image_id in zip(records, image_ids, strict=True):
        is_region = (record.is_crowd | record.is_difficult).tolist()
        columns = zip(to_xywh(record.boxes), record.labels.tolist(), record.areas.tolist(), is_region, strict=True)
        annotations += [
            {"image_id": image_id, "category_id": label, "bbox": box, "area": area, "iscrowd": int(is_crowd)}
            for box, label, area, is_crowd in columns
        ]
    return annotations


def _detections(detections: Sequence[ImageDetections], image_ids: Sequence[int]) -> list[dict[str, Any]]:
    annotations = []
    for found, image_id in zip(detections, image_ids, strict=True):
        columns = zip(to_xywh(found.boxes), found.scores.tolist(), found.labels.tolist(), strict=True)
        annotations += [
            {"image_id": image_id, "category_id": label, "bbox": box, "score": score, "area": box[2] * box[3]}
            for box, score, label in columns
        ]
    return annotations


def to_xywh(boxes: np.ndarray) -> list[list[float]]:
    """COCO's boxes, x, y, width, height, of xyxy boxes (n, 4); in double precision, so that nothing is rounded."""
    exact = boxes.astype(np.float64).reshape(-1, 4)
    return np.concatenate([exact[:, :2], exact[:, 2:] - exact[:, :2]], axis=1).tolist()


def _index(image_ids: Sequence[int], annotations: list[dict[str, Any]], *, num_classes: int) -> COCO:
    """pycocotools' data set, made in memory. Its ids start at 1: it takes a match with object 0 for no match."""
    coco = COCO()
    coco.dataset = {  # pyright: ignore[reportAttributeAccessIssue] - its stubs want fields that boxes do not need
        "images": [{"id": image_id} for image_id in image_ids],
        "categories": [{"id": label} for label in range(1, num_classes + 1)],
        "annotations": [{"id": number, **annotation} for number, annotation in enumerate(annotations, start=1)],
    }
    coco.createIndex()
    return coco


def _known(value: float) -> float | None:
    return None if value < 0 else float(value)


def _known_mean(precision: np.ndarray) -> float | None:
    known = precision[precision > -1]
    return float(known.mean()) if known.size else None
