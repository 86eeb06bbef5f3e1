"""Anchors: the boxes of fixed sizes and shapes that the RPN starts from (Ren et al. 2015, section 3.1.1)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def cell_anchors(sizes: Sequence[float], ratios: Sequence[float], *, rounding: str = "none") -> Tensor:
    """Anchors around the origin, one for each ratio and size: (len(ratios) * len(sizes), 4) float32.

    All anchors of one size have the area size**2; a ratio is height / width. Ratios vary slowest.

    Args:
        rounding: "torchvision" rounds half widths and half heights to whole pixels. "caffe" rounds, for each ratio, the
            width of the anchor of size 16 to whole pixels, then the height that goes with it, halves to even, and
            scales both up (py-faster-rcnn's generate_anchors).

    >>> cell_anchors([16.0], [1.0])
    tensor([[-8., -8.,  8.,  8.]])
    >>> cell_anchors([128.0], [0.5], rounding="caffe")  # 184 x 96, as 23 x 12 at size 16
    tensor([[-92., -48.,  92.,  48.]])
    """
    size = torch.tensor(sizes, dtype=torch.float32)
    ratio = torch.tensor(ratios, dtype=torch.float32)[:, None]
    if rounding == "caffe":
        rounded_width = (256 / ratio).sqrt().round()
        height = ((rounded_width * ratio).round() * size / 16).flatten()
        width = (rounded_width * size / 16).flatten()
    else:
        height = (ratio.sqrt() * size).flatten()
        width = (1 / ratio.sqrt() * size).flatten()
    anchors = torch.stack([-width, -height, width, height], dim=1) / 2
    return anchors.round() if rounding == "torchvision" else anchors


class AnchorGenerator(nn.Module):
    """The anchors of every position of every level.

    Args:
        sizes: for each level, square roots of the anchors' areas in canvas pixels.
        ratios: height / width, the same on every level.
        strides: canvas pixels between neighbours on each level.
        rounding: see `cell_anchors`.
        centre: "corner" or "middle" of a position.
        strides_from: "level" places anchors `strides` apart; "canvas" derives the distance as canvas // map size in
            each axis, as torchvision does (the same wherever the canvas is a multiple of the stride).

    Position (i, j) of a level covers the pixels from (stride * j, stride * i) on; its anchors are centred there, or
    half a stride further.
    """

    def __init__(
        self,
        *,
        sizes: Sequence[Sequence[float]],
        ratios: Sequence[float],
        strides: Sequence[int],
        rounding: str = "none",
        centre: str = "corner",
        strides_from: str = "level",
    ):
        super().__init__()
        if len(sizes) != len(strides):
            raise ValueError(f"{len(sizes)} lists of anchor sizes for {len(strides)} levels")
        if len({len(level) for level in sizes}) != 1:
            raise ValueError("every level needs the same number of anchor sizes")
        self.strides = tuple(strides)
        self.shift = 0.5 if centre == "middle" else 0.0
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
            y = (torch.arange(height, device=cell.device, dtype=cell.dtype) + self.shift) * stride_y
            x = (torch.arange(width, device=cell.device, dtype=cell.dtype) + self.shift) * stride_x
            centre_y, centre_x = torch.meshgrid(y, x, indexing="ij")
            centre = torch.stack([centre_x, centre_y, centre_x, centre_y], dim=-1)  # (H, W, 4)
            levels.append((centre[:, :, None] + cell).reshape(-1, 4))  # (H, W, k, 4) -> (H*W*k, 4)
        return torch.cat(levels)

    def positions(self, map_sizes: Sequence[tuple[int, int]]) -> Tensor:
        """A number for each anchor made of its level, row, column and shape, the same on every canvas.

        Args:
            map_sizes: (height, width) of each level's map.

        Returns:
            (A,) int64, all different, in the order of `forward`.
        """
        device = self.get_buffer("cell_0").device
        shape = torch.arange(self.num_anchors, device=device)
        levels = []
        for level, (height, width) in enumerate(map_sizes):
            row = torch.arange(height, device=device)[:, None, None]
            column = torch.arange(width, device=device)[:, None]
            number = ((level * 2**16 + row) * 2**16 + column) * self.num_anchors + shape
            levels.append(number.flatten())  # (H, W, k) -> (H*W*k)
        return torch.cat(levels)
