"""Fit of anchors to the ground truth: the IoU of each box with its best anchor.

Shapes: N boxes, L levels, k anchor shapes per level, C = L * k anchor shapes in total.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from frcnn.data.augment.resize import resized_size
from frcnn.data.batching import CANVAS_MULTIPLE
from frcnn.model.rpn.anchors import AnchorGenerator
from frcnn.ops import boxes as box_ops

CHUNK = 1 << 15
"""Number of boxes that are compared with the anchors at once."""


class Groups(NamedTuple):
    """Intervals of sizes or ratios."""

    edges: tuple[float, ...]
    """Ascending borders between the groups. Each belongs to the group above it."""
    names: list[str]
    """One more than `edges`."""


def between(edges: dict[str, float]) -> Groups:
    """Groups between borders, which are given with their names.

    >>> between({"16": 16, "32": 32}).names
    ['below 16', '16 to 32', '32 or more']
    """
    names = list(edges)
    inner = [f"{low} to {high}" for low, high in pairwise(names)]
    return Groups(tuple(edges.values()), [f"below {names[0]}", *inner, f"{names[-1]} or more"])


SIZE_GROUPS = between({str(edge): edge for edge in (16, 32, 64, 128, 256, 512)})
"""Groups of sizes: square roots of areas in pixels."""
RATIO_GROUPS = between({"1/3": 1 / 3, "1/2": 1 / 2, "3/4": 3 / 4, "4/3": 4 / 3, "2": 2, "3": 3})
"""Groups of ratios, height / width."""


class GroundTruthBoxes(NamedTuple):
    """The N boxes of a split, in pixels of the original images."""

    boxes: np.ndarray
    """(N, 4) xyxy, all with an area."""
    rows: np.ndarray
    """(N,) position of each box's image in `sizes`."""
    sizes: np.ndarray
    """(M, 2) (height, width) of the images."""


class AnchorFit(NamedTuple):
    """IoU of each of N boxes with its best anchor, at each of S short sides."""

    iou: np.ndarray
    """(S, N) float32."""
    sides: np.ndarray
    """(S, N, 2) float32 width and height of the boxes in canvas pixels."""

    def recall(self, threshold: float) -> float:
        """Share of the boxes whose best anchor has at least this IoU, over all short sides. NaN without boxes."""
        return float((self.iou >= threshold).mean()) if self.iou.size else math.nan

    def missed(self, threshold: float) -> np.ndarray:
        """(N,) bool, whether no anchor reaches this IoU at any short side."""
        return self.iou.max(axis=0) < threshold


class RecallGroup(NamedTuple):
    """Recall of the boxes in a group of sizes or ratios."""

    name: str
    share: float
    """Share of the group in all boxes."""
    recall_50: float
    recall_70: float


def fit_anchors(
    truth: GroundTruthBoxes,
    anchors: AnchorGenerator,
    *,
    short_sides: Sequence[int],
    long_side: int,
    inside_only: bool,
    skip_padding: bool,
) -> AnchorFit:
    """Resize all images to each of `short_sides` and find the best anchor of each box.

    Args:
        anchors: anchors on the CPU.
        inside_only, skip_padding: which anchors training uses, see `frcnn.model.matching.is_on_image`.
    """
    ious, sides = [], []
    for short_side in short_sides:
        boxes, sizes = resize_truth(truth, short_side=short_side, long_side=long_side)
        parts = [
            best_iou(
                boxes[start : start + CHUNK],
                sizes[start : start + CHUNK],
                anchors,
                inside_only=inside_only,
                skip_padding=skip_padding,
            )
            for start in range(0, len(boxes), CHUNK)
        ]
        ious.append(torch.cat([*parts, torch.zeros(0)]).numpy())
        sides.append((boxes[:, 2:] - boxes[:, :2]).numpy())
    return AnchorFit(np.stack(ious), np.stack(sides))


