"""The boxes of all images in one table, so that evaluation needs no loop over images."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from frcnn.annotations import ImageDetections, ImageRecord

MOST_PAIRS = 2**20
"""Pairs of a detection and an object that are compared at once; a pair takes about 150 bytes."""


class ObjectTable(NamedTuple):
    """The m annotated objects and ignore regions of n images, grouped by image, in their order."""

    image: np.ndarray
    """(m,) position of the image, 0..n-1."""
    labels: np.ndarray
    """(m,)"""
    boxes: np.ndarray
    """(m, 4) xyxy, float64."""
    areas: np.ndarray
    """(m,) float64, as annotated."""
    is_region: np.ndarray
    """(m,) bool: crowds and difficult objects, which no metric counts."""


class DetectionTable(NamedTuple):
    """The d detections of n images, grouped by image, in their order."""

    image: np.ndarray
    """(d,) position of the image, 0..n-1."""
    labels: np.ndarray
    """(d,)"""
    boxes: np.ndarray
    """(d, 4) xyxy, float64."""
    scores: np.ndarray
    """(d,) float64."""


def join_objects(records: Sequence[ImageRecord]) -> ObjectTable:
    return ObjectTable(
        image=_positions([len(record.labels) for record in records]),
        labels=_join([record.labels for record in records]).astype(np.int64),
        boxes=_join([record.boxes for record in records]).astype(np.float64).reshape(-1, 4),
        areas=_join([record.areas for record in records]).astype(np.float64),
        is_region=_join([record.is_crowd | record.is_difficult for record in records]).astype(bool),
    )


def join_detections(detections: Sequence[ImageDetections]) -> DetectionTable:
    return DetectionTable(
        image=_positions([len(found.labels) for found in detections]),
        labels=_join([found.labels for found in detections]).astype(np.int64),
        boxes=_join([found.boxes for found in detections]).astype(np.float64).reshape(-1, 4),
        scores=_join([found.scores for found in detections]).astype(np.float64),
    )


def pair_up(keys: np.ndarray, object_keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pair every detection with every object of the same key.

    Args:
        keys: (d,) key of each detection.
        object_keys: (m,) key of each object, ascending.

    Returns:
        positions of the detection and of the object of each pair, both (p,), sorted by detection, then by object.
    """
    start = np.searchsorted(object_keys, keys, side="left")
    number = np.searchsorted(object_keys, keys, side="right") - start
    detection = np.repeat(np.arange(len(keys)), number)
    first_pair = np.cumsum(number) - number
    return detection, np.arange(len(detection)) - np.repeat(first_pair - start, number)


def pair_up_in_parts(keys: np.ndarray, object_keys: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """`pair_up` in parts of about `MOST_PAIRS` pairs, which bounds the memory."""
    number = np.searchsorted(object_keys, keys, side="right") - np.searchsorted(object_keys, keys, side="left")
    cuts = np.flatnonzero(np.diff(np.cumsum(number) // MOST_PAIRS, prepend=0))
    for first, end in pairwise([0, *cuts.tolist(), len(keys)]):
        detection, candidate = pair_up(keys[first:end], object_keys)
        yield detection + first, candidate


def runs(values: np.ndarray) -> np.ndarray:
    """Positions at which runs of equal values start in (n,) values.

    >>> runs(np.array([3, 3, 5, 3]))
    array([0, 2, 3])
    """
    return np.flatnonzero(np.diff(values, prepend=values[0] - 1)) if len(values) else np.zeros(0, np.int64)


def _positions(counts: list[int]) -> np.ndarray:
    return np.repeat(np.arange(len(counts)), counts)


def _join(parts: list[np.ndarray]) -> np.ndarray:
    return np.concatenate(parts) if parts else np.zeros(0)
