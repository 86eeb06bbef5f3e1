"""Region proposal network (Ren et al. 2015, section 3.1): head and proposals.

k anchors at each position; A = sum over levels of Hl * Wl * k.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from frcnn.model.assignment import is_on_image
from frcnn.ops import boxes as box_ops
from frcnn.ops.nms import nms
from frcnn.structures import Proposals, RpnOutput


class RpnHead(nn.Module):
    """A 3x3 convolution, then objectness and deltas of k anchors at every position, shared by all levels.

    Args:
        in_channels: of the maps.
        channels: of the 3x3 convolution; None keeps `in_channels`.
        num_anchors: k.
    """

    def __init__(self, in_channels: int, *, channels: int | None, num_anchors: int):
        super().__init__()
        channels = channels or in_channels
        self.conv = nn.Conv2d(in_channels, channels, 3, padding=1)
        self.objectness = nn.Conv2d(channels, num_anchors, 1)
        self.deltas = nn.Conv2d(channels, num_anchors * 4, 1)
        for layer in (self.conv, self.objectness, self.deltas):
            nn.init.normal_(layer.weight, std=0.01)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)

    def forward(self, features: Sequence[Tensor]) -> RpnOutput:
        objectness, deltas = [], []
        for feature in features:
            hidden = F.relu(self.conv(feature))
            # (B, k, H, W) -> (B, H*W*k)
            objectness.append(self.objectness(hidden).permute(0, 2, 3, 1).flatten(1))
            # (B, k*4, H, W) -> (B, H, W, k*4) -> (B, H*W*k, 4)
            deltas.append(self.deltas(hidden).permute(0, 2, 3, 1).reshape(len(feature), -1, 4))
        return RpnOutput(box_ops.widen(torch.cat(objectness, dim=1)), box_ops.widen(torch.cat(deltas, dim=1)))


@torch.no_grad()
def propose(
    output: RpnOutput,
    anchors: Tensor,
    anchors_per_level: Sequence[int],
    image_sizes: Tensor,
    *,
    pre_nms_top_n: int,
    post_nms_top_n: int,
    nms_threshold: float,
    min_box_size: float,
    skip_padding: bool,
) -> Proposals:
    """Turn objectness and deltas into a short list of boxes (Ren et al. 2015, section 3.3).

    1. On each level, take the pre_nms_top_n anchors of highest objectness.
    2. Decode them, clip them to the image, drop those smaller than min_box_size.
    3. NMS within each level.
    4. Keep the post_nms_top_n best of all levels.

    Args:
        output: objectness (B, A), deltas (B, A, 4).
        anchors: (A, 4).
        anchors_per_level: sums to A.
        image_sizes: (B, 2) (height, width).
        nms_threshold: IoU in 0..1.
        min_box_size: canvas pixels.
        skip_padding: anchors centred in the padding propose nothing.

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
    boxes = box_ops.decode(box_ops.gather_boxes(output.deltas, index), anchors[index])
    boxes = box_ops.clip(boxes, image_sizes)
    scores = torch.where(box_ops.is_larger_than(boxes, min_box_size), scores, -torch.inf)
    kept, valid = nms(boxes, scores, groups=torch.cat(levels, dim=1), iou_threshold=nms_threshold, k=post_nms_top_n)
    filler = boxes.new_tensor([0.0, 0.0, 1.0, 1.0])
    return Proposals(
        boxes=torch.where(valid[..., None], box_ops.gather_boxes(boxes, kept), filler),
        scores=torch.where(valid, scores.gather(1, kept), -torch.inf),
        valid=valid,
    )
