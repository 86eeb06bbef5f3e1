"""The box head: pooled regions to class logits and deltas (Girshick 2015, section 2).

N regions of all images together, S bins a side.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from frcnn.model.init import initialise
from frcnn.model.norm import norm_layer
from frcnn.ops.boxes import move_far_corners
from frcnn.ops.pixel_table import PixelTable, pixel_table
from frcnn.ops.roi_pooling import assign_levels, roi_align, roi_align_adaptive, roi_pool


class RoiPooling(nn.Module):
    """Pool regions from one map or from the right level of a pyramid.

    Args:
        kind: "roi_align" or "roi_pool".
        size: S.
        strides: of the maps that regions are pooled from, fine to coarse.
        sampling_ratio, aligned: see `ops.roi_pooling.roi_align`.
        canonical_size, canonical_level, level_rule: see `ops.roi_pooling.assign_levels`.
        plus_one: pool from the first to the last pixel of a box, not to its edge, as the Caffe code does.
    """

    def __init__(
        self,
        *,
        kind: str,
        size: int,
        strides: Sequence[int],
        sampling_ratio: int,
        aligned: bool,
        canonical_size: float,
        canonical_level: int,
        level_rule: str,
        plus_one: bool,
    ):
        super().__init__()
        self.kind = kind
        self.size = size
        self.strides = tuple(strides)
        self.sampling_ratio = sampling_ratio
        self.aligned = aligned
        self.canonical_size = canonical_size
        self.canonical_level = canonical_level
        self.level_rule = level_rule
        self.plus_one = plus_one

    @property
    def is_channels_last(self) -> bool:
        """Whether results are (N, S, S, C) in memory, as those of RoIAlign with a fixed number of samples."""
        return self.kind == "roi_align" and self.sampling_ratio > 0

    def forward(self, features: Sequence[Tensor], boxes: Tensor, table: PixelTable | None = None) -> Tensor:
        """(B, R, 4) boxes on the canvas -> (B*R, C, S, S). `table`: of the maps, where it has been made already."""
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


class ConvFcHead(nn.Module):
    """Optional 3x3 convolutions, then one or two fully connected layers: (N, C, S, S) -> (N, out_channels).

    Args:
        in_channels: C.
        size: S.
        channels: of the fully connected layers.
        num_convs: 3x3 convolutions of `in_channels` channels before them.
        num_fcs: 1 or 2.
        norm: "none", or "group" or "batch" norm after each convolution. Batch norm sees empty slots too, as regions of
            the upper left pixel; there are none where enough proposals are left to draw from.
        init: of the fully connected layers, see `initialise`.
    """

    def __init__(
        self, in_channels: int, *, size: int, channels: int, num_convs: int, num_fcs: int, norm: str, init: str
    ):
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(num_convs):
            layers.append(nn.Conv2d(in_channels, in_channels, 3, padding=1, bias=norm == "none"))
            if norm != "none":
                layers.append(norm_layer(norm, in_channels))
            layers.append(nn.ReLU(inplace=True))
        for layer in layers:
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
        self.convs = nn.Sequential(*layers)
        self.in_channels = in_channels
        self.fc6 = nn.Linear(in_channels * size * size, channels)
        initialise(self.fc6, init)
        self.fc7 = None
        if num_fcs == 2:
            self.fc7 = nn.Linear(channels, channels)
            initialise(self.fc7, init)
        self.out_channels = channels
        self.reads_channels_last = False

    def read_channels_last(self) -> None:
        """Reorder fc6's weights, for good, from (C, S, S) to the (S, S, C) in which regions come out of RoIAlign.

        Then no region need be copied into the other order. Not for training: the state dict is no longer the same.
        Once is enough; a second call does nothing.
        """
        if self.reads_channels_last:
            return
        weight = self.fc6.weight.unflatten(1, (self.in_channels, -1)).transpose(1, 2)  # (D, C, S*S) -> (D, S*S, C)
        self.fc6.weight = nn.Parameter(weight.flatten(1).detach(), requires_grad=self.fc6.weight.requires_grad)
        self.reads_channels_last = True

    def forward(self, pooled: Tensor) -> Tensor:
        pooled = self.convs(pooled)
        if self.reads_channels_last:
            pooled = pooled.permute(0, 2, 3, 1)  # (N, C, S, S) -> (N, S, S, C)
        hidden = F.relu(self.fc6(pooled.flatten(1)))  # (N, C*S*S) -> (N, channels)
        return hidden if self.fc7 is None else F.relu(self.fc7(hidden))


class BoxPredictor(nn.Module):
    """Class logits and deltas from a vector for each region.

    Args:
        in_channels: of the vector.
        num_classes: K.
        class_agnostic: one box for all classes instead of one each.
        init: "normal" with deviations 0.01 and 0.001 (Girshick 2015), or "pytorch".
    """

    def __init__(self, in_channels: int, *, num_classes: int, class_agnostic: bool, init: str):
        super().__init__()
        self.classes = nn.Linear(in_channels, num_classes + 1)
        self.deltas = nn.Linear(in_channels, 4 * (1 if class_agnostic else num_classes))
        if init == "normal":
            for layer, std in ((self.classes, 0.01), (self.deltas, 0.001)):
                nn.init.normal_(layer.weight, std=std)
                nn.init.zeros_(layer.bias)

    def forward(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """(N, in_channels) or (N, in_channels, h, w), averaged -> logits (N, K + 1), deltas (N, K or 1, 4)."""
        if hidden.dim() == 4:
            hidden = hidden.mean(dim=(2, 3))
        return self.classes(hidden), self.deltas(hidden).unflatten(1, (-1, 4))


class RoiHead(nn.Module):
    """Pooling, head and predictor: what every region of interest passes through.

    Args:
        pooling: features and boxes -> (N, C, S, S).
        head: (N, C, S, S) -> (N, D) or (N, D, h, w).
        predictor: -> logits and deltas.
    """

    def __init__(self, pooling: RoiPooling, head: nn.Module, predictor: BoxPredictor):
        super().__init__()
        self.pooling = pooling
        self.head = head
        self.predictor = predictor

    def forward(
        self, features: Sequence[Tensor], boxes: Tensor, table: PixelTable | None = None
    ) -> tuple[Tensor, Tensor]:
        """(B, R, 4) boxes on the canvas -> class_logits (B, R, K + 1), deltas (B, R, K or 1, 4); see `RoiPooling`."""
        class_logits, deltas = self.predictor(self.head(self.pooling(features, boxes, table)))
        shape = boxes.shape[:2]
        return class_logits.unflatten(0, shape), deltas.unflatten(0, shape)
