"""Select proposals from the outputs of the RPN head."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from frcnn.model.matching import is_on_image
from frcnn.ops import boxes as box_ops
from frcnn.ops.nms import nms
from frcnn.structures import Canvas, Proposals, RpnOutput


@dataclass(frozen=True, kw_only=True)
class ProposalSelector:
    """Decode the most probable anchors and remove duplicates (Ren et al. 2015, section 3.3).

    1. Take the pre_nms_top_n anchors of highest objectness on each level.
    2. Decode them and clip them to the image. Drop boxes smaller than min_box_size or less probable than
       score_threshold.
    3. Apply NMS within each level, and keep at most post_nms_top_n_per_level boxes of it.
    4. Keep the post_nms_top_n best boxes of all levels.
    """

    pre_nms_top_n: int
    post_nms_top_n: int
    """P."""
    post_nms_top_n_per_level: int | None
    """None means no limit."""
    nms_threshold: float
    """IoU in 0..1."""
    min_box_size: float
    """Pixels of the image that min_box_size_in names."""
    min_box_size_in: str
    """"canvas" or "original"."""
    score_threshold: float
    """Probability in 0..1."""
    skip_padding: bool
    """Ignore anchors whose center is in the padding."""
    max_growth: float | None
    """See `ops.boxes.decode`."""
    plus_one: bool
    """Decoded boxes end one pixel later, and clipping leaves at least one pixel, as in the Caffe code."""

    @torch.no_grad()
    def __call__(
        self, output: RpnOutput, anchors: Tensor, anchors_per_level: Sequence[int], canvas: Canvas
    ) -> Proposals:
        """Select P = post_nms_top_n proposals per image, best first. No gradient. Fixed shapes.

        Args:
            output: outputs for all anchors.
            anchors: (A, 4).
            anchors_per_level: L counts whose sum is A.
        """
        _, image_sizes, scales = canvas
        objectness = output.objectness
        if self.skip_padding:
            is_on = is_on_image(anchors, image_sizes, inside_only=False, skip_padding=True)
            objectness = torch.where(is_on, objectness, -torch.inf)
        index, levels, start = [], [], 0
        for level, count in enumerate(anchors_per_level):
            best = objectness[:, start : start + count].topk(min(self.pre_nms_top_n, count), dim=1).indices
            index.append(best + start)
            levels.append(torch.full_like(best, level))
            start += count
        index = torch.cat(index, dim=1)  # (B, N)
        scores = objectness.gather(1, index)
        deltas = box_ops.gather_boxes(output.deltas, index)
        boxes = box_ops.decode(deltas, anchors[index], max_growth=self.max_growth)
        if self.plus_one:
            pixel = torch.ones_like(scales)
            boxes = box_ops.clip_whole_pixels(box_ops.move_far_corners(boxes, pixel), image_sizes, pixel)
        else:
            boxes = box_ops.clip(boxes, image_sizes)
        min_size = self.min_box_size * scales[:, None] if self.min_box_size_in == "original" else self.min_box_size
        scores = torch.where(box_ops.is_larger_than(boxes, min_size), scores, -torch.inf)
        if self.score_threshold > 0:
            scores = torch.where(scores.sigmoid() >= self.score_threshold, scores, -torch.inf)
        kept, valid = nms(
            boxes,
            scores,
            groups=torch.cat(levels, dim=1),
            iou_threshold=self.nms_threshold,
            k=self.post_nms_top_n,
            k_per_group=self.post_nms_top_n_per_level,
        )
        filler = box_ops.constant(box_ops.UNIT_BOX, like=boxes)
        return Proposals(
            boxes=torch.where(valid[..., None], box_ops.gather_boxes(boxes, kept), filler),
            scores=torch.where(valid, scores.gather(1, kept), -torch.inf),
            anchor_index=torch.where(valid, index.gather(1, kept), 0),
            valid=valid,
        )
