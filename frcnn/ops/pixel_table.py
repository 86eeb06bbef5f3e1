"""A pyramid of maps as one table with a row for each pixel."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class PixelTable(NamedTuple):
    """The pixels of L maps of B images: those of an image together, level after level, row by row.

    What reads single pixels of any level, as RoIAlign and the RPN at sampled anchors do, needs no loop over levels
    here; and where both read the same table, their gradients meet in one tensor.
    """

    rows: Tensor
    """(B * T, C), T = sum of Hl * Wl."""
    sizes: tuple[tuple[int, int], ...]
    """(Hl, Wl) of each level."""

    @property
    def starts(self) -> tuple[int, ...]:
        """Row of an image at which each level begins, and T at the end."""
        starts = [0]
        for height, width in self.sizes:
            starts.append(starts[-1] + height * width)
        return tuple(starts)


def pixel_table(features: Sequence[Tensor]) -> PixelTable:
    """Maps (B, C, Hl, Wl), one a level, as a table."""
    sizes = tuple((feature.shape[2], feature.shape[3]) for feature in features)
    return PixelTable(_Flattened.apply(*features), sizes)


class _Flattened(torch.autograd.Function):
    """Maps to rows. The gradient goes back as one tensor a map, laid out as the map is.

    PyTorch's own would be views of the table's, which then could not be given back before the last map is done with.
    """

    @staticmethod
    def forward(ctx, *features: Tensor) -> Tensor:
        ctx.shapes = [feature.shape for feature in features]
        is_channels_last = features[0].is_contiguous(memory_format=torch.channels_last)
        ctx.layout = torch.channels_last if is_channels_last else torch.contiguous_format
        # (B, C, Hl, Wl) -> (B, Hl*Wl, C), levels one after the other -> (B*T, C)
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
    """Of `values`, one a level, the one of each `level` (...): (...) int64 of integers, float32 of others."""
    dtype = torch.int64 if isinstance(values[0], int | torch.SymInt) else torch.float32
    chosen = torch.full_like(level, values[0], dtype=dtype)
    for position, value in enumerate(values[1:], start=1):
        chosen = torch.where(level == position, value, chosen)
    return chosen
