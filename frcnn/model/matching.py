"""What every anchor and every region is to be trained as.

Rules of both: a box is foreground by its IoU with an object; ignore regions (crowds, difficult objects) are neither
foreground nor background; ground truth in empty slots takes no part.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from frcnn.ops import boxes as box_ops
from frcnn.ops.sampling import random_keys, sample_balanced
from frcnn.structures import AnchorLabels, GroundTruth, Proposals, RoiSamples

MATCH_BYTES = 200 * 2**20
"""Memory in which boxes are compared with ground truth. The IoU of all anchors with all slots alone would be 1.1 GB at
B=16, A=268569, G=64; it is reduced chunk by chunk and never kept whole."""
PAIR_BYTES = 24
"""Most memory that a pair of a box and a slot takes in `match_boxes`: three points of two float32 numbers each."""

DRAW_ANCHORS, DRAW_REGIONS = 1, 2
"""Purposes of `random_keys`."""
FIRST_GROUND_TRUTH = 2**62
"""Position of the first ground-truth slot among the regions that are drawn from: past those of all anchors."""


class Match(NamedTuple):
    """How N boxes of each image relate to its ground truth."""

    iou: Tensor
    """(B, N) with the box's best object, 0 without any."""
    index: Tensor
    """(B, N) int64 index of that object in G, the first of several equal ones."""
    is_best_of_object: Tensor
    """(B, N) bool: ties the best IoU that any box has with some object, if that is above 0 and at least
    iou_low_quality."""
    ignore_coverage: Tensor
    """(B, N) the largest share of the box's area that lies in one ignore region."""


def match_boxes(boxes: Tensor, ground_truth: GroundTruth, *, iou_low_quality: float = 0.0) -> Match:
    """Compare boxes (B, N, 4) with the ground truth of their images, as many slots at a time as `slots_at_once` gives.

    `iou_low_quality`: see `Match.is_best_of_object`.
    """
    batch, count = boxes.shape[:2]
    best = boxes.new_zeros((batch, count))
    index = torch.zeros((batch, count), dtype=torch.int64, device=boxes.device)
    is_best_of_object = torch.zeros((batch, count), dtype=torch.bool, device=boxes.device)
    ignore_coverage = boxes.new_zeros((batch, count))
    num_slots = ground_truth.valid.shape[1]
    chunk_size = slots_at_once(batch * count, num_slots)
    for start in range(0, num_slots, chunk_size):
        chunk = GroundTruth(*(field[:, start : start + chunk_size] for field in ground_truth))
        covered = box_ops.coverage(boxes, chunk.boxes)  # (B, N, g)
        covered = torch.where((chunk.is_ignored & chunk.valid)[:, None], covered, 0)
        ignore_coverage = ignore_coverage.maximum(covered.amax(dim=2))
        del covered  # it would lie in memory beside the IoU
        iou = box_ops.iou(boxes, chunk.boxes)  # (B, N, g)
        iou = torch.where(chunk.is_object[:, None], iou, 0)
        chunk_best, chunk_index = iou.max(dim=2)
        index = torch.where(chunk_best > best, chunk_index + start, index)
        best = best.maximum(chunk_best)
        best_of_object = iou.amax(dim=1, keepdim=True)  # (B, 1, g)
        is_worth_it = (best_of_object > 0) & (best_of_object >= iou_low_quality)
        is_best_of_object |= ((iou == best_of_object) & is_worth_it).any(dim=2)
        del iou
    return Match(best, index, is_best_of_object, ignore_coverage)


def slots_at_once(num_boxes: int, num_slots: int) -> int:
    """Ground-truth slots that are compared at once with the `num_boxes` boxes of a batch.

    All, or a half, a quarter, ... of them: the largest number for which the pairs take at most MATCH_BYTES, and at
    least 1. There are few such numbers, so a compiled graph serves many canvases. The result of `match_boxes` is the
    same, to the bit, for all of them.
    """
    size = max(1, num_slots)
    while size > 1 and num_boxes * size * PAIR_BYTES > MATCH_BYTES:
        size //= 2
    return size


@torch.no_grad()
def label_anchors(
    anchors: Tensor,
    ground_truth: GroundTruth,
    image_sizes: Tensor,
    *,
    iou_positive: float,
    iou_negative: float,
    iou_low_quality: float,
    ignore_overlap: float,
    inside_only: bool,
    skip_padding: bool,
) -> AnchorLabels:
    """Label every anchor as object, background or ignored (Ren et al. 2015, section 3.1.2).

    1. IoU of each anchor with each real object.
    2. Background where the best IoU is below iou_negative; ignored in between.
    3. Object where the best IoU reaches iou_positive.
    4. Object also where an anchor ties the best IoU of some object, if that is above 0 and at least iou_low_quality.
       It is regressed to the anchor's own best object, which may be another.
    5. Background that lies to ignore_overlap in an ignore region is ignored.
    6. Anchors off the image (`is_on_image`) are ignored, and take no part in step 4.

    Args:
        anchors: (A, 4), shared by the batch.
        ground_truth: (B, G) slots.
        image_sizes: (B, 2) (height, width).
        iou_positive: in 0..1; the paper uses 0.7.
        iou_negative: in 0..1; the paper uses 0.3.
        iou_low_quality: in 0..1; the paper uses 0.
        ignore_overlap: in 0..1, share of the anchor's area.
        inside_only: train only on anchors wholly inside the image.
        skip_padding: train only on anchors centred inside the image.

    Returns:
        label (B, A) int8 in {1, 0, -1}; matched (B, A) index into G, 0 where label is not 1.

    An image without objects is background everywhere. Fixed shapes, no host sync.
    """
    is_usable = is_on_image(anchors, image_sizes, inside_only=inside_only, skip_padding=skip_padding)
    # An unusable anchor becomes a box without area: it matches nothing and is no object's best.
    boxes = torch.where(is_usable[..., None], anchors, 0)
    match = match_boxes(boxes, ground_truth, iou_low_quality=iou_low_quality)
    is_positive = (match.iou >= iou_positive) | match.is_best_of_object
    is_negative = (match.iou < iou_negative) & (match.ignore_coverage < ignore_overlap)
    label = torch.where(is_positive, 1, torch.where(is_negative, 0, -1))
    label = torch.where(is_usable, label, -1).to(torch.int8)
    return AnchorLabels(label, torch.where(label == 1, match.index, 0))


