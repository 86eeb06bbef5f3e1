"""Region proposal network (Ren et al. 2015, section 3.1): head and proposals.

k anchors at each position; A = sum over levels of Hl * Wl * k.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from frcnn.model.assignment import is_on_image
from frcnn.ops import boxes as box_ops
from frcnn.ops.nms import nms
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
        self.num_logits = 2 if objectness == "softmax" else 1
        self.objectness = nn.Conv2d(channels, num_anchors * self.num_logits, 1)
        self.deltas = nn.Conv2d(channels, num_anchors * 4, 1)
        for layer in (*self.convs, self.objectness, self.deltas):
            assert isinstance(layer, nn.Conv2d) and layer.bias is not None
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)

    def forward(self, features: Sequence[Tensor]) -> RpnOutput:
        objectness, deltas = [], []
        for feature in features:
            hidden = feature
            for conv in self.convs:
                hidden = F.relu(conv(hidden))
            logits = self.objectness(hidden).permute(0, 2, 3, 1).flatten(1)  # (B, k, H, W) -> (B, H*W*k)
            if self.num_logits == 2:
                background, foreground = logits.unflatten(1, (-1, 2)).unbind(2)
                logits = foreground - background
            objectness.append(logits)
            # (B, k*4, H, W) -> (B, H, W, k*4) -> (B, H*W*k, 4)
            deltas.append(self.deltas(hidden).permute(0, 2, 3, 1).reshape(len(feature), -1, 4))
        return RpnOutput(box_ops.widen(torch.cat(objectness, dim=1)), box_ops.widen(torch.cat(deltas, dim=1)))


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
    filler = boxes.new_tensor([0.0, 0.0, 1.0, 1.0])
    return Proposals(
        boxes=torch.where(valid[..., None], box_ops.gather_boxes(boxes, kept), filler),
        scores=torch.where(valid, scores.gather(1, kept), -torch.inf),
        anchor_index=torch.where(valid, index.gather(1, kept), 0),
        valid=valid,
    )
