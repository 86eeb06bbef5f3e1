"""Box arithmetic: xyxy with continuous edges, so the width is x2 - x1 without adding 1.

Functions work on the last axis, for (N, 4) and (B, N, 4) alike, and compute in float32 or wider, also under autocast.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

MAX_GROWTH = 1000 / 16
"""Upper limit of a decoded side in units of the reference's side (as in Detectron2 and torchvision)."""

UNIT_BOX = (0.0, 0.0, 1.0, 1.0)
"""Box in empty slots."""


def widen(tensor: Tensor) -> Tensor:
    """Convert to float32; wider types are unchanged."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def constant(values: Sequence[float], *, like: Tensor) -> Tensor:
    """A few numbers as a tensor (n,) with the type and device of `like`.

    `like.new_tensor` would copy them from the host, which is a host sync on a GPU.
    """
    return torch.stack([like.new_full((), value) for value in values])


def area(boxes: Tensor) -> Tensor:
    """Area of each box: (..., 4) -> (...)."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def intersection(boxes: Tensor, others: Tensor) -> Tensor:
    """Area shared by each pair of boxes: (..., N, 4) and (..., M, 4) -> (..., N, M)."""
    # The corners are not assigned to variables, which would keep them in memory while the sizes are clamped.
    size = (
        torch.minimum(boxes[..., :, None, 2:], others[..., None, :, 2:])
        - torch.maximum(boxes[..., :, None, :2], others[..., None, :, :2])
    ).clamp(min=0)  # (..., N, M, 2)
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
    """Deltas (dx, dy, dw, dh) that transform `references` into `boxes` (Girshick et al. 2014, appendix C).

    dx and dy are the shift of the center in units of the reference's size. dw and dh are the logarithms of the ratio of
    sizes. Each is multiplied by its weight.

    Args:
        boxes: (..., 4), with width and height above 0.
        references: (..., 4) anchors or proposals, with width and height above 0.
        weights: 1 / standard deviation of the targets.

    Returns:
        (..., 4) with the type of `boxes`.
    """
    size = boxes[..., 2:] - boxes[..., :2]
    centre = boxes[..., :2] + 0.5 * size
    reference_size = references[..., 2:] - references[..., :2]
    reference_centre = references[..., :2] + 0.5 * reference_size
    shift = (centre - reference_centre) / reference_size
    scale = torch.log(size / reference_size)
    return torch.cat([shift, scale], dim=-1) * constant(weights, like=boxes)


def decode(
    deltas: Tensor,
    references: Tensor,
    *,
    weights: tuple[float, float, float, float] = (1, 1, 1, 1),
    max_growth: float | None = MAX_GROWTH,
) -> Tensor:
    """Apply `deltas` to `references`, the inverse of `encode`: (..., 4) -> (..., 4) float32 or wider.

    dw and dh are clamped at log(max_growth), unless it is None.
    """
    deltas = widen(deltas)
    deltas = deltas / constant(weights, like=deltas)
    reference_size = references[..., 2:] - references[..., :2]
    reference_centre = references[..., :2] + 0.5 * reference_size
    centre = deltas[..., :2] * reference_size + reference_centre
    log_scale = deltas[..., 2:] if max_growth is None else deltas[..., 2:].clamp(max=math.log(max_growth))
    half_size = 0.5 * torch.exp(log_scale) * reference_size
    return torch.cat([centre - half_size, centre + half_size], dim=-1)


def clip(boxes: Tensor, image_sizes: Tensor) -> Tensor:
    """Clip boxes (B, N, 4) to images of (height, width) `image_sizes` (B, 2)."""
    height_width = image_sizes[:, None].to(boxes.dtype)  # (B, 1, 2)
    bound = height_width.flip(-1).repeat(1, 1, 2)  # (B, 1, 4): w, h, w, h
    return boxes.clamp(min=0).minimum(bound)


def move_far_corners(boxes: Tensor, amount: Tensor) -> Tensor:
    """Add `amount` (B,) to x2 and y2 of boxes (B, N, 4)."""
    return torch.cat([boxes[..., :2], boxes[..., 2:] + amount[:, None, None]], dim=-1)


def clip_whole_pixels(boxes: Tensor, image_sizes: Tensor, pixel: Tensor) -> Tensor:
    """`clip` for boxes of whole pixels: a box outside the image keeps the nearest row or column of pixels.

    Args:
        pixel: (B,) side length of a pixel.
    """
    size = image_sizes[:, None].flip(-1).to(boxes.dtype)  # (B, 1, 2): w, h
    pixel = pixel[:, None, None]
    near = boxes[..., :2].clamp(min=0).minimum(size - pixel)
    return torch.cat([near, boxes[..., 2:].maximum(pixel).minimum(size)], dim=-1)


def is_larger_than(boxes: Tensor, min_size: float | Tensor) -> Tensor:
    """Whether both sides of each box are at least `min_size`, and above 0: (..., 4) -> (...) bool."""
    side = (boxes[..., 2:] - boxes[..., :2]).amin(dim=-1)
    return (side >= min_size) & (side > 0)


def to_original(boxes: Tensor, image_sizes: Tensor, original_sizes: Tensor) -> Tensor:
    """Map boxes (B, N, 4) from resized to original images, and clip them.

    `image_sizes` and `original_sizes` are (B, 2) (height, width) after and before the resize. Each axis has its own
    scale, because sizes are rounded to whole pixels.
    """
    scale = (original_sizes / image_sizes).to(boxes.dtype).flip(-1).repeat(1, 2)[:, None]  # (B, 1, 4): w, h, w, h
    return clip(boxes * scale, original_sizes)


def gather_boxes(boxes: Tensor, index: Tensor) -> Tensor:
    """Select boxes (B, N, 4) by `index` (B, M) -> (B, M, 4)."""
    return boxes.gather(1, index[..., None].expand(-1, -1, 4))
