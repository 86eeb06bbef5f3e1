"""COCO metrics for the records of any dataset."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from frcnn.annotations import ImageDetections, ImageRecord
from frcnn.evaluation.coco_matching import CocoTables, evaluate_tables
from frcnn.evaluation.coco_packages import evaluate_by_package
from frcnn.evaluation.table import join_detections, join_objects

METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
"""Metrics in the order of pycocotools' `stats`: AP at IoU 0.50:0.95, 0.50 and 0.75, and for small, medium and large
objects. AR at IoU 0.50:0.95 with 1, 10 and 100 detections per image, and with 100 for objects of these sizes."""


def evaluate_coco(
    records: Sequence[ImageRecord],
    detections: Sequence[ImageDetections],
    *,
    class_names: Sequence[str],
    backend: str = "auto",
) -> dict[str, Any]:
    """Compute COCO's 12 metrics, and AP and AP50 of each class.

    1. Join the objects and the detections of all images into two tables, with the annotated areas.
    2. Match them and accumulate precision and recall of each class.
    3. Each metric is a mean over a part of these tables.

    Args:
        records: the annotations of n images.
        detections: detections of the same images in the same order.
        class_names: K names; label k is class_names[k - 1].
        backend: the implementation of step 2. "auto" is `evaluate_tables`. The others are packages for comparison:
            "pycocotools" is bit-identical; "faster" (faster-coco-eval) agrees to about 1e-15, because it uses 1 for the
            precision of a correct first detection and pycocotools uses 1 / (1 + 2.2e-16).

    Returns:
        the 12 values of `METRICS`, and per_class: {name: {"AP", "AP50"}}. Values are in 0..1, or None if the dataset
        holds no object for the metric (-1 in pycocotools). Without any detection they are 0.

    Raises:
        ConfigError: the package is not installed.

    Crowds are ignore regions, as in COCO: any number of detections in a crowd count neither as correct nor as wrong.
    Difficult objects, which COCO does not have, are treated as crowds. COCO's rules apply to every dataset: areas are
    small below 32^2 and large above 96^2 square pixels, and at most 100 detections per class and image count.
    """
    if len(records) != len(detections):
        raise ValueError(f"{len(records)} records but detections of {len(detections)} images")
    objects, found = join_objects(records), join_detections(detections)
    settings = {"image_rank": _image_rank(records), "num_classes": len(class_names)}
    if backend == "auto":
        tables = evaluate_tables(objects, found, **settings)
    else:
        tables = evaluate_by_package(backend, objects, found, **settings)
    report: dict[str, Any] = dict(zip(METRICS, _summarize(tables), strict=True))
    precision = tables.precision[..., 0]  # (T, R, K, A) -> of all areas, (T, R, K)
    report["per_class"] = {
        name: {"AP": _known_mean(precision[:, :, k]), "AP50": _known_mean(precision[0, :, k])}
        for k, name in enumerate(class_names)
    }
    return report


def _image_rank(records: Sequence[ImageRecord]) -> np.ndarray:
    """(n,) order that breaks ties between scores: by image id if these are distinct integers, else by position."""
    ids = [record.image_id for record in records]
    if len(set(ids)) == len(ids) and all(isinstance(image_id, int) for image_id in ids):
        return np.argsort(np.argsort(np.array(ids, dtype=object)))
    return np.arange(len(ids))


def _summarize(tables: CocoTables) -> list[float | None]:
    """The 12 metrics, in the order of `METRICS`."""
    precision, recall = tables
    at_50, at_75 = precision[0, ..., 0], precision[5, ..., 0]
    average_precision = [precision[..., 0], at_50, at_75, *(precision[..., area] for area in (1, 2, 3))]
    average_recall = [recall[:, :, 0, limit] for limit in (0, 1, 2)] + [recall[:, :, area, 2] for area in (1, 2, 3)]
    return [_known_mean(values) for values in (*average_precision, *average_recall)]


def _known_mean(values: np.ndarray) -> float | None:
    known = values[values > -1]
    return float(known.mean()) if known.size else None
