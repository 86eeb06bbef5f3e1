"""Mean average precision of Pascal VOC (Everingham et al. 2010, section 4.2), as its development kit computes it."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from frcnn.records import ImageDetections, ImageRecord

RECALL_POINTS = (0.0, 0.1, 0.2, 3 * 0.1, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
"""The points of the 11-point rule as MATLAB's 0:0.1:1 has them, see `evaluate_voc`."""


class _Objects(NamedTuple):
    """The objects of one class in all images, those of an image side by side."""

    boxes: np.ndarray  # (m, 4)
    counts: np.ndarray  # (m,) bool, False where ignored
    start: np.ndarray  # (images,) first object of each image
    number: np.ndarray  # (images,) objects of each image


def evaluate_voc(
    records: Sequence[ImageRecord],
    detections: Sequence[ImageDetections],
    *,
    class_names: Sequence[str],
    iou_threshold: float = 0.5,
) -> dict[str, Any]:
    """Average precision of each class, by the area rule and the 11-point rule, and their means.

    For each class:

    1. Sort its detections of all images by falling score; equal scores keep their order.
    2. Assign each to the object of its image that it overlaps most, the first of equals, though that be taken.
    3. An overlap of at least `iou_threshold` with an object not yet found is right. With one already found by a
       better detection it is wrong, and so is a smaller overlap. With an ignored object it counts neither way.
    4. Precision and recall after each detection; average precision from both.

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
    per_class: dict[str, dict[str, Any]] = {}
    for label, name in enumerate(class_names, start=1):
        objects = _select_objects(records, label)
        num_objects = int(objects.counts.sum())
        area, eleven = None, None
        if num_objects:
            right, wrong = _judge(objects, *_select_detections(detections, label), iou_threshold)
            found = np.cumsum(right)
            precision = found / np.maximum(found + np.cumsum(wrong), 1)
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


def _judge(
    objects: _Objects, boxes: np.ndarray, scores: np.ndarray, image: np.ndarray, iou_threshold: float
) -> tuple[np.ndarray, np.ndarray]:
    """Steps 1 to 3: which detections (n,), best first, are right, and which are wrong."""
    order = np.argsort(-scores, kind="stable")
    boxes, image = boxes[order], image[order]
    match, overlap = _best_objects(objects, boxes, image)
    is_matched = (match >= 0) & (overlap >= iou_threshold)
    is_judged = ~is_matched | objects.counts[match]
    is_first = np.zeros(len(boxes), dtype=bool)
    candidates = np.flatnonzero(is_matched)
    _, first = np.unique(match[candidates], return_index=True)
    is_first[candidates[first]] = True
    return is_first & is_judged, ~is_first & is_judged


def _best_objects(objects: _Objects, boxes: np.ndarray, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The object that each detection overlaps most, -1 where its image has none, and their IoU, both (n,).

    Detections and the objects of their images are laid out as one list of pairs, so no loop over images is needed.
    """
    number = objects.number[image]  # (n,) pairs of each detection
    detection = np.repeat(np.arange(len(boxes)), number)  # (pairs,)
    first_pair = np.cumsum(number) - number
    candidate = np.arange(number.sum()) - np.repeat(first_pair - objects.start[image], number)
    overlap = _iou(boxes[detection], objects.boxes[candidate])
    ranked = np.lexsort([candidate, -overlap, detection])  # by detection, then overlap, then place in the annotation
    has_pair = number > 0
    best = ranked[first_pair[has_pair]]
    match = np.full(len(boxes), -1)
    match[has_pair] = candidate[best]
    best_overlap = np.zeros(len(boxes))
    best_overlap[has_pair] = overlap[best]
    return match, best_overlap


def _iou(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """IoU of (n, 4) and (n, 4) boxes, pair by pair, in double precision; 0 where both have no area."""
    sides = np.minimum(boxes[:, 2:], others[:, 2:]) - np.maximum(boxes[:, :2], others[:, :2])
    shared = sides.clip(min=0).prod(axis=1)
    union = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1) + (others[:, 2:] - others[:, :2]).prod(axis=1) - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def _select_objects(records: Sequence[ImageRecord], label: int) -> _Objects:
    chosen = [record.labels == label for record in records]
    number = np.array([mask.sum() for mask in chosen], dtype=np.int64)
    ignored = [(record.is_difficult | record.is_crowd)[mask] for record, mask in zip(records, chosen, strict=True)]
    boxes = [record.boxes[mask] for record, mask in zip(records, chosen, strict=True)]
    return _Objects(_join(boxes, (0, 4)), ~_join(ignored, 0).astype(bool), np.cumsum(number) - number, number)


def _select_detections(detections: Sequence[ImageDetections], label: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Boxes (n, 4), scores (n,) and image positions (n,) of one class."""
    chosen = [found.labels == label for found in detections]
    boxes = [found.boxes[mask] for found, mask in zip(detections, chosen, strict=True)]
    scores = [found.scores[mask] for found, mask in zip(detections, chosen, strict=True)]
    image = np.repeat(np.arange(len(detections)), [int(mask.sum()) for mask in chosen])
    return _join(boxes, (0, 4)), _join(scores, 0), image


def _join(parts: list[np.ndarray], empty: int | tuple[int, int]) -> np.ndarray:
    return np.concatenate([np.zeros(empty), *parts]).astype(np.float64)


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