def resize_truth(truth: GroundTruthBoxes, *, short_side: int, long_side: int) -> tuple[Tensor, Tensor]:
    """Resize boxes and images.

    Returns:
        Boxes (N, 4) float32, and (height, width) of their images (N, 2) float32, in canvas pixels.
    """
    known: dict[tuple[int, int], tuple[int, int]] = {}
    new_sizes = np.zeros((len(truth.sizes), 2))
    for row, (height, width) in enumerate(truth.sizes.astype(int).tolist()):
        if (height, width) not in known:
            known[height, width] = resized_size(height, width, short_side=short_side, long_side=long_side)
        new_sizes[row] = known[height, width]
    scale = (new_sizes / truth.sizes)[truth.rows]  # (N, 2): y, x
    boxes = truth.boxes * scale[:, [1, 0, 1, 0]]
    return torch.from_numpy(boxes).float(), torch.from_numpy(new_sizes[truth.rows]).float()


def best_iou(
    boxes: Tensor, sizes: Tensor, anchors: AnchorGenerator, *, inside_only: bool, skip_padding: bool
) -> Tensor:
    """IoU of each box with the best anchor of its image.

    Among the anchors of one shape, the best has the center nearest to the center of the box on each axis, because the
    overlap of two intervals does not grow with the distance of their centers. Therefore N * C pairs are compared
    instead of N times all anchors of an image.

    Args:
        boxes: (N, 4) in canvas pixels.
        sizes: (N, 2) (height, width) of the images.

    Returns:
        (N,) float32.
    """
    best = torch.zeros(len(boxes))
    canvas = (sizes / CANVAS_MULTIPLE).ceil() * CANVAS_MULTIPLE  # for a batch of one image
    for position, level_stride in enumerate(anchors.strides):
        map_size = (canvas / level_stride).ceil()
        stride = torch.full_like(canvas, level_stride) if anchors.strides_from == "level" else canvas // map_size
        for cell in anchors.get_buffer(f"cell_{position}"):
            low, high = torch.zeros_like(map_size), map_size - 1  # (N, 2): y, x
            near, far = cell[[1, 0]], cell[[3, 2]]
            middle = (near + far) / 2
            if skip_padding:
                high = high.minimum(((sizes - middle) / stride - anchors.shift).ceil() - 1)
            if inside_only:
                low = low.maximum((-near / stride - anchors.shift).ceil())
                high = high.minimum(((sizes - far) / stride - anchors.shift).floor())
            centres = ((boxes[:, :2] + boxes[:, 2:]) / 2).flip(1)  # (N, 2): y, x
            step = ((centres - middle) / stride - anchors.shift).round().maximum(low).minimum(high)
            origin = ((step + anchors.shift) * stride).flip(1).repeat(1, 2)  # (N, 4): x, y, x, y
            iou = box_ops.iou(boxes[:, None], (origin + cell)[:, None])[:, 0, 0]
            best = best.maximum(torch.where((low <= high).all(dim=1), iou, 0))
    return best


def recall_by_size(fit: AnchorFit) -> list[RecallGroup]:
    """Recall by the square root of the area in canvas pixels, for groups with boxes."""
    return _grouped(fit, np.sqrt(fit.sides.prod(axis=2)), SIZE_GROUPS)


def recall_by_ratio(fit: AnchorFit) -> list[RecallGroup]:
    """Recall by height / width, for groups with boxes."""
    return _grouped(fit, fit.sides[..., 1] / fit.sides[..., 0], RATIO_GROUPS)


def _grouped(fit: AnchorFit, values: np.ndarray, groups: Groups) -> list[RecallGroup]:
    group = np.digitize(values, groups.edges)
    recalls = []
    for place, name in enumerate(groups.names):
        iou = fit.iou[group == place]
        if iou.size:
            share = iou.size / fit.iou.size
            recalls.append(RecallGroup(name, share, float((iou >= 0.5).mean()), float((iou >= 0.7).mean())))
    return recalls
