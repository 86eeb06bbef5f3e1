"""How well the configured anchors fit the ground truth.

Letters: N boxes, L levels, k shapes a level, C = L * k shapes in all.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from frcnn.data.augment.resize import resized_size
from frcnn.data.batching import CANVAS_MULTIPLE
from frcnn.model.rpn.anchors import AnchorGenerator
from frcnn.ops import boxes as box_ops

CHUNK = 1 << 15
"""Boxes that are compared with the anchors at once."""
SIZE_EDGES = (16, 32, 64, 128, 256, 512)
"""Borders between the groups of sizes: square roots of areas in pixels of the canvas."""
RATIO_EDGES = (1 / 3, 1 / 2, 3 / 4, 4 / 3, 2, 3)
"""Borders between the groups of ratios, height / width."""


class GroundTruthBoxes(NamedTuple):
    """The N boxes of a split, in pixels of their original images."""

    boxes: np.ndarray
    """(N, 4) xyxy, all with area."""
    rows: np.ndarray
    """(N,) position of the image in `sizes`."""
    sizes: np.ndarray
    """(M, 2) (height, width) of the images."""


class AnchorFit(NamedTuple):
    """The best anchor of each box, at each of the S short sides."""

    iou: np.ndarray
    """(S, N) float32."""
    sides: np.ndarray
    """(S, N, 2) float32 width and height of the boxes on the canvas."""

    def recall(self, threshold: float) -> float:
        """Share of the boxes whose best anchor has at least this IoU, over all short sides; NaN without boxes."""
        return float((self.iou >= threshold).mean()) if self.iou.size else math.nan

    def missed(self, threshold: float) -> np.ndarray:
        """(N,) bool: at no short side does an anchor reach this IoU."""
        return self.iou.max(axis=0) < threshold


class RecallGroup(NamedTuple):
    """Recall of the boxes of some size or ratio."""

    name: str
    share: float
    """Of all boxes."""
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
    """Resize all images to each of `short_sides` and find the best anchor of every box.

    Args:
        anchors: on the CPU.
        inside_only, skip_padding: which anchors are trained on, see `model.matching.is_on_image`.
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
    """Boxes (N, 4) float32 and the (height, width) of their images (N, 2) float32, both after the resize."""
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
    """IoU of each box with the best anchor of its image: (N, 4) and (N, 2) (height, width) -> (N,).

    Of the anchors of one shape the best is the one whose centre lies nearest to that of the box, on each axis for
    itself: the overlap of two intervals never grows with the distance of their centres. So N * C pairs are compared,
    not N times all anchors of an image.
    """
    best = torch.zeros(len(boxes))
    canvas = (sizes / CANVAS_MULTIPLE).ceil() * CANVAS_MULTIPLE  # of a batch of this image alone
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
    """Recall of the boxes by the square root of their area on the canvas; groups without boxes are left out."""
    sizes = np.sqrt(fit.sides.prod(axis=2))
    return _grouped(fit, sizes, SIZE_EDGES, [f"{edge:g}" for edge in SIZE_EDGES])


def recall_by_ratio(fit: AnchorFit) -> list[RecallGroup]:
    """Recall of the boxes by height / width; groups without boxes are left out."""
    names = ["1/3", "1/2", "3/4", "4/3", "2", "3"]
    return _grouped(fit, fit.sides[..., 1] / fit.sides[..., 0], RATIO_EDGES, names)


def group_names(names: Sequence[str]) -> list[str]:
    """Names of the groups between borders.

    >>> group_names(["16", "32"])
    ['below 16', '16 to 32', 'from 32']
    """
    inner = [f"{low} to {high}" for low, high in zip(names, names[1:], strict=False)]
    return [f"below {names[0]}", *inner, f"from {names[-1]}"]


def _grouped(fit: AnchorFit, values: np.ndarray, edges: Sequence[float], names: Sequence[str]) -> list[RecallGroup]:
    group = np.digitize(values, edges)
    groups = []
    for place, name in enumerate(group_names(names)):
        iou = fit.iou[group == place]
        if iou.size:
            share = iou.size / fit.iou.size
            groups.append(RecallGroup(name, share, float((iou >= 0.5).mean()), float((iou >= 0.7).mean())))
    return groups
