"""Annotations and detections of one image.

Datasets return these types and evaluation takes them. They hold NumPy arrays; boxes are in pixels of the original
image, in xyxy format with continuous edges. The padded tensors of `structures` are made from them.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np


class ImageRecord(NamedTuple):
    """The annotation of one image with n objects and ignore regions."""

    image_id: int | str
    """Identifier in the dataset: the id in a COCO file, the file name without suffix in VOC."""
    path: Path | None
    """None if the image is drawn on the fly."""
    height: int
    width: int
    boxes: np.ndarray
    """(n, 4) float32."""
    labels: np.ndarray
    """(n,) int64 in 1..K."""
    areas: np.ndarray
    """(n,) float64 square pixels: the annotated area (in COCO, the area of the mask), otherwise width * height."""
    is_crowd: np.ndarray
    """(n,) bool, COCO's iscrowd."""
    is_difficult: np.ndarray
    """(n,) bool, VOC's difficult. Every metric ignores these objects."""
    is_ignored: np.ndarray
    """(n,) bool, ignore regions in training: crowds, and difficult objects if the config says so."""


class ImageDetections(NamedTuple):
    """The detections of one image, sorted by descending score."""

    boxes: np.ndarray
    """(n, 4) float32."""
    scores: np.ndarray
    """(n,) float32 in 0..1."""
    labels: np.ndarray
    """(n,) int64 in 1..K."""


def to_xywh(boxes: np.ndarray) -> np.ndarray:
    """Convert xyxy boxes (n, 4) to COCO's x, y, width, height (n, 4) float64. Double precision avoids rounding."""
    exact = boxes.astype(np.float64).reshape(-1, 4)
    return np.concatenate([exact[:, :2], exact[:, 2:] - exact[:, :2]], axis=1)
