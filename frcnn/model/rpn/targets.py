"""Training targets of the RPN: label all anchors, then sample some of them."""

from dataclasses import dataclass

import torch
from torch import Tensor

from frcnn.model.matching import is_on_image, match_boxes
from frcnn.ops import sampling
from frcnn.structures import AnchorLabels, GroundTruth


@dataclass(frozen=True, kw_only=True)
class AnchorLabeller:
    """Label every anchor as object, background or ignored (Ren et al. 2015, section 3.1.2).

    1. Compute the IoU of each anchor with each real object.
    2. Anchors whose best IoU is below iou_negative are background. Anchors in between are ignored.
    3. Anchors whose best IoU reaches iou_positive are objects.
    4. Anchors that have the highest IoU with some object are objects too (ties included), if this IoU is above 0 and at
       least iou_low_quality. Their regression target is their own best object, which may be another one.
    5. Background anchors with at least ignore_overlap of their area in one ignore region are ignored.
    6. Anchors off the image (see `is_on_image`) are ignored, and are not considered in step 4.

    An image without objects is background everywhere. Fixed shapes, no host sync.
    """

    iou_positive: float
    """In 0..1; 0.7 in the paper."""
    iou_negative: float
    """In 0..1; 0.3 in the paper."""
    iou_low_quality: float
    """In 0..1; 0 in the paper."""
    ignore_overlap: float
    """In 0..1, share of the anchor's area."""
    inside_only: bool
    """Train only on anchors wholly inside the image."""
    skip_padding: bool
    """Train only on anchors whose center is inside the image."""

    @torch.no_grad()
    def __call__(self, anchors: Tensor, ground_truth: GroundTruth, image_sizes: Tensor) -> AnchorLabels:
        """Label anchors (A, 4), which all images share, for images of (height, width) `image_sizes` (B, 2)."""
        is_usable = is_on_image(anchors, image_sizes, inside_only=self.inside_only, skip_padding=self.skip_padding)
        # An unusable anchor becomes a box without area, which matches nothing and is the best of no object.
        boxes = torch.where(is_usable[..., None], anchors, 0)
        match = match_boxes(boxes, ground_truth, iou_low_quality=self.iou_low_quality)
        is_positive = (match.iou >= self.iou_positive) | match.is_best_of_object
        is_negative = (match.iou < self.iou_negative) & (match.ignore_coverage < self.ignore_overlap)
        label = torch.where(is_positive, 1, torch.where(is_negative, 0, -1))
        label = torch.where(is_usable, label, -1).to(torch.int8)
        return AnchorLabels(label, torch.where(label == 1, match.index, 0))


@dataclass(frozen=True, kw_only=True)
class AnchorSampler:
    """Sample the anchors that the RPN is trained on (Ren et al. 2015, section 3.1.2)."""

    num_samples: int
    """S, samples per image."""
    positive_fraction: float
    """In 0..1, upper limit of the share of objects in a sample."""

    @torch.no_grad()
    def __call__(self, labels: AnchorLabels, positions: Tensor, seed: Tensor) -> tuple[Tensor, Tensor]:
        """Sample anchors. The result is a function of the arguments alone.

        Args:
            labels: labels of all anchors.
            positions: (A,) see `AnchorGenerator.positions`.
            seed: (B,) see `Batch.seed`.

        Returns:
            index (B, S) int64 into A; valid (B, S) bool. See `ops.sampling.sample_balanced`.
        """
        key = sampling.random_keys(seed, positions, purpose=sampling.ANCHORS)
        return sampling.sample_balanced(
            labels.label, key, num_samples=self.num_samples, positive_fraction=self.positive_fraction
        )
