"""Training targets of the RoI head: sample regions and label them."""

from dataclasses import dataclass

import torch
from torch import Tensor

from frcnn.model.matching import match_boxes
from frcnn.ops import boxes as box_ops
from frcnn.ops import sampling
from frcnn.structures import GroundTruth, Proposals, RoiSamples

FIRST_GROUND_TRUTH = 2**62
"""Position of the first ground-truth slot among the candidates, above the positions of all anchors."""


@dataclass(frozen=True, kw_only=True)
class RoiSampler:
    """Sample the regions that the RoI head is trained on (Girshick 2015, section 2.3).

    1. Add the ground-truth boxes to the proposals, so that there is foreground from the first step.
    2. Regions whose IoU with some object reaches iou_positive are foreground. Regions whose IoU is in
       [iou_negative_low, iou_positive) are background, unless at least ignore_overlap of their area is in one ignore
       region.
    3. Sample num_samples regions at random, with at most a share of positive_fraction from the foreground.
    """

    num_samples: int
    """R, samples per image."""
    positive_fraction: float
    """In 0..1."""
    iou_positive: float
    """In 0..1."""
    iou_negative_low: float
    """In 0..1."""
    ignore_overlap: float
    """In 0..1, share of the region's area."""
    add_ground_truth: bool
    """Whether to do step 1."""

    @torch.no_grad()
    def __call__(self, proposals: Proposals, ground_truth: GroundTruth, positions: Tensor, seed: Tensor) -> RoiSamples:
        """Sample R regions of each image. Fixed shapes, no host sync.

        Whether a proposal is sampled depends on the seed and on the anchor that it comes from, and not on its slot.
        If rounding changes the order of two proposals, or NMS keeps one more, the same other regions are sampled. The
        numbers of slots, P and G, do not matter either.

        Args:
            proposals: (B, P) slots.
            ground_truth: (B, G) slots.
            positions: (A,) see `AnchorGenerator.positions`.
            seed: (B,) see `Batch.seed`.

        Returns:
            Samples whose empty slots hold the box [0, 0, 1, 1] and label 0.
        """
        boxes, valid = proposals.boxes, proposals.valid
        positions = positions[proposals.anchor_index]  # (B, P)
        if self.add_ground_truth:
            boxes = torch.cat([boxes, ground_truth.boxes], dim=1)
            valid = torch.cat([valid, ground_truth.is_object], dim=1)
            slots = torch.arange(ground_truth.valid.shape[1], device=boxes.device)
            positions = torch.cat([positions, (FIRST_GROUND_TRUTH + slots).expand(len(boxes), -1)], dim=1)
        boxes = torch.where(valid[..., None], boxes, 0)
        match = match_boxes(boxes, ground_truth)
        is_positive = valid & (match.iou >= self.iou_positive)
        is_negative = valid & ~is_positive & (match.iou >= self.iou_negative_low)
        is_negative &= match.ignore_coverage < self.ignore_overlap
        label = torch.where(is_positive, 1, torch.where(is_negative, 0, -1))
        key = sampling.random_keys(seed, positions, purpose=sampling.REGIONS)
        index, valid = sampling.sample_balanced(
            label, key, num_samples=self.num_samples, positive_fraction=self.positive_fraction
        )

        matched = match.index.gather(1, index)
        is_foreground = valid & is_positive.gather(1, index)
        filler = box_ops.constant(box_ops.UNIT_BOX, like=boxes)
        return RoiSamples(
            boxes=torch.where(valid[..., None], box_ops.gather_boxes(boxes, index), filler),
            labels=torch.where(is_foreground, ground_truth.labels.gather(1, matched), 0),
            gt_boxes=torch.where(is_foreground[..., None], box_ops.gather_boxes(ground_truth.boxes, matched), filler),
            valid=valid,
        )
