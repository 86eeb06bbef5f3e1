"""COCO's matching and its tables of precision and recall, for all images, classes, areas and thresholds at once.

Letters: I images, G objects, D counted detections, K classes, A = 4 area ranges, T = 10 IoU thresholds, R = 101 recall
points.
"""

from typing import NamedTuple

import numpy as np

from frcnn.annotations import to_xywh
from frcnn.evaluation.table import DetectionTable, ObjectTable, pair_up_in_parts, runs

THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALL_POINTS = np.linspace(0.0, 1.0, 101)
AREA_RANGES = np.array([[0, 1e5**2], [0, 32**2], [32**2, 96**2], [96**2, 1e5**2]])
"""All, small, medium, large; square pixels, both ends inclusive."""
LIMITS = (1, 10, 100)
"""Numbers of detections per class and image."""


class CocoTables(NamedTuple):
    """The tables that COCO's metrics are means of; -1 if a class has no object in that area range."""

    precision: np.ndarray
    """(T, R, K, A) the highest precision at this or any larger recall, with the last of LIMITS."""
    recall: np.ndarray
    """(T, K, A, limits) recall with all detections up to each limit."""


class _Ranked(NamedTuple):
    """The counted detections, sorted by class, then by descending score; equal scores by image."""

    key: np.ndarray  # (D,) class and image as one number
    labels: np.ndarray  # (D,)
    boxes: np.ndarray  # (D, 4) x, y, width, height
    rank: np.ndarray  # (D,) 0 for the best detection of its class and image


class _Objects(NamedTuple):
    """The objects, sorted by class, then by image."""

    key: np.ndarray  # (G,)
    labels: np.ndarray  # (G,)
    boxes: np.ndarray  # (G, 4) x, y, width, height
    is_region: np.ndarray  # (G,)
    is_ignored: np.ndarray  # (G, A) regions, and objects outside the area range


def evaluate_tables(
    objects: ObjectTable, detections: DetectionTable, *, image_rank: np.ndarray, num_classes: int
) -> CocoTables:
    """Match detections with objects and accumulate. The result is bit-identical to pycocotools, without its loops.

    1. Keep the 100 best detections of each class and image; equal scores keep their order.
    2. Pair them with the objects of their class and image whose IoU reaches the lowest threshold.
    3. In order of descending score, each detection takes the free object with the highest IoU; among equal IoUs, the
       last one. It takes an ignored object only if there is no other. Regions, which stay free, and objects outside the
       area range are ignored.
    4. A detection is right if it took an object. It is wrong if it took none and its own area is in the range. It does
       not count if it took an ignored object, or took none and its area is outside the range.
    5. Compute precision and recall after each detection of a class, in order of descending score.

    Matches in one class and image do not affect any other. So step 3 first matches the best detections of all classes
    and images at once, then all second-best, and so on: 100 rounds, the later ones with few pairs.

    Args:
        image_rank: (I,) order of the images, which breaks ties between scores.
    """
    ranked = _rank_detections(detections, image_rank)
    sorted_objects = _sort_objects(objects, image_rank)
    right, wrong = _judge(sorted_objects, ranked)

    precision = np.full((len(THRESHOLDS), len(RECALL_POINTS), num_classes, len(AREA_RANGES)), -1.0)
    recall = np.full((len(THRESHOLDS), num_classes, len(AREA_RANGES), len(LIMITS)), -1.0)
    for k in range(num_classes):
        own = slice(*np.searchsorted(ranked.labels, [k + 1, k + 2]))
        own_objects = slice(*np.searchsorted(sorted_objects.labels, [k + 1, k + 2]))
        number = (~sorted_objects.is_ignored[own_objects]).sum(axis=0)  # (A,)
        for area in np.flatnonzero(number):
            precision[:, :, k, area] = _precision_at_points(right[area, :, own], wrong[area, :, own], number[area])
            for position, limit in enumerate(LIMITS):
                found = (right[area, :, own] & (ranked.rank[own] < limit)).sum(axis=1)  # (T,)
                recall[:, k, area, position] = found / number[area]
    return CocoTables(precision, recall)


def _rank_detections(detections: DetectionTable, image_rank: np.ndarray) -> _Ranked:
    """Step 1: the best detections of each class and image, sorted."""
    key = detections.labels * len(image_rank) + image_rank[detections.image]
    order = np.lexsort([-detections.scores, key])
    starts = runs(key[order])
    rank = np.arange(len(key)) - np.repeat(starts, np.diff(starts, append=len(key)))
    order, rank = order[rank < LIMITS[-1]], rank[rank < LIMITS[-1]]
    by_score = np.lexsort([-detections.scores[order], detections.labels[order]])
    order, rank = order[by_score], rank[by_score]
    return _Ranked(key[order], detections.labels[order], to_xywh(detections.boxes[order]), rank)


def _sort_objects(objects: ObjectTable, image_rank: np.ndarray) -> _Objects:
    key = objects.labels * len(image_rank) + image_rank[objects.image]
    order = np.argsort(key, kind="stable")
    is_region = objects.is_region[order]
    is_ignored = is_region[:, None] | ~_is_within(objects.areas[order])
    return _Objects(key[order], objects.labels[order], to_xywh(objects.boxes[order]), is_region, is_ignored)


