"""Labels, image sizes and clipped boxes of a `RawAnnotation`, for datasets and checks."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from frcnn.data.formats.raw import RawAnnotation


class ClippedBoxes(NamedTuple):
    """The boxes of all m objects, clipped to their images."""

    edges: np.ndarray
    """(m, 4) float64 xyxy. Boxes of images without a size are clipped at 0 only. Boxes without numbers are 0."""
    has_numbers: np.ndarray
    """(m,) bool, whether the box is four finite numbers."""
    has_area: np.ndarray
    """(m,) bool, whether the box has an area, both as written and inside the image in float32. Only these are used."""


def image_sizes(raw: RawAnnotation) -> np.ndarray:
    """(width, height) of each image in pixels, float64 (number of images, 2). Unknown sides are NaN."""
    return np.array([(image.width, image.height) for image in raw.images], np.float64).reshape(-1, 2)


def labels_of(raw: RawAnnotation, class_names: Sequence[str]) -> np.ndarray:
    """Label of each object: (m,) int64, 1..K by position in `class_names`, 0 for other classes."""
    label_by_name = {name: label for label, name in enumerate(class_names, start=1)}
    table = np.array([label_by_name.get(name, 0) for name in raw.names] + [0], np.int64)
    return table[raw.objects.names]  # -1, an unknown category, selects the last entry


def clip_boxes(raw: RawAnnotation) -> ClippedBoxes:
    """Clip all boxes to their images and find those with an area."""
    objects = raw.objects
    sizes = np.append(image_sizes(raw), [[np.inf, np.inf]], axis=0)  # row -1, no such image, selects the last entry
    bounds = np.nan_to_num(sizes, nan=np.inf, posinf=np.inf)[objects.rows]
    has_numbers = np.count_nonzero(np.isfinite(objects.boxes), axis=1) == 4
    edges = np.where(has_numbers[:, None], objects.boxes, 0).clip(0, bounds[:, [0, 1, 0, 1]])
    trained = edges.astype(np.float32)
    has_area = has_numbers & (objects.sides.min(axis=1) > 0) & ((trained[:, 2:] - trained[:, :2]).min(axis=1) > 0)
    return ClippedBoxes(edges, has_numbers, has_area)
