"""Anchors: boxes of fixed sizes and shapes, the references of the RPN (Ren et al. 2015, section 3.1.1)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def cell_anchors(sizes: Sequence[float], ratios: Sequence[float], *, rounding: str = "none") -> Tensor:
    """Anchors around the origin, one for each ratio and size: (len(ratios) * len(sizes), 4) float32.

    The area of an anchor is size**2, and its ratio is height / width. Ratios vary slowest.

    Args:
        sizes: square roots of the areas in pixels.
        ratios: height / width.
        rounding: "none", "torchvision" or "caffe". "torchvision" rounds half widths and half heights to whole pixels.
            "caffe" rounds, for each ratio, the width of the anchor of size 16 and then its height to whole pixels
            (halves to even), and scales both up (py-faster-rcnn's generate_anchors).

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
    """Anchors at every position of every level.

    Args:
        sizes: for each level, square roots of the areas of its anchors in canvas pixels.
        ratios: height / width, the same on every level.
        strides: canvas pixels between neighboring positions of each level.
        rounding: see `cell_anchors`.
        centre: "corner" or "middle", the point of a position on which its anchors are centered.
        strides_from: "level" places anchors `strides` apart. "canvas" computes the distance as canvas // map size on
            each axis, as torchvision does; the result is the same if the canvas is a multiple of the stride.

    Position (i, j) of a level covers pixels from (stride * j, stride * i). Its anchors are centered on this corner, or
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
        self.sizes = [list(level) for level in sizes]
        self.strides = tuple(strides)
        self.shift = 0.5 if centre == "middle" else 0.0
        self.strides_from = strides_from
        self.num_anchors = len(sizes[0]) * len(ratios)
        for position, level in enumerate(sizes):
            # Not in state dicts, because the config determines them.
            self.register_buffer(f"cell_{position}", cell_anchors(level, ratios, rounding=rounding), persistent=False)

    def forward(self, map_sizes: Sequence[tuple[int, int]], canvas_size: Sequence[int]) -> Tensor:
        """Anchors of all levels, fine to coarse, row by row; the k anchors of a position are adjacent.

        Args:
            map_sizes: (height, width) of each level's map.
            canvas_size: (height, width) of the padded batch.

        Returns:
            (A, 4) float32, shared by all images of the batch. Anchors may extend beyond the canvas.
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

    def per_level(self, map_sizes: Sequence[tuple[int, int]]) -> list[int]:
        """Number of anchors of each level; their sum is A."""
        return [height * width * self.num_anchors for height, width in map_sizes]

    def positions(self, map_sizes: Sequence[tuple[int, int]]) -> Tensor:
        """A number for each anchor, made of its level, row, column and shape. It does not depend on the canvas.

        Args:
            map_sizes: (height, width) of each level's map.

        Returns:
            (A,) int64, unique, in the order of `forward`.
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
