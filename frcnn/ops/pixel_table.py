"""A pyramid of maps as one table with a row per pixel."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class PixelTable(NamedTuple):
    """The pixels of L maps of B images, ordered by image, level, row and column.

    RoIAlign and the RPN at sampled anchors read single pixels of any level, and need no loop over levels with this
    table. If both read the same table, their gradients are added in one tensor.
    """

    rows: Tensor
    """(B * T, C), T = sum of Hl * Wl."""
    sizes: tuple[tuple[int, int], ...]
    """(Hl, Wl) of each level."""

    @property
    def starts(self) -> tuple[int, ...]:
        """First row of each level within an image, then T: L + 1 numbers."""
        starts = [0]
        for height, width in self.sizes:
            starts.append(starts[-1] + height * width)
        return tuple(starts)


def map_sizes(features: Sequence[Tensor]) -> tuple[tuple[int, int], ...]:
    """(height, width) of each map (B, C, Hl, Wl)."""
    return tuple((feature.shape[2], feature.shape[3]) for feature in features)


def pixel_table(features: Sequence[Tensor]) -> PixelTable:
    """Maps (B, C, Hl, Wl), one per level, as a table."""
    return PixelTable(_Flattened.apply(*features), map_sizes(features))


def cut_out(table: PixelTable, position: Tensor, *, reach: int) -> tuple[Tensor, Tensor]:
    """Squares of pixels around some positions of a pyramid.

    Args:
        position: (B, S) int64 row of the table, counted within the image.
        reach: pixels on each side of a position.

    Returns:
        (B*S, w, w, C) with w = 2 * reach + 1, 0 off the map; (B*S, w, w) bool, whether a pixel is on the map.
    """
    level = torch.zeros_like(position)
    for start in table.starts[1:-1]:
        level += position >= start
    start = of_level(table.starts[:-1], level)
    height = of_level([size[0] for size in table.sizes], level)
    width = of_level([size[1] for size in table.sizes], level)
    offset = torch.arange(-reach, reach + 1, device=position.device)
    y = ((position - start) // width)[..., None] + offset  # (B, S, w)
    x = ((position - start) % width)[..., None] + offset
    is_on_map = ((y >= 0) & (y < height[..., None]))[..., None] & ((x >= 0) & (x < width[..., None]))[..., None, :]
    row = (start[..., None] + y * width[..., None])[..., None] + x[..., None, :]  # (B, S, w, w)
    image = torch.arange(len(row), device=row.device)[:, None, None, None]
    row = torch.where(is_on_map, row, 0) + image * table.starts[-1]
    pixels = table.rows.index_select(0, row.flatten()).view(-1, *row.shape[2:], table.rows.shape[1])
    is_on_map = is_on_map.flatten(0, 1)
    return torch.where(is_on_map[..., None], pixels, 0), is_on_map


class _Flattened(torch.autograd.Function):
    """Maps to rows. The gradient of each map is a tensor of its own, in the memory layout of the map.

    PyTorch's own backward pass would return views, which keep the gradient of the whole table in memory until the last
    map is processed.
    """

    @staticmethod
    def forward(ctx, *features: Tensor) -> Tensor:
        ctx.shapes = [feature.shape for feature in features]
        is_channels_last = features[0].is_contiguous(memory_format=torch.channels_last)
        ctx.layout = torch.channels_last if is_channels_last else torch.contiguous_format
        # (B, C, Hl, Wl) -> (B, Hl*Wl, C), levels concatenated -> (B*T, C)
        return torch.cat([feature.flatten(2).transpose(1, 2) for feature in features], dim=1).flatten(0, 1)

    @staticmethod
    def backward(ctx, gradient: Tensor):  # type: ignore[override]
        batch, channels = ctx.shapes[0][:2]
        of_levels = gradient.view(batch, -1, channels).split([h * w for _, _, h, w in ctx.shapes], dim=1)
        return tuple(
            part.transpose(1, 2).unflatten(2, shape[2:]).contiguous(memory_format=ctx.layout)
            for part, shape in zip(of_levels, ctx.shapes, strict=True)
        )


def of_level(values: Sequence[float], level: Tensor) -> Tensor:
    """The element of `values` (one per level) for each `level` (...): int64 for integers, float32 for others."""
    dtype = torch.int64 if isinstance(values[0], int | torch.SymInt) else torch.float32
    chosen = torch.full_like(level, values[0], dtype=dtype)
    for position, value in enumerate(values[1:], start=1):
        chosen = torch.where(level == position, value, chosen)
    return chosen