def _is_within(areas: np.ndarray) -> np.ndarray:
    """Whether each of (n,) areas is in each area range: (n, A) bool."""
    return (areas[:, None] >= AREA_RANGES[:, 0]) & (areas[:, None] <= AREA_RANGES[:, 1])


def _judge(objects: _Objects, ranked: _Ranked) -> tuple[np.ndarray, np.ndarray]:
    """Steps 2 to 4: find out which detections are right and which are wrong, both (A, T, D)."""
    is_within = _is_within(ranked.boxes[:, 2] * ranked.boxes[:, 3])  # (D, A)
    right = np.zeros((len(AREA_RANGES), len(THRESHOLDS), len(ranked.key)), dtype=bool)
    wrong = np.repeat(is_within.T[:, None], len(THRESHOLDS), axis=1)
    is_taken = np.zeros((len(objects.key), len(AREA_RANGES), len(THRESHOLDS)), dtype=bool)

    detection, candidate, overlap = _close_pairs(objects, ranked)
    by_rank = np.argsort(ranked.rank[detection], kind="stable")
    rounds = np.searchsorted(ranked.rank[detection[by_rank]], np.arange(LIMITS[-1] + 1))
    for start, end in zip(rounds[:-1], rounds[1:], strict=True):
        if start == end:
            continue
        pairs = by_rank[start:end]
        chosen, area, threshold = _choose(objects, is_taken, detection[pairs], candidate[pairs], overlap[pairs])
        finder, found = detection[pairs[chosen]], candidate[pairs[chosen]]
        is_taken[found, area, threshold] = True
        right[area, threshold, finder] = ~objects.is_ignored[found, area]
        wrong[area, threshold, finder] = False
    return right, wrong


def _close_pairs(objects: _Objects, ranked: _Ranked) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Step 2: detection, object and IoU of each pair, sorted by detection, then by object."""
    parts = []
    for detection, candidate in pair_up_in_parts(ranked.key, objects.key):
        overlap = _iou(ranked.boxes[detection], objects.boxes[candidate], objects.is_region[candidate])
        is_close = overlap >= THRESHOLDS[0]
        parts.append((detection[is_close], candidate[is_close], overlap[is_close]))
    detection, candidate, overlap = (np.concatenate(column) for column in zip(*parts, strict=True))
    return detection, candidate, overlap


def _choose(
    objects: _Objects, is_taken: np.ndarray, detection: np.ndarray, candidate: np.ndarray, overlap: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Step 3 for at most one detection of each class and image.

    Args:
        detection, candidate, overlap: (p,) pairs of a detection and an object, grouped by detection.

    Returns:
        the chosen pairs and their area range and threshold: three arrays of equal length.
    """
    is_free = ~is_taken[candidate] | objects.is_region[candidate][:, None, None]
    reaches = (overlap[:, None] >= THRESHOLDS)[:, None]
    quality = np.where(is_free & reaches, overlap[:, None, None], -1.0)  # (p, A, T)
    counted = np.where(objects.is_ignored[candidate][:, :, None], -1.0, quality)
    starts = runs(detection)
    segment = np.repeat(np.arange(len(starts)), np.diff(starts, append=len(detection)))
    has_counted = np.maximum.reduceat(counted, starts) >= 0
    quality = np.where(has_counted[segment], counted, quality)
    is_best = (quality == np.maximum.reduceat(quality, starts)[segment]) & (quality >= 0)
    place = np.where(is_best, np.arange(len(detection))[:, None, None], -1)
    last_best = np.maximum.reduceat(place, starts)  # (detections, A, T)
    chosen, area, threshold = np.nonzero(last_best >= 0)
    return last_best[chosen, area, threshold], area, threshold


def _iou(boxes: np.ndarray, others: np.ndarray, is_region: np.ndarray) -> np.ndarray:
    """IoU of boxes (p, 4) and (p, 4) x, y, width, height, pairwise, rounded as in COCO's mask API.

    For a region: the share of the detection's area inside the region.
    """
    near = np.maximum(boxes[:, :2], others[:, :2])
    sides = np.minimum(boxes[:, 2:] + boxes[:, :2], others[:, 2:] + others[:, :2]) - near
    shared = sides[:, 0] * sides[:, 1]
    area, other_area = boxes[:, 2] * boxes[:, 3], others[:, 2] * others[:, 3]
    union = np.where(is_region, area, area + other_area - shared)
    return np.divide(shared, union, out=np.zeros_like(shared), where=(sides > 0).all(axis=1))


def _precision_at_points(right: np.ndarray, wrong: np.ndarray, number: int) -> np.ndarray:
    """Step 5: (T, n) right and wrong detections of one class with `number` objects -> (T, R)."""
    found = np.cumsum(right, axis=1, dtype=np.float64)
    precision = found / (np.cumsum(wrong, axis=1, dtype=np.float64) + found + np.spacing(1))
    envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    envelope = np.concatenate([envelope, np.zeros((len(envelope), 1))], axis=1)  # 0 at a recall that is never reached
    reached = [np.searchsorted(row, RECALL_POINTS, side="left") for row in found / number]
    return np.take_along_axis(envelope, np.stack(reached), axis=1)
