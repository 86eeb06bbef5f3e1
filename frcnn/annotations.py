"""What is known of one image, apart from its pixels: its annotation, and what a detector found in it.

Both are in pixels of the original image, xyxy with continuous edges, as numpy arrays, and are what data sets give
and evaluation takes. The padded tensors of `structures` are made from them.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np


class ImageRecord(NamedTuple):
    """The annotation of one image with n objects and ignore regions."""

    image_id: int | str
    """As the data set names it: the id of a COCO file, the name without suffix in VOC."""
    path: Path | None
    """None where the image is drawn on the fly."""
    height: int
    width: int
    boxes: np.ndarray
    """(n, 4) float32."""
    labels: np.ndarray
    """(n,) int64 in 1..K."""
    areas: np.ndarray
    """(n,) float64 square pixels, as annotated (COCO: of the mask), else width * height."""
    is_crowd: np.ndarray
    """(n,) bool, COCO's iscrowd."""
    is_difficult: np.ndarray
    """(n,) bool, VOC's difficult; ignored by every metric."""
    is_ignored: np.ndarray
    """(n,) bool, ignore regions of training: crowds, and difficult objects where the config says so."""


class ImageDetections(NamedTuple):
    """What was found in one image, best first."""

    boxes: np.ndarray
    """(n, 4) float32."""
    scores: np.ndarray
    """(n,) float32 in 0..1."""
    labels: np.ndarray
    """(n,) int64 in 1..K."""


def to_xywh(boxes: np.ndarray) -> np.ndarray:
    """COCO's boxes, x, y, width, height, of xyxy boxes (n, 4); in double precision, so that nothing is rounded."""
    exact = boxes.astype(np.float64).reshape(-1, 4)
    return np.concatenate([exact[:, :2], exact[:, 2:] - exact[:, :2]], axis=1)
