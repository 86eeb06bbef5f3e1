"""Anchors: the boxes of fixed sizes and shapes that the RPN starts from (Ren et al. 2015, section 3.1.1)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def cell_anchors(sizes: Sequence[float], ratios: Sequence[float], *, rounding: str = "none") -> Tensor:
    """Anchors around the origin, one for each ratio and size: (len(ratios) * len(sizes), 4) float32.

    All anchors of one size have the area size**2; a ratio is height / width. Ratios vary slowest. With rounding
    "torchvision" half widths and half heights are rounded to whole pixels.

    >>> cell_anchors([16.0], [1.0])
    tensor([[-8., -8.,  8.,  8.]])
    """
    size = torch.tensor(sizes, dtype=torch.float32)
    height_factor = torch.tensor(ratios, dtype=torch.float32).sqrt()[:, None]
    height = (height_factor * size).flatten()
    width = (1 / height_factor * size).flatten()
    anchors = torch.stack([-width, -height, width, height], dim=1) / 2
    return anchors.round() if rounding == "torchvision" else anchors


class AnchorGenerator(nn.Module):
    """The anchors of every position of every level.

    Args:
        sizes: for each level, square roots of the anchors' areas in canvas pixels.
        ratios: height / width, the same on every level.
        strides: canvas pixels between neighbours on each level.
        rounding: see `cell_anchors`.
        strides_from: "level" places anchors `strides` apart; "canvas" derives the distance as canvas // map size in
            each axis, as torchvision does (the same wherever the canvas is a multiple of the stride).

    An anchor is centred on the upper left corner of its position: level k's position (i, j) has its centre at
    (stride * j, stride * i).
    """

    def __init__(
        self,
        *,
        sizes: Sequence[Sequence[float]],
        ratios: Sequence[float],
        strides: Sequence[int],
        rounding: str = "none",
        strides_from: str = "level",
    ):
        super().__init__()
        if len(sizes) != len(strides):
            raise ValueError(f"{len(sizes)} lists of anchor sizes for {len(strides)} levels")
        if len({len(level) for level in sizes}) != 1:
            raise ValueError("every level needs the same number of anchor sizes")
        self.strides = tuple(strides)
        self.strides_from = strides_from
        self.num_anchors = len(sizes[0]) * len(ratios)
        for position, level in enumerate(sizes):
            # Not in state dicts: they follow from the config.
            self.register_buffer(f"cell_{position}", cell_anchors(level, ratios, rounding=rounding), persistent=False)

    def forward(self, map_sizes: Sequence[tuple[int, int]], canvas_size: tuple[int, int]) -> Tensor:
        """Anchors of all levels, fine to coarse, row by row, the shapes of a position next to each other.

        Args:
            map_sizes: (height, width) of each level's map.
            canvas_size: (height, width) of the padded batch.

        Returns:
            (A, 4) float32, shared by all images of the batch; they may reach over its borders.
        """
        levels = []
        for position, (height, width) in enumerate(map_sizes):
            cell = self.get_buffer(f"cell_{position}")
            if self.strides_from == "canvas":
                stride_y, stride_x = canvas_size[0] // height, canvas_size[1] // width
            else:
                stride_y = stride_x = self.strides[position]
            y = torch.arange(height, device=cell.device, dtype=cell.dtype) * stride_y
            x = torch.arange(width, device=cell.device, dtype=cell.dtype) * stride_x
            centre_y, centre_x = torch.meshgrid(y, x, indexing="ij")
            centre = torch.stack([centre_x, centre_y, centre_x, centre_y], dim=-1)  # (H, W, 4)
            levels.append((centre[:, :, None] + cell).reshape(-1, 4))  # (H, W, k, 4) -> (H*W*k, 4)
        return torch.cat(levels)
