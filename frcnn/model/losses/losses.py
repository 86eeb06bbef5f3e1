"""The four losses of Faster R-CNN (Ren et al. 2015, section 3.1.2; Girshick 2015, section 2.3).

All are sums over the sampled slots of the batch divided by their number, or by that of all slots where told so. Slots
that take no part are replaced before any logarithm, division or power, never multiplied by zero after it: NaN * 0 is
NaN, in the backward pass too.

Where several processes train together, each on its share of the batch, the mean of their gradients is taken. It is that
of the whole batch if each divides its sums by the mean of all processes' counts: N processes with sums s and counts c
make sum(s / (sum(c) / N)) / N = sum(s) / sum(c). A count of its own instead would give the samples of a process that
drew fewer a larger weight. `mean_count` supplies that mean.

Parts of a batch that one process takes one after the other are each divided by their own counts, as those of later
parts are not known yet: exact where all parts draw equally many, which is the rule as quotas fill.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from frcnn.ops import boxes as box_ops
from frcnn.structures import AnchorLabels, RoiSamples, RpnOutput


def own_count(count: Tensor) -> Tensor:
    """`mean_count` of a process that trains alone: the count itself."""
    return count


def rpn_losses(
    sampled: RpnOutput,
    anchors: Tensor,
    labels: AnchorLabels,
    gt_boxes: Tensor,
    index: Tensor,
    valid: Tensor,
    *,
    smooth_l1_beta: float,
    normaliser: str,
    mean_count: Callable[[Tensor], Tensor] = own_count,
) -> tuple[Tensor, Tensor]:
    """Binary cross-entropy of objectness and smooth L1 of the deltas of positive anchors, on the sampled anchors.

    Args:
        sampled: objectness (B, S), deltas (B, S, 4) of the sampled anchors.
        anchors: (A, 4).
        labels: of every anchor.
        gt_boxes: (B, G, 4), what `labels.matched` points into.
        index, valid: (B, S) the sampled anchors.
        smooth_l1_beta: in units of deltas; 0 is L1.
        normaliser: "sampled" divides by the number of sampled anchors, "constant" by B * S (Detectron2).
        mean_count: of the sampled anchors, over the processes that train together.

    Returns:
        rpn_class and rpn_box, scalars; both 0 where nothing was sampled.
    """
    is_positive = valid & (labels.label.gather(1, index) == 1)
    count = _divisor(mean_count(valid.sum())) if normaliser == "sampled" else valid.numel()

    logits = torch.where(valid, sampled.objectness, 0)
    cross_entropy = F.binary_cross_entropy_with_logits(logits, is_positive.to(logits.dtype), reduction="none")
    class_loss = torch.where(valid, cross_entropy, 0).sum() / count

    matched = labels.matched.gather(1, index)
    targets = _targets(box_ops.gather_boxes(gt_boxes, matched), anchors[index], is_positive)
    box_loss = _masked_smooth_l1(sampled.deltas, targets, is_positive, beta=smooth_l1_beta) / count
    return class_loss, box_loss


def roi_losses(
    class_logits: Tensor,
    deltas: Tensor,
    samples: RoiSamples,
    *,
    box_weights: tuple[float, float, float, float],
    smooth_l1_beta: float,
    mean_count: Callable[[Tensor], Tensor] = own_count,
) -> tuple[Tensor, Tensor]:
    """Cross-entropy over K + 1 classes and smooth L1 of the deltas of the right class on foreground.

    Args:
        class_logits: (B, R, K + 1), background first.
        deltas: (B, R, K, 4), or (B, R, 1, 4) when class-agnostic.
        samples: R regions an image.
        box_weights: factors of the targets dx, dy, dw, dh.
        smooth_l1_beta: in units of weighted deltas; 0 is L1.
        mean_count: of the sampled regions, over the processes that train together.

    Returns:
        roi_class and roi_box, scalars; both 0 where nothing was sampled.
    """
    class_logits, deltas = box_ops.widen(class_logits), box_ops.widen(deltas)
    count = _divisor(mean_count(samples.valid.sum()))
    class_logits = torch.where(samples.valid[..., None], class_logits, 0)
    cross_entropy = F.cross_entropy(class_logits.flatten(0, 1), samples.labels.flatten(), reduction="none")
    class_loss = torch.where(samples.valid.flatten(), cross_entropy, 0).sum() / count

    is_foreground = samples.valid & (samples.labels > 0)
    own = (samples.labels - 1).clamp(min=0, max=deltas.shape[2] - 1)
    deltas = deltas.gather(2, own[..., None, None].expand(-1, -1, 1, 4)).squeeze(2)  # (B, R, K, 4) -> (B, R, 4)
    targets = _targets(samples.gt_boxes, samples.boxes, is_foreground, weights=box_weights)
    box_loss = _masked_smooth_l1(deltas, targets, is_foreground, beta=smooth_l1_beta) / count
    return class_loss, box_loss


def _divisor(count: Tensor) -> Tensor:
    """The count, or 1 where nothing was sampled; a mean over processes may lie between 0 and 1."""
    return torch.where(count > 0, count, 1)


@torch.no_grad()
def _targets(
    boxes: Tensor, references: Tensor, keep: Tensor, *, weights: tuple[float, float, float, float] = (1, 1, 1, 1)
) -> Tensor:
    """Deltas from `references` to `boxes` (..., 4) where `keep` (...), 0 elsewhere."""
    unit = box_ops.constant(box_ops.UNIT_BOX, like=boxes)
    boxes = torch.where(keep[..., None], boxes, unit)
    references = torch.where(keep[..., None], references, unit)
    return box_ops.encode(boxes, references, weights=weights)


def _masked_smooth_l1(deltas: Tensor, targets: Tensor, keep: Tensor, *, beta: float) -> Tensor:
    """Sum of smooth L1 over the slots of `keep`; beta 0 is L1."""
    deltas = torch.where(keep[..., None], deltas, targets)
    return F.smooth_l1_loss(deltas, targets, beta=beta, reduction="sum")
