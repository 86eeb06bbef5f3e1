"""The layers of the region proposal network (Ren et al. 2015, section 3.1).

k anchors at each position; A = sum over levels of Hl * Wl * k.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from frcnn.ops import boxes as box_ops
from frcnn.ops.pixel_table import PixelTable, cut_out
from frcnn.structures import RpnOutput


class RpnHead(nn.Module):
    """3x3 convolutions, then objectness and deltas of k anchors at every position; all levels share the weights.

    With "softmax" each anchor has two logits, background and object, as in the paper. Its objectness is their
    difference. The sigmoid of the difference is the softmax of the two logits, so losses and gradients are the same.

    Args:
        in_channels: channels of the maps.
        channels: channels of the 3x3 convolutions; None uses `in_channels`.
        num_anchors: k.
        num_convs: number of 3x3 convolutions, each followed by ReLU.
        objectness: "sigmoid" or "softmax".
    """

    def __init__(
        self,
        in_channels: int,
        *,
        channels: int | None,
        num_anchors: int,
        num_convs: int = 1,
        objectness: str = "sigmoid",
    ):
        super().__init__()
        channels = channels or in_channels
        widths = [in_channels, *[channels] * num_convs]
        self.convs = nn.ModuleList(nn.Conv2d(before, after, 3, padding=1) for before, after in pairwise(widths))
        self.num_anchors = num_anchors
        self.num_logits = 2 if objectness == "softmax" else 1
        self.objectness = nn.Conv2d(channels, num_anchors * self.num_logits, 1)
        self.deltas = nn.Conv2d(channels, num_anchors * 4, 1)
        for layer in (*self.convs, self.objectness, self.deltas):
            assert isinstance(layer, nn.Conv2d) and layer.bias is not None
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)

    def forward(self, features: Sequence[Tensor]) -> RpnOutput:
        """Maps (B, C, Hl, Wl) -> objectness (B, A) and deltas (B, A, 4) of all anchors."""
        objectness, deltas = [], []
        for feature in features:
            hidden = feature
            for conv in self.convs:
                hidden = F.relu(conv(hidden))
            logits = self.objectness(hidden).permute(0, 2, 3, 1).flatten(1)  # (B, k, H, W) -> (B, H*W*k)
            objectness.append(self._objectness_of(logits))
            # (B, k*4, H, W) -> (B, H, W, k*4) -> (B, H*W*k, 4)
            deltas.append(self.deltas(hidden).permute(0, 2, 3, 1).reshape(len(feature), -1, 4))
        return RpnOutput(box_ops.widen(torch.cat(objectness, dim=1)), box_ops.widen(torch.cat(deltas, dim=1)))

    @property
    def positions_seen(self) -> float:
        """Positions that a convolution computes for one anchor in `at`, on average: 1 for one, (9 + 1) / 2 for two."""
        return sum((2 * step + 1) ** 2 for step in range(len(self.convs))) / max(1, len(self.convs))

    def at(self, table: PixelTable, index: Tensor) -> RpnOutput:
        """Outputs of `forward` for some anchors, computed only from the pixels that they depend on.

        1. Cut out the pixels that each anchor's position depends on: 3x3 for one convolution, 5x5 for two.
        2. Convolve the squares without padding. Positions off the map are set to 0 before each convolution, which is
           what padding does.
        3. Select the anchor among the k anchors of the remaining position.

        The losses need a few hundred of tens of thousands of anchors, and the backward pass covers these squares only.

        Args:
            table: the maps.
            index: (B, S) int64 into A.

        Returns:
            objectness (B, S), deltas (B, S, 4).
        """
        reach = len(self.convs)
        pixels, is_on_map = cut_out(table, index // self.num_anchors, reach=reach)
        hidden = pixels.permute(0, 3, 1, 2)  # (N, w, w, C) -> (N, C, w, w), N = B*S, w = 2*reach + 1
        for step, conv in enumerate(self.convs, start=1):
            assert isinstance(conv, nn.Conv2d)
            hidden = F.relu(F.conv2d(hidden, conv.weight, conv.bias))
            if step < reach:
                hidden = torch.where(is_on_map[:, None, step:-step, step:-step], hidden, 0)
        shape = index.flatten() % self.num_anchors
        logits = self._objectness_of(self.objectness(hidden).flatten(1))  # (N, k * num_logits, 1, 1) -> (N, k)
        deltas = self.deltas(hidden).view(-1, self.num_anchors, 4)  # (N, k*4, 1, 1) -> (N, k, 4)
        logits = logits.gather(1, shape[:, None]).view(index.shape)
        deltas = deltas.gather(1, shape[:, None, None].expand(-1, 1, 4)).view(*index.shape, 4)
        return RpnOutput(box_ops.widen(logits), box_ops.widen(deltas))

    def _objectness_of(self, logits: Tensor) -> Tensor:
        """One logit per anchor: (N, M * num_logits) -> (N, M)."""
        if self.num_logits == 1:
            return logits
        background, foreground = logits.unflatten(1, (-1, 2)).unbind(2)
        return foreground - background
