"""Select the final detections from class logits and deltas."""

from dataclasses import dataclass

import torch
from torch import Tensor

from frcnn.ops import boxes as box_ops
from frcnn.ops.nms import nms
from frcnn.structures import Canvas, Detections, Proposals


@dataclass(frozen=True, kw_only=True)
class DetectionSelector:
    """Decode probable boxes and remove duplicates (Girshick 2015, section 2.2; Ren et al. 2015, section 3.3).

    1. Compute the probability of each class for each proposal.
    2. Take the pre_nms_top_n highest probabilities of each image that are above score_threshold.
    3. Decode the box of that class and clip it to the image. Drop boxes smaller than min_box_size.
    4. Apply NMS within each class.
    5. Keep the max_detections best boxes of all classes.

    The limit of step 2 changes the result only if fewer than max_detections of the pre_nms_top_n boxes survive NMS.
    """

    box_weights: tuple[float, float, float, float]
    """Factors of the deltas in training."""
    score_threshold: float
    """Probability in 0..1; boxes of exactly this probability are dropped."""
    nms_threshold: float
    """IoU in 0..1."""
    max_detections: int
    """D."""
    pre_nms_top_n: int
    min_box_size: float
    """In canvas pixels."""
    max_growth: float | None
    """See `ops.boxes.decode`."""
    plus_one: bool
    """Decode in whole pixels of the original image, as the Caffe code does: proposals span the same pixels there,
    decoded boxes end one of these pixels later, and clipping leaves at least one."""

    @torch.no_grad()
    def __call__(self, class_logits: Tensor, deltas: Tensor, proposals: Proposals, canvas: Canvas) -> Detections:
        """Select D = max_detections boxes per image, best first. Fixed shapes.

        Args:
            class_logits: (B, P, K + 1), background first.
            deltas: (B, P, K, 4), or (B, P, 1, 4) if class-agnostic.
            proposals: (B, P) slots.
        """
        _, image_sizes, scales = canvas
        num_classes = class_logits.shape[2] - 1
        scores = box_ops.widen(class_logits).softmax(dim=2)[..., 1:]  # (B, P, K)
        is_candidate = proposals.valid[..., None] & (scores > self.score_threshold)
        scores = torch.where(is_candidate, scores, -torch.inf).flatten(1)  # (B, P*K)
        scores, index = scores.topk(min(self.pre_nms_top_n, scores.shape[1]), dim=1)  # (B, N)
        proposal, label = index // num_classes, index % num_classes

        if deltas.shape[2] == 1:
            deltas = box_ops.gather_boxes(deltas.squeeze(2), proposal)
        else:
            deltas = box_ops.gather_boxes(deltas.flatten(1, 2), index)
        references = box_ops.gather_boxes(proposals.boxes, proposal)
        if self.plus_one:
            references = box_ops.move_far_corners(references, scales - 1)
        boxes = box_ops.decode(deltas, references, weights=self.box_weights, max_growth=self.max_growth)
        if self.plus_one:
            boxes = box_ops.clip_whole_pixels(box_ops.move_far_corners(boxes, scales), image_sizes, scales)
        else:
            boxes = box_ops.clip(boxes, image_sizes)
        scores = torch.where(box_ops.is_larger_than(boxes, self.min_box_size), scores, -torch.inf)
        kept, valid = nms(boxes, scores, groups=label, iou_threshold=self.nms_threshold, k=self.max_detections)
        filler = box_ops.constant(box_ops.UNIT_BOX, like=boxes)
        return Detections(
            boxes=torch.where(valid[..., None], box_ops.gather_boxes(boxes, kept), filler),
            scores=torch.where(valid, scores.gather(1, kept), 0),
            labels=torch.where(valid, label.gather(1, kept) + 1, 0),
            valid=valid,
        )
