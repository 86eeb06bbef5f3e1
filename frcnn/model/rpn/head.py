"""Region proposal network (Ren et al. 2015, section 3.1): head and proposals.

k anchors at each position; A = sum over levels of Hl * Wl * k.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from frcnn.model.matching import is_on_image
from frcnn.ops import boxes as box_ops
from frcnn.ops.nms import nms
from frcnn.ops.pixel_table import PixelTable, of_level
from frcnn.structures import Proposals, RpnOutput


class RpnHead(nn.Module):
    """3x3 convolutions, then objectness and deltas of k anchors at every position, shared by all levels.

    With "softmax" each anchor has a logit for background and one for object, side by side, as in the paper. Its
    objectness is their difference: the sigmoid of that is the softmax of the two, and so are the losses and gradients.

    Args:
        in_channels: of the maps.
        channels: of the 3x3 convolutions; None keeps `in_channels`.
        num_convs: 3x3 convolutions, each with ReLU.
        num_anchors: k.
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
        """Of every anchor: objectness (B, A), deltas (B, A, 4)."""
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
        """Of a convolution on average, for one anchor: 1 with one convolution, (9 + 1) / 2 with two."""
        return sum((2 * step + 1) ** 2 for step in range(len(self.convs))) / max(1, len(self.convs))

    def at(self, table: PixelTable, index: Tensor) -> RpnOutput:
        """Of some anchors, what `forward` says of them, from nothing but the pixels they depend on.

        1. Cut out what each anchor's position sees: 3x3 pixels for one convolution, 5x5 for two.
        2. Convolve the cuttings without padding; what lies off the map is 0 before each convolution, as padding is.
        3. Of the k anchors at the position that is left, take the anchor.

        The loss needs some hundred anchors of ten thousands, so the backward pass is that of the cuttings and no more.

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
        """One number for each anchor: (N, M * num_logits) -> (N, M)."""
        if self.num_logits == 1:
            return logits
        background, foreground = logits.unflatten(1, (-1, 2)).unbind(2)
        return foreground - background


def cut_out(table: PixelTable, position: Tensor, *, reach: int) -> tuple[Tensor, Tensor]:
    """Squares of pixels around some positions of a pyramid.

    Args:
        position: (B, S) int64 row of the image's part of the table.
        reach: pixels on each side of a position.

    Returns:
        (B*S, w, w, C) with w = 2 * reach + 1, 0 for what lies off the map; (B*S, w, w) bool, whether it lies on it.
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


@torch.no_grad()
def propose(
    output: RpnOutput,
    anchors: Tensor,
    anchors_per_level: Sequence[int],
    image_sizes: Tensor,
    scales: Tensor,
    *,
    pre_nms_top_n: int,
    post_nms_top_n: int,
    post_nms_top_n_per_level: int | None,
    nms_threshold: float,
    min_box_size: float,
    min_box_size_in: str,
    score_threshold: float,
    skip_padding: bool,
    max_growth: float | None,
    plus_one: bool,
) -> Proposals:
    """Turn objectness and deltas into a short list of boxes (Ren et al. 2015, section 3.3).

    1. On each level, take the pre_nms_top_n anchors of highest objectness.
    2. Decode them, clip them to the image, drop those smaller than min_box_size or less probable than score_threshold.
    3. NMS within each level, which keeps at most post_nms_top_n_per_level.
    4. Keep the post_nms_top_n best of all levels.

    Args:
        output: objectness (B, A), deltas (B, A, 4).
        anchors: (A, 4).
        anchors_per_level: sums to A.
        image_sizes: (B, 2) (height, width).
        scales: (B,) canvas pixels to a pixel of the original image.
        post_nms_top_n_per_level: None is no limit.
        nms_threshold: IoU in 0..1.
        min_box_size: pixels of the "canvas" or of the "original", by min_box_size_in.
        score_threshold: a probability.
        skip_padding: anchors centred in the padding propose nothing.
        max_growth: see `ops.boxes.decode`.
        plus_one: decoded boxes end one pixel later, and clipping leaves at least one pixel, as in the Caffe code.

    Returns:
        P = post_nms_top_n slots, best first. No gradient. Fixed shapes.
    """
    objectness = output.objectness
    if skip_padding:
        is_on = is_on_image(anchors, image_sizes, inside_only=False, skip_padding=True)
        objectness = torch.where(is_on, objectness, -torch.inf)
    index, levels, start = [], [], 0
    for level, count in enumerate(anchors_per_level):
        best = objectness[:, start : start + count].topk(min(pre_nms_top_n, count), dim=1).indices
        index.append(best + start)
        levels.append(torch.full_like(best, level))
        start += count
    index = torch.cat(index, dim=1)  # (B, N)
    scores = objectness.gather(1, index)
    boxes = box_ops.decode(box_ops.gather_boxes(output.deltas, index), anchors[index], max_growth=max_growth)
    if plus_one:
        pixel = torch.ones_like(scales)
        boxes = box_ops.clip_whole_pixels(box_ops.move_far_corners(boxes, pixel), image_sizes, pixel)
    else:
        boxes = box_ops.clip(boxes, image_sizes)
    min_size = min_box_size * scales[:, None] if min_box_size_in == "original" else min_box_size
    scores = torch.where(box_ops.is_larger_than(boxes, min_size), scores, -torch.inf)
    if score_threshold > 0:
        scores = torch.where(scores.sigmoid() >= score_threshold, scores, -torch.inf)
    kept, valid = nms(
        boxes,
        scores,
        groups=torch.cat(levels, dim=1),
        iou_threshold=nms_threshold,
        k=post_nms_top_n,
        k_per_group=post_nms_top_n_per_level,
    )
    filler = box_ops.constant(box_ops.UNIT_BOX, like=boxes)
    return Proposals(
        boxes=torch.where(valid[..., None], box_ops.gather_boxes(boxes, kept), filler),
        scores=torch.where(valid, scores.gather(1, kept), -torch.inf),
        anchor_index=torch.where(valid, index.gather(1, kept), 0),
        valid=valid,
    )
