"""From class logits and deltas to final boxes."""

import torch
from torch import Tensor

from frcnn.ops import boxes as box_ops
from frcnn.ops.nms import nms
from frcnn.structures import Detections, Proposals


@torch.no_grad()
def detect(
    class_logits: Tensor,
    deltas: Tensor,
    proposals: Proposals,
    image_sizes: Tensor,
    scales: Tensor,
    *,
    box_weights: tuple[float, float, float, float],
    score_threshold: float,
    nms_threshold: float,
    max_detections: int,
    pre_nms_top_n: int,
    min_box_size: float,
    max_growth: float | None,
    plus_one: bool,
) -> Detections:
    """Keep what is probable and not said twice (Girshick 2015, section 2.2; Ren et al. 2015, section 3.3).

    1. Probability of each class at each proposal, without background.
    2. Of those above score_threshold, take the pre_nms_top_n highest of each image.
    3. Decode the box of that class, clip it to the image, drop it if smaller than min_box_size.
    4. NMS within each class.
    5. Keep the max_detections best of all classes.

    Args:
        class_logits: (B, P, K + 1), background first.
        deltas: (B, P, K, 4), or (B, P, 1, 4) when class-agnostic.
        proposals: (B, P) slots.
        image_sizes: (B, 2) (height, width).
        scales: (B,) canvas pixels to a pixel of the original image.
        box_weights: the factors that the deltas were trained with.
        score_threshold: a probability; what equals it is left out.
        nms_threshold: IoU in 0..1.
        min_box_size: canvas pixels.
        max_growth: see `ops.boxes.decode`.
        plus_one: decode in whole pixels of the original image, as the Caffe code does: its proposals span the same
            pixels there, decoded boxes end one of these later, and clipping leaves at least one.

    Returns:
        D = max_detections slots, best first. Fixed shapes.

    The result differs from one without step 2's limit only where the best pre_nms_top_n pairs of an image hold fewer
    than max_detections that survive NMS.
    """
    num_classes = class_logits.shape[2] - 1
    scores = box_ops.widen(class_logits).softmax(dim=2)[..., 1:]  # (B, P, K)
    is_candidate = proposals.valid[..., None] & (scores > score_threshold)
    scores = torch.where(is_candidate, scores, -torch.inf).flatten(1)  # (B, P*K)
    scores, index = scores.topk(min(pre_nms_top_n, scores.shape[1]), dim=1)  # (B, N)
    proposal, label = index // num_classes, index % num_classes

    if deltas.shape[2] == 1:
        deltas = box_ops.gather_boxes(deltas.squeeze(2), proposal)
    else:
        deltas = box_ops.gather_boxes(deltas.flatten(1, 2), index)
    references = box_ops.gather_boxes(proposals.boxes, proposal)
    if plus_one:
        references = box_ops.move_far_corners(references, scales - 1)
    boxes = box_ops.decode(deltas, references, weights=box_weights, max_growth=max_growth)
    if plus_one:
        boxes = box_ops.clip_whole_pixels(box_ops.move_far_corners(boxes, scales), image_sizes, scales)
    else:
        boxes = box_ops.clip(boxes, image_sizes)
    scores = torch.where(box_ops.is_larger_than(boxes, min_box_size), scores, -torch.inf)
    kept, valid = nms(boxes, scores, groups=label, iou_threshold=nms_threshold, k=max_detections)
    filler = box_ops.constant(box_ops.UNIT_BOX, like=boxes)
    return Detections(
        boxes=torch.where(valid[..., None], box_ops.gather_boxes(boxes, kept), filler),
        scores=torch.where(valid, scores.gather(1, kept), 0),
        labels=torch.where(valid, label.gather(1, kept) + 1, 0),
        valid=valid,
    )
