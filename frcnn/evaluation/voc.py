"""Mean average precision of Pascal VOC (Everingham et al. 2010, section 4.2), equal to the development kit's."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from frcnn.annotations import ImageDetections, ImageRecord
from frcnn.evaluation.table import DetectionTable, ObjectTable, join_detections, join_objects, pair_up_in_parts, runs

RECALL_POINTS = (0.0, 0.1, 0.2, 3 * 0.1, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
"""Recall thresholds of the 11-point rule, with the values of MATLAB's 0:0.1:1; see `evaluate_voc`."""


class _Judged(NamedTuple):
    """Detections sorted by class, then by descending score. A detection may be neither right nor wrong."""

    labels: np.ndarray  # (n,)
    right: np.ndarray  # (n,) bool
    wrong: np.ndarray  # (n,) bool


def evaluate_voc(
    records: Sequence[ImageRecord],
    detections: Sequence[ImageDetections],
    *,
    class_names: Sequence[str],
    iou_threshold: float = 0.5,
) -> dict[str, Any]:
    """Compute the average precision of each class with the area rule and the 11-point rule, and their means.

    1. Sort the detections of each class by descending score; equal scores keep their order.
    2. Assign each detection to the object of its class and image with the highest IoU. Among equal IoUs the first
       object is used, even if it is already found.
    3. A detection is right if the IoU is at least `iou_threshold` and the object is not yet found. It is wrong if a
       better detection has found the object, or if the IoU is smaller. Detections of ignored objects do not count.
    4. For each class, compute precision and recall after each detection, and the average precision from both.

    Args:
        records: the annotations of n images; difficult and crowd objects are ignored.
        detections: detections of the same images in the same order.
        class_names: K names; label k is class_names[k - 1].
        iou_threshold: in 0..1; VOC uses 0.5.

    Returns:
        mAP (area rule) and mAP_11point, means over the classes with objects, and per_class: {name: {"AP",
        "AP_11point", "objects"}}. Values are None for a class without objects.

    The kit's boxes are 1-based and inclusive, so it adds 1 to the sides of objects (xmax - xmin + 1) and of
    intersections (min(xmax) - max(xmin) + 1). The boxes here have continuous edges, x1 = xmin - 1 and x2 = xmax, and
    are written for the kit as x1 + 1, x2. Then x2 - x1 = xmax - xmin + 1, and the same holds for intersections. The
    plain IoU of these boxes therefore equals the kit's IoU, and the metrics equal the official ones.

    The kit's 11 points are MATLAB's 0:0.1:1, which counts up from 0 to the middle and down from 1 to the middle. Its
    fourth point is 3 * 0.1, which is above 0.3 in floating point. A class with exactly 3 of 10 or 6 of 20 objects found
    does not reach this point, and the same holds here. py-faster-rcnn and its descendants count up all the way
    (np.arange), so they also miss 6/10 and 7/10. They also require an IoU above 0.5; the kit accepts 0.5.

    Equal scores keep the order of the images. The kit keeps the order of its results file. Both orders are the same if
    the file was written image by image in the order of the split, or if no scores are equal.
    """
    if len(records) != len(detections):
        raise ValueError(f"{len(records)} records but detections of {len(detections)} images")
    objects = join_objects(records)
    judged = _judge(objects, join_detections(detections), num_images=len(records), iou_threshold=iou_threshold)
    counted = np.bincount(objects.labels[~objects.is_region], minlength=len(class_names) + 1)
    per_class: dict[str, dict[str, Any]] = {}
    for label, name in enumerate(class_names, start=1):
        num_objects = int(counted[label])
        area, eleven = None, None
        if num_objects:
            own = slice(*np.searchsorted(judged.labels, [label, label + 1]))
            found = np.cumsum(judged.right[own])
            precision = found / np.maximum(found + np.cumsum(judged.wrong[own]), 1)
            area = area_under(precision, found / num_objects)
            eleven = eleven_points(precision, found / num_objects)
        per_class[name] = {"AP": area, "AP_11point": eleven, "objects": num_objects}
    return {
        "mAP": _mean([row["AP"] for row in per_class.values()]),
        "mAP_11point": _mean([row["AP_11point"] for row in per_class.values()]),
        "per_class": per_class,
    }


def area_under(precision: np.ndarray, recall: np.ndarray) -> float:
    """Area under the curve of precision (n,) over recall (n,): the rule since VOC 2010.

    The precision at a recall is the highest precision at this or any larger recall. The area is 0 for n = 0.
    """
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.sum(np.diff(recall, prepend=0.0) * envelope))


def eleven_points(precision: np.ndarray, recall: np.ndarray) -> float:
    """The rule of VOC 2007: mean over `RECALL_POINTS` of the highest precision at this or any larger recall.

    Takes precision (n,) and recall (n,). A point that is not reached counts as 0.
    """
    return float(np.mean([precision[recall >= point].max(initial=0.0) for point in RECALL_POINTS]))


def _judge(objects: ObjectTable, detections: DetectionTable, *, num_images: int, iou_threshold: float) -> _Judged:
    """Steps 1 to 3 for all classes at once: find out which detections are right and which are wrong."""
    order = np.lexsort([-detections.scores, detections.labels])
    detections = DetectionTable(*(column[order] for column in detections))
    order = np.argsort(objects.labels * num_images + objects.image, kind="stable")
    objects = ObjectTable(*(column[order] for column in objects))

    match, overlap = _best_objects(objects, detections, num_images)
    candidates = np.flatnonzero((match >= 0) & (overlap >= iou_threshold))
    is_judged = np.ones(len(match), dtype=bool)
    is_judged[candidates] = ~objects.is_region[match[candidates]]
    is_first = np.zeros(len(match), dtype=bool)
    _, first = np.unique(match[candidates], return_index=True)
    is_first[candidates[first]] = True
    return _Judged(detections.labels, is_first & is_judged, ~is_first & is_judged)


def _best_objects(objects: ObjectTable, detections: DetectionTable, num_images: int) -> tuple[np.ndarray, np.ndarray]:
    """For each detection, the object with the highest IoU and this IoU, both (n,).

    The object is -1 if the image has no object of the detection's class.

    Args:
        objects: sorted by class, then by image.
    """
    keys, object_keys = (table.labels * num_images + table.image for table in (detections, objects))
    match, best_overlap = np.full(len(keys), -1), np.zeros(len(keys))
    for detection, candidate in pair_up_in_parts(keys, object_keys):
        if len(detection) == 0:
            continue
        overlap = _iou(detections.boxes[detection], objects.boxes[candidate])
        starts = runs(detection)
        finder = detection[starts]  # detections with at least one pair
        best_overlap[finder] = np.maximum.reduceat(overlap, starts)
        place = np.where(overlap == best_overlap[detection], np.arange(len(detection)), len(detection))
        match[finder] = candidate[np.minimum.reduceat(place, starts)]  # the first among equal IoUs
    return match, best_overlap


def _iou(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """IoU of boxes (n, 4) and (n, 4), pairwise, in double precision; 0 if both have no area."""
    sides = np.minimum(boxes[:, 2:], others[:, 2:]) - np.maximum(boxes[:, :2], others[:, :2])
    shared = sides.clip(min=0).prod(axis=1)
    union = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1) + (others[:, 2:] - others[:, :2]).prod(axis=1) - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
