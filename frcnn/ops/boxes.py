"""Arithmetic of boxes: xyxy with continuous edges, so width is x2 - x1 and no 1 is added anywhere.

Every function is written on the last axis, so that (N, 4) and (B, N, 4) share it, and computes in float32 or wider
whatever autocast says.
"""

import math

import torch
from torch import Tensor

MAX_LOG_SCALE = math.log(1000 / 16)
"""Bound of dw and dh before exp: a box grows by at most a factor 62.5 (the clamp of Detectron2 and torchvision)."""


def widen(tensor: Tensor) -> Tensor:
    """The tensor in float32, or as it is if it is wider."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def area(boxes: Tensor) -> Tensor:
    """Area of each box: (..., 4) -> (...)."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def intersection(boxes: Tensor, others: Tensor) -> Tensor:
    """Area shared by each pair of boxes: (..., N, 4) and (..., M, 4) -> (..., N, M)."""
    top_left = torch.maximum(boxes[..., :, None, :2], others[..., None, :, :2])
    bottom_right = torch.minimum(boxes[..., :, None, 2:], others[..., None, :, 2:])
    size = (bottom_right - top_left).clamp(min=0)  # (..., N, M, 2)
    return size[..., 0] * size[..., 1]


def iou(boxes: Tensor, others: Tensor) -> Tensor:
    """Intersection over union of each pair: (..., N, 4) and (..., M, 4) -> (..., N, M) in 0..1.

    Two boxes without area have IoU 0, never NaN.
    """
    shared = intersection(boxes, others)
    union = area(boxes)[..., :, None] + area(others)[..., None, :] - shared
    return torch.where(union > 0, shared / torch.where(union > 0, union, 1), 0)


def coverage(boxes: Tensor, regions: Tensor) -> Tensor:
    """Share of each box's area that lies in each region: (..., N, 4) and (..., M, 4) -> (..., N, M) in 0..1."""
    own = area(boxes)[..., :, None]
    return torch.where(own > 0, intersection(boxes, regions) / torch.where(own > 0, own, 1), 0)


def encode(boxes: Tensor, references: Tensor, *, weights: tuple[float, float, float, float] = (1, 1, 1, 1)) -> Tensor:
    """Deltas (dx, dy, dw, dh) that carry `references` to `boxes` (Girshick et al. 2014, appendix C).

    dx and dy are the shift of the centre in units of the reference's size, dw and dh logarithms of the ratio of sizes;
    each is multiplied by its weight.

    Args:
        boxes: (..., 4); both sides must have width and height above 0.
        references: (..., 4) anchors or proposals.
        weights: 1 / standard deviation of the targets.

    Returns:
        (..., 4) of the type of `boxes`.
    """
    size = boxes[..., 2:] - boxes[..., :2]
    centre = boxes[..., :2] + 0.5 * size
    reference_size = references[..., 2:] - references[..., :2]
    reference_centre = references[..., :2] + 0.5 * reference_size
    shift = (centre - reference_centre) / reference_size
    scale = torch.log(size / reference_size)
    return torch.cat([shift, scale], dim=-1) * boxes.new_tensor(weights)


def decode(deltas: Tensor, references: Tensor, *, weights: tuple[float, float, float, float] = (1, 1, 1, 1)) -> Tensor:
    """The boxes to which `deltas` carry `references`: the inverse of `encode`, (..., 4) -> (..., 4) float32 or wider.

    dw and dh are clamped at log(1000 / 16).
    """
    deltas = widen(deltas)
    deltas = deltas / deltas.new_tensor(weights)
    reference_size = references[..., 2:] - references[..., :2]
    reference_centre = references[..., :2] + 0.5 * reference_size
    centre = deltas[..., :2] * reference_size + reference_centre
    half_size = 0.5 * torch.exp(deltas[..., 2:].clamp(max=MAX_LOG_SCALE)) * reference_size
    return torch.cat([centre - half_size, centre + half_size], dim=-1)


def clip(boxes: Tensor, image_sizes: Tensor) -> Tensor:
    """Cut boxes (B, N, 4) at the borders of images of (height, width) `image_sizes` (B, 2)."""
    height_width = image_sizes[:, None].to(boxes.dtype)  # (B, 1, 2)
    bound = height_width.flip(-1).repeat(1, 1, 2)  # (B, 1, 4): w, h, w, h
    return boxes.clamp(min=0).minimum(bound)


def is_larger_than(boxes: Tensor, min_size: float) -> Tensor:
    """Whether both sides of each box are at least `min_size`: (..., 4) -> (...) bool."""
    return ((boxes[..., 2:] - boxes[..., :2]) >= min_size).all(dim=-1)


def to_original(boxes: Tensor, image_sizes: Tensor, original_sizes: Tensor) -> Tensor:
    """Map boxes (B, N, 4) from resized images to the original ones, clipped to them.

    `image_sizes` and `original_sizes` are (B, 2) (height, width) after and before the resize; each axis has its own
    scale, as rounding to whole pixels makes them differ.
    """
    scale = (original_sizes / image_sizes).to(boxes.dtype).flip(-1).repeat(1, 2)[:, None]  # (B, 1, 4): w, h, w, h
    return clip(boxes * scale, original_sizes)


def gather_boxes(boxes: Tensor, index: Tensor) -> Tensor:
    """Pick boxes (B, N, 4) by `index` (B, M) -> (B, M, 4)."""
    return boxes.gather(1, index[..., None].expand(-1, -1, 4))
