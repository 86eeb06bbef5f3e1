"""Pool the features of regions of interest."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from frcnn.ops.boxes import move_far_corners
from frcnn.ops.pixel_table import PixelTable, pixel_table
from frcnn.ops.roi_pooling import assign_levels, roi_align, roi_align_adaptive, roi_pool


@dataclass(frozen=True, kw_only=True)
class RoiPooling:
    """Pool regions from a single map, or from the level of a pyramid that fits their size."""

    kind: str
    """"roi_align" or "roi_pool"."""
    size: int
    """S."""
    strides: tuple[int, ...]
    """Strides of the maps that regions are pooled from, fine to coarse."""
    sampling_ratio: int
    """See `ops.roi_pooling.roi_align`; 0 for `roi_align_adaptive`."""
    aligned: bool
    """See `ops.roi_pooling.roi_align`."""
    canonical_size: float
    """See `ops.roi_pooling.assign_levels`, also for the next two."""
    canonical_level: int
    level_rule: str
    plus_one: bool
    """Pool from the first to the last pixel of a box and not to its edge, as the Caffe code does."""

    @property
    def is_channels_last(self) -> bool:
        """Whether results are (N, S, S, C) in memory: true for RoIAlign with a fixed number of samples."""
        return self.kind == "roi_align" and self.sampling_ratio > 0

    def __call__(self, features: Sequence[Tensor], boxes: Tensor, table: PixelTable | None = None) -> Tensor:
        """Boxes (B, R, 4) on the canvas -> (B*R, C, S, S). `table`: the maps as a table, if there is one already."""
        batch, count = boxes.shape[:2]
        if self.plus_one:
            boxes = move_far_corners(boxes, -boxes.new_ones(batch))
        image = torch.arange(batch, device=boxes.device, dtype=boxes.dtype)[:, None, None].expand(batch, count, 1)
        rois = torch.cat([image, boxes], dim=2).flatten(0, 1)  # (B, R, 5) -> (B*R, 5)
        level = assign_levels(
            rois[:, 1:],
            strides=self.strides,
            canonical_size=self.canonical_size,
            canonical_level=self.canonical_level,
            rule=self.level_rule,
        )
        settings = {"strides": self.strides, "size": self.size}
        if self.is_channels_last:
            table = pixel_table(features) if table is None else table
            return roi_align(table, rois, level, sampling_ratio=self.sampling_ratio, aligned=self.aligned, **settings)
        features = features[: len(self.strides)]
        if self.kind == "roi_align":
            return roi_align_adaptive(features, rois, level, aligned=self.aligned, **settings)
        return roi_pool(features, rois, level, **settings)
