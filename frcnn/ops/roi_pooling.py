"""RoI pooling over one map or a pyramid: RoIPool (Girshick 2015) and RoIAlign (He et al. 2017).

Letters: N regions of all images together, C channels, S bins along each side of the result.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torchvision
from torch import Tensor
from torch.nn import functional as F

from frcnn.ops.boxes import widen
from frcnn.ops.pixel_table import PixelTable, of_level

PART = 64
"""Channels whose gradient the backward pass of RoIAlign copies at once."""


def assign_levels(
    boxes: Tensor,
    *,
    strides: Sequence[int],
    canonical_size: float = 224.0,
    canonical_level: int = 4,
    rule: str = "torchvision",
) -> Tensor:
    """The pyramid level each box is pooled from (Lin et al. 2017, equation 1).

    Level k = floor(canonical_level + log2(sqrt(area) / canonical_size)), clamped to the levels of the pyramid; level k
    has stride 2**k. The rule "torchvision" adds 1e-6 before the floor, so that boxes of exactly a power of two belong
    to the higher level despite rounding. "detectron2" adds 1e-8 to the quotient, "mmdetection" 2.5e-7.

    Args:
        boxes: (..., 4).
        strides: strides of the pooled maps; powers of two, each twice the previous one. If several maps have the same
            stride (torchvision's MobileNetV3 pyramid), the first of them is used.

    Returns:
        (...) int64 position in `strides`; 0 for a box without area.
    """
    finest, coarsest = strides[0].bit_length() - 1, strides[-1].bit_length() - 1
    side = ((boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])).sqrt()
    inner, outer = {"torchvision": (0.0, 1e-6), "detectron2": (1e-8, 0.0), "mmdetection": (2.5e-7, 0.0)}[rule]
    level = torch.floor(canonical_level + torch.log2(side / canonical_size + inner) + outer)
    return level.clamp(finest, coarsest).to(torch.int64) - finest


def roi_pool(features: Sequence[Tensor], rois: Tensor, level: Tensor, *, strides: Sequence[int], size: int) -> Tensor:
    """Maximum of each of S x S bins, after rounding corners to the grid of the map (Caffe's RoIPool).

    The arguments are the same as for `roi_align`, with maps (B, C, Hl, Wl) in place of the table.
    """

    def kernel(feature: Tensor, rois: Tensor, scale: float) -> Tensor:
        return torchvision.ops.roi_pool(widen(feature), rois, size, scale).to(feature.dtype)

    return _pool_each_level(kernel, features, rois, level, strides=strides)


def roi_align(
    table: PixelTable,
    rois: Tensor,
    level: Tensor,
    *,
    strides: Sequence[int],
    size: int,
    sampling_ratio: int,
    aligned: bool,
) -> Tensor:
    """Mean of a fixed number of bilinear samples in each of S x S bins.

    Args:
        table: the maps; maps after the last of `strides` are not read.
        rois: (N, 5) index of the image, then the box on the canvas.
        level: (N,) int64 index of the map that each region is pooled from.
        strides: canvas pixels between neighboring pixels of each map.
        size: S.
        sampling_ratio: samples per bin and axis, at least 1.
        aligned: shift by half a pixel, so that the value of a pixel is at its center. Otherwise, regions are at least
            one map pixel wide and high.

    Returns:
        (N, C, S, S) with the type of the maps, channels-last in memory. Samples more than a pixel outside the map are
        0.

    A bilinear sample is a weighted sum of four rows of the table, and a bin is a mean of samples, so all bins of all
    levels are one `embedding_bag`, without routing regions to levels. No gradient flows to `rois`.
    """
    height = of_level([size[0] for size in table.sizes], level)
    width = of_level([size[1] for size in table.sizes], level)
    # integers, because float32 is exact up to 2**24 only
    first_row = of_level(table.starts[:-1], level) + rois[:, 0].long() * table.starts[-1]
    grid = torch.stack([first_row, height, width], dim=1).to(torch.int32)
    scale = of_level([1 / stride for stride in strides], level)
    box = rois[:, 1:] * scale[:, None] - (0.5 if aligned else 0.0)
    sampling = Sampling(size, sampling_ratio, aligned)
    return _WeightedBag.apply(widen(table.rows), box, grid, sampling).to(table.rows.dtype)


def roi_align_adaptive(
    features: Sequence[Tensor], rois: Tensor, level: Tensor, *, strides: Sequence[int], size: int, aligned: bool
) -> Tensor:
    """`roi_align` with ceil(region / S) samples per bin and axis, from maps (B, C, Hl, Wl).

    The number of samples depends on the data, so this uses torchvision's kernel.
    """

    def kernel(feature: Tensor, rois: Tensor, scale: float) -> Tensor:
        return torchvision.ops.roi_align(widen(feature), rois, size, scale, 0, aligned).to(feature.dtype)

    return _pool_each_level(kernel, features, rois, level, strides=strides)


class Sampling(NamedTuple):
    """Positions of the samples in a region; see `roi_align`."""

    size: int
    ratio: int
    aligned: bool


class _WeightedBag(torch.autograd.Function):
    """Weighted sums of table rows whose backward pass is a weighted bag too.

    PyTorch's own dense backward pass adds row by row on one thread. Sorted by table row, the same sums are a bag of
    gradient rows for each table row, which uses all threads and a fixed order. Rows and weights are computed again in
    the backward pass and not stored.
    """

    @staticmethod
    def forward(ctx, table: Tensor, box: Tensor, grid: Tensor, sampling: Sampling) -> Tensor:
        """The bins of N regions.

        Args:
            table: (T, C).
            box: (N, 4) in pixels of each region's map.
            grid: (N, 3) int32 first row of that map in the table, its height and its width.

        Returns:
            (N, C, S, S), channels-last in memory.
        """
        ctx.save_for_backward(box, grid)
        ctx.sampling, ctx.shape, ctx.dtype = sampling, table.shape, table.dtype
        index, weight = _bins(box, grid, sampling)
        sums = F.embedding_bag(index, table, mode="sum", per_sample_weights=weight.to(table.dtype))  # (N*S*S, C)
        return sums.view(-1, sampling.size, sampling.size, table.shape[1]).permute(0, 3, 1, 2)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        box, grid = ctx.saved_tensors
        index, weight = _bins(box, grid, ctx.sampling)
        rows, channels = ctx.shape
        table_row, order = index.flatten().sort(stable=True)
        bag = order // index.shape[1]
        first = torch.searchsorted(table_row, torch.arange(rows, device=index.device))
        weight = weight.to(ctx.dtype).flatten()[order]
        del table_row, order, index
        gradient = gradient.permute(0, 2, 3, 1)  # -> (N, S, S, C)
        summed = gradient.new_empty(rows, channels)
        # The gradient needs another memory layout. A copy of all channels would be the memory peak of a step.
        for part in range(0, channels, PART):
            width = min(PART, channels - part)
            summed[:, part : part + width] = F.embedding_bag(
                bag,
                gradient[..., part : part + width].reshape(-1, width),
                offsets=first,
                mode="sum",
                per_sample_weights=weight,
            )
        return summed, None, None, None


def _bins(box: Tensor, grid: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """Table rows (int64) and weights of each bin: (N*S*S, k*k) each, with k = 2 * ratio."""
    first_row, height, width = grid.long().unbind(1)
    y, y_weight = _sample_axis(box[:, 1], box[:, 3], height, sampling)
    x, x_weight = _sample_axis(box[:, 0], box[:, 2], width, sampling)
    row = first_row[:, None, None] + y * width[:, None, None]
    return _all_pairs(row, x, torch.add), _all_pairs(y_weight, x_weight, torch.mul)


def _sample_axis(start: Tensor, end: Tensor, length: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """Pixels and weights of the bilinear samples along one axis.

    Takes start and end of the regions and the length (int64) of the map, each (N,). Returns pixels (N, S, 2*ratio)
    int64, those below and above each sample, and weights of the same shape. Inside the map the weights of a bin sum to
    1.
    """
    size, ratio, aligned = sampling
    extent = end - start if aligned else (end - start).clamp(min=1)
    extent = (extent / size)[:, None]  # size of one bin
    bins = torch.arange(size, device=start.device, dtype=start.dtype)
    samples = (torch.arange(ratio, device=start.device, dtype=start.dtype) + 0.5) / ratio
    position = (start[:, None] + bins * extent)[:, :, None] + (samples * extent)[:, None]
    position = position.flatten(1)  # (N, S*ratio)
    last = length[:, None] - 1
    is_inside = (position >= -1) & (position <= length[:, None])
    position = position.clamp(min=0).minimum(last)
    below = position.floor()
    fraction = position - below
    pixel = torch.stack([below, (below + 1).minimum(last)], dim=-1)  # (N, S*ratio, 2)
    weight = torch.stack([1 - fraction, fraction], dim=-1) * (is_inside / ratio)[..., None]
    return pixel.to(torch.int64).unflatten(1, (size, ratio)).flatten(2), weight.unflatten(1, (size, ratio)).flatten(2)


def _all_pairs(y: Tensor, x: Tensor, combine: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Combine y and x of each bin: (N, S, k) and (N, S, k) -> (N*S*S, k*k)."""
    # (N, S, 1, k, 1) with (N, 1, S, 1, k) -> (N, S, S, k, k)
    return combine(y[:, :, None, :, None], x[:, None, :, None, :]).flatten(0, 2).flatten(1)


def _pool_each_level(
    kernel: Callable[[Tensor, Tensor, float], Tensor],
    features: Sequence[Tensor],
    rois: Tensor,
    level: Tensor,
    *,
    strides: Sequence[int],
) -> Tensor:
    """Pool every region from every level, and select the result of its own level. Shapes are fixed.

    On other levels the region is pooled as a point, which costs little.
    """
    pooled = kernel(features[0], rois if len(features) == 1 else _only(rois, level == 0), 1 / strides[0])
    for position in range(1, len(features)):
        is_mine = level == position
        candidate = kernel(features[position], _only(rois, is_mine), 1 / strides[position])
        pooled = torch.where(is_mine[:, None, None, None], candidate, pooled)
    return pooled


def _only(rois: Tensor, keep: Tensor) -> Tensor:
    """Regions (N, 5); regions outside `keep` are shrunk to a point."""
    return torch.where(keep[:, None], rois, torch.cat([rois[:, :1], torch.zeros_like(rois[:, 1:])], dim=1))
