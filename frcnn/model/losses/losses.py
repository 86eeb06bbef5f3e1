"""The losses of Faster R-CNN (Ren et al. 2015, section 3.1.2; Girshick 2015, section 2.3).

Each loss is a sum over the sampled slots of the batch, divided by their number (or by the number of all slots, see
`RpnLoss.normaliser`). Values of slots that do not count are replaced before any logarithm, division or power. They are
not multiplied by zero afterwards, because NaN * 0 is NaN, in the backward pass too.

In distributed training each process computes the losses of its share of the batch, and gradients are averaged. The
average is the gradient of the whole batch if each process divides its sums by the mean of all processes' counts: for N
processes with sums s and counts c, sum(s / (sum(c) / N)) / N = sum(s) / sum(c). Dividing by its own count would give
the samples of a process with fewer samples a larger weight. `mean_count` computes the mean.

With gradient accumulation each part of a batch is divided by its own count, because the counts of later parts are not
known yet. This is exact if all parts have equally many samples, which is the usual case.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from frcnn.ops import boxes as box_ops
from frcnn.structures import AnchorLabels, Losses, RoiSamples, RpnOutput

MeanCount = Callable[[Tensor], Tensor]
"""Maps a count of samples to its mean over the processes that train together."""


def own_count(count: Tensor) -> Tensor:
    """`MeanCount` of a single process: the count itself."""
    return count


@dataclass(frozen=True, kw_only=True)
class RpnLoss:
    """Binary cross-entropy of the objectness of sampled anchors, and smooth L1 of the deltas of the positive ones."""

    smooth_l1_beta: float
    """In units of deltas; 0 for L1."""
    normaliser: str
    """"sampled" divides by the number of sampled anchors, "constant" by B * S (Detectron2)."""
    mean_count: MeanCount = own_count

    def __call__(
        self,
        sampled: RpnOutput,
        anchors: Tensor,
        labels: AnchorLabels,
        gt_boxes: Tensor,
        index: Tensor,
        valid: Tensor,
    ) -> Losses:
        """The losses `rpn_class` and `rpn_box`; both are 0 if nothing was sampled.

        Args:
            sampled: objectness (B, S), deltas (B, S, 4) of the sampled anchors.
            anchors: (A, 4).
            labels: labels of all anchors.
            gt_boxes: (B, G, 4), indexed by `labels.matched`.
            index: (B, S) int64 into A.
            valid: (B, S) bool.
        """
        is_positive = valid & (labels.label.gather(1, index) == 1)
        count = _divisor(self.mean_count(valid.sum())) if self.normaliser == "sampled" else valid.numel()

        logits = torch.where(valid, sampled.objectness, 0)
        cross_entropy = F.binary_cross_entropy_with_logits(logits, is_positive.to(logits.dtype), reduction="none")
        class_loss = torch.where(valid, cross_entropy, 0).sum() / count

        matched = labels.matched.gather(1, index)
        targets = _targets(box_ops.gather_boxes(gt_boxes, matched), anchors[index], is_positive)
        box_loss = _masked_smooth_l1(sampled.deltas, targets, is_positive, beta=self.smooth_l1_beta) / count
        return {"rpn_class": class_loss, "rpn_box": box_loss}


@dataclass(frozen=True, kw_only=True)
class RoiLoss:
    """Cross-entropy over K + 1 classes, and smooth L1 of the deltas of the true class of foreground regions."""

    box_weights: tuple[float, float, float, float]
    """Factors of the targets dx, dy, dw, dh."""
    smooth_l1_beta: float
    """In units of weighted deltas; 0 for L1."""
    mean_count: MeanCount = own_count

    def __call__(self, class_logits: Tensor, deltas: Tensor, samples: RoiSamples) -> Losses:
        """The losses `roi_class` and `roi_box`; both are 0 if nothing was sampled.

        Args:
            class_logits: (B, R, K + 1), background first.
            deltas: (B, R, K, 4), or (B, R, 1, 4) if class-agnostic.
            samples: R regions per image.
        """
        class_logits, deltas = box_ops.widen(class_logits), box_ops.widen(deltas)
        count = _divisor(self.mean_count(samples.valid.sum()))
        class_logits = torch.where(samples.valid[..., None], class_logits, 0)
        cross_entropy = F.cross_entropy(class_logits.flatten(0, 1), samples.labels.flatten(), reduction="none")
        class_loss = torch.where(samples.valid.flatten(), cross_entropy, 0).sum() / count

        is_foreground = samples.valid & (samples.labels > 0)
        own = (samples.labels - 1).clamp(min=0, max=deltas.shape[2] - 1)
        deltas = deltas.gather(2, own[..., None, None].expand(-1, -1, 1, 4)).squeeze(2)  # (B, R, K, 4) -> (B, R, 4)
        targets = _targets(samples.gt_boxes, samples.boxes, is_foreground, weights=self.box_weights)
        box_loss = _masked_smooth_l1(deltas, targets, is_foreground, beta=self.smooth_l1_beta) / count
        return {"roi_class": class_loss, "roi_box": box_loss}


def _divisor(count: Tensor) -> Tensor:
    """The count, or 1 if it is 0. A mean over processes may lie between 0 and 1."""
    return torch.where(count > 0, count, 1)


@torch.no_grad()
def _targets(
    boxes: Tensor, references: Tensor, keep: Tensor, *, weights: tuple[float, float, float, float] = (1, 1, 1, 1)
) -> Tensor:
    """Deltas from `references` to `boxes` (..., 4) where `keep` (...) is True, 0 elsewhere."""
    unit = box_ops.constant(box_ops.UNIT_BOX, like=boxes)
    boxes = torch.where(keep[..., None], boxes, unit)
    references = torch.where(keep[..., None], references, unit)
    return box_ops.encode(boxes, references, weights=weights)


def _masked_smooth_l1(deltas: Tensor, targets: Tensor, keep: Tensor, *, beta: float) -> Tensor:
    """Sum of smooth L1 over the slots where `keep` is True; L1 if beta is 0."""
    deltas = torch.where(keep[..., None], deltas, targets)
    return F.smooth_l1_loss(deltas, targets, beta=beta, reduction="sum")