def is_on_image(anchors: Tensor, image_sizes: Tensor, *, inside_only: bool, skip_padding: bool) -> Tensor:
    """Which anchors count in which image: (A, 4) and (B, 2) -> (B, A) bool.

    `skip_padding` leaves out those centred in the padding, `inside_only` those not wholly inside the image.
    """
    height, width = image_sizes[:, :1].to(anchors.dtype), image_sizes[:, 1:].to(anchors.dtype)  # (B, 1)
    is_on = torch.ones((len(image_sizes), len(anchors)), dtype=torch.bool, device=anchors.device)
    if skip_padding:
        x, y = (anchors[:, :2] + anchors[:, 2:]).unbind(1)
        is_on &= (x / 2 < width) & (y / 2 < height)
    if inside_only:
        is_on &= (anchors[:, :2] >= 0).all(dim=1) & (anchors[:, 2] <= width) & (anchors[:, 3] <= height)
    return is_on


@torch.no_grad()
def sample_anchors(
    labels: AnchorLabels, positions: Tensor, seed: Tensor, *, num_samples: int, positive_fraction: float
) -> tuple[Tensor, Tensor]:
    """Draw the anchors the RPN trains on (Ren et al. 2015, section 3.1.2).

    Args:
        labels: of every anchor.
        positions: (A,) of the anchors on their maps, see `anchors.AnchorGenerator.positions`.
        seed: (B,) of the images; the draw is a function of it, the labels and the positions.
        num_samples: S.
        positive_fraction: in 0..1, the most that objects make of the sample.

    Returns:
        index (B, S) into A, valid (B, S), see `ops.sampling.sample_balanced`.
    """
    key = random_keys(seed, positions, purpose=DRAW_ANCHORS)
    return sample_balanced(labels.label, key, num_samples=num_samples, positive_fraction=positive_fraction)


@torch.no_grad()
def sample_rois(
    proposals: Proposals,
    ground_truth: GroundTruth,
    positions: Tensor,
    seed: Tensor,
    *,
    num_samples: int,
    positive_fraction: float,
    iou_positive: float,
    iou_negative_low: float,
    ignore_overlap: float,
    add_ground_truth: bool,
) -> RoiSamples:
    """Draw the regions the box head trains on (Girshick 2015, section 2.3).

    1. Ground-truth boxes join the proposals, so that there is foreground from the first step on.
    2. Foreground where the IoU with some object reaches iou_positive; background where it lies in
       [iou_negative_low, iou_positive), unless the region lies to ignore_overlap in an ignore region.
    3. Draw num_samples at random, at most a share of positive_fraction from the foreground.

    Args:
        proposals: (B, P) slots.
        ground_truth: (B, G) slots.
        positions: (A,) of the anchors on their maps, see `anchors.AnchorGenerator.positions`.
        seed: (B,) of the images. A proposal's chance to be drawn is a function of it and of the anchor the proposal
            comes from, not of its slot: where rounding puts two proposals in another order, or NMS keeps one more, the
            others are drawn as before. Nor do the numbers of slots, P and G, matter.
        num_samples: R.
        positive_fraction, iou_positive, iou_negative_low, ignore_overlap: in 0..1.
        add_ground_truth: step 1.

    Returns:
        boxes (B, R, 4), labels (B, R), gt_boxes (B, R, 4), valid (B, R); in empty slots the box [0, 0, 1, 1] and
        label 0. Fixed shapes, no host sync.
    """
    boxes, valid = proposals.boxes, proposals.valid
    positions = positions[proposals.anchor_index]  # (B, P)
    if add_ground_truth:
        boxes = torch.cat([boxes, ground_truth.boxes], dim=1)
        valid = torch.cat([valid, ground_truth.is_object], dim=1)
        slots = torch.arange(ground_truth.valid.shape[1], device=boxes.device)
        positions = torch.cat([positions, (FIRST_GROUND_TRUTH + slots).expand(len(boxes), -1)], dim=1)
    boxes = torch.where(valid[..., None], boxes, 0)
    match = match_boxes(boxes, ground_truth)
    is_positive = valid & (match.iou >= iou_positive)
    is_negative = valid & ~is_positive & (match.iou >= iou_negative_low)
    is_negative &= match.ignore_coverage < ignore_overlap
    label = torch.where(is_positive, 1, torch.where(is_negative, 0, -1))
    key = random_keys(seed, positions, purpose=DRAW_REGIONS)
    index, valid = sample_balanced(label, key, num_samples=num_samples, positive_fraction=positive_fraction)

    matched = match.index.gather(1, index)
    is_foreground = valid & is_positive.gather(1, index)
    filler = box_ops.constant(box_ops.UNIT_BOX, like=boxes)
    return RoiSamples(
        boxes=torch.where(valid[..., None], box_ops.gather_boxes(boxes, index), filler),
        labels=torch.where(is_foreground, ground_truth.labels.gather(1, matched), 0),
        gt_boxes=torch.where(is_foreground[..., None], box_ops.gather_boxes(ground_truth.boxes, matched), filler),
        valid=valid,
    )
