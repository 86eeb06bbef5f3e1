"""Mean average precision of Pascal VOC (Everingham et al. 2010, section 4.2), as its development kit computes it."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from frcnn.annotations import ImageDetections, ImageRecord
from frcnn.evaluation.table import DetectionTable, ObjectTable, join_detections, join_objects, pair_up_in_parts, runs

RECALL_POINTS = (0.0, 0.1, 0.2, 3 * 0.1, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
"""The points of the 11-point rule as MATLAB's 0:0.1:1 has them, see `evaluate_voc`."""


class _Judged(NamedTuple):
    """Detections by class, those of a class best first."""

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
    """Average precision of each class, by the area rule and the 11-point rule, and their means.

    1. Sort the detections of each class by falling score; equal scores keep their order.
    2. Assign each to the object of its class and image that it overlaps most, the first of equals, though that be
       taken.
    3. An overlap of at least `iou_threshold` with an object not yet found is right. With one already found by a
       better detection it is wrong, and so is a smaller overlap. With an ignored object it counts neither way.
    4. For each class, precision and recall after each detection; average precision from both.

    Args:
        records: the annotation of n images; difficult and crowd objects are ignored.
        detections: of the same images in the same order.
        class_names: K names; label k is class_names[k - 1].
        iou_threshold: in 0..1; VOC uses 0.5.

    Returns:
        mAP (area) and mAP_11point, means over the classes that have objects to find, and per_class: {name: {"AP",
        "AP_11point", "objects"}}; None in place of numbers where there is no object.

    The kit's boxes are 1-based and inclusive, so it adds 1 to widths and heights: of objects xmax - xmin + 1, and of
    intersections min(xmax) - max(xmin) + 1. Our boxes have continuous edges, x1 = xmin - 1 and x2 = xmax, and a
    detection would be written for the kit as x1 + 1, x2. So x2 - x1 = xmax - xmin + 1, and likewise for intersections:
    the plain IoU of our boxes is the kit's IoU of theirs, and the official numbers come out.

    The kit's 11 points are MATLAB's 0:0.1:1, which counts up from 0 as far as the middle and down from 1 to it. So its
    fourth point is 3 * 0.1, which in floating point is above 0.3: a class of which exactly 3 of 10 objects, or 6 of
    20, are found does not reach it, and the same rule holds here. py-faster-rcnn and its descendants count up all the
    way (np.arange), and so miss 6/10 and 7/10 too; they also ask for an overlap above 0.5, where the kit takes 0.5.

    Equal scores keep the order of the images. The kit keeps the order of its file: that is the same for a file
    written image by image in the order of the split, and for every file without equal scores.
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
    """Area under the curve of (n,) precision over (n,) recall, the rule since VOC 2010.

    Precision at a recall is the highest precision at that recall or a larger one. (n may be 0: the area is 0.)
    """
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.sum(np.diff(recall, prepend=0.0) * envelope))


def eleven_points(precision: np.ndarray, recall: np.ndarray) -> float:
    """Mean over `RECALL_POINTS` of the highest precision at that recall or a larger one, VOC 2007's rule.

    (n,) precision over (n,) recall; 0 for a point that is not reached.
    """
    return float(np.mean([precision[recall >= point].max(initial=0.0) for point in RECALL_POINTS]))


def _judge(objects: ObjectTable, detections: DetectionTable, *, num_images: int, iou_threshold: float) -> _Judged:
    """Steps 1 to 3 for all classes at once: which detections are right, and which are wrong."""
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
    """The object that each detection overlaps most, -1 where its image has none of its class, and their IoU, both (n,).

    Args:
        objects: by class, then by image.
    """
    keys, object_keys = (table.labels * num_images + table.image for table in (detections, objects))
    match, best_overlap = np.full(len(keys), -1), np.zeros(len(keys))
    for detection, candidate in pair_up_in_parts(keys, object_keys):
        if len(detection) == 0:
            continue
        overlap = _iou(detections.boxes[detection], objects.boxes[candidate])
        starts = runs(detection)
        finder = detection[starts]  # those that have a pair
        best_overlap[finder] = np.maximum.reduceat(overlap, starts)
        place = np.where(overlap == best_overlap[detection], np.arange(len(detection)), len(detection))
        match[finder] = candidate[np.minimum.reduceat(place, starts)]  # the first of equals
    return match, best_overlap


def _iou(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """IoU of (n, 4) and (n, 4) boxes, pair by pair, in double precision; 0 where both have no area."""
    sides = np.minimum(boxes[:, 2:], others[:, 2:]) - np.maximum(boxes[:, :2], others[:, :2])
    shared = sides.clip(min=0).prod(axis=1)
    union = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1) + (others[:, 2:] - others[:, :2]).prod(axis=1) - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
