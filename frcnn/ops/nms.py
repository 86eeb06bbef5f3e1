"""Non-maximum suppression as one operator with a result of fixed length.

How many boxes NMS keeps depends on the data. The operator hides that: it gives the first k kept, with a mask, so that
everything above it keeps its shapes under `torch.compile`, FakeTensorMode and export.
"""

import torch
import torchvision
from torch import Tensor, library

from frcnn.ops.boxes import widen


@library.custom_op("frcnn::nms", mutates_args=())
def _nms(
    boxes: Tensor, scores: Tensor, groups: Tensor, iou_threshold: float, k: int, k_per_group: int
) -> tuple[Tensor, Tensor]:
    index = torch.zeros((len(boxes), k), dtype=torch.int64, device=boxes.device)
    valid = torch.zeros((len(boxes), k), dtype=torch.bool, device=boxes.device)
    for image in range(len(boxes)):
        real = torch.nonzero(scores[image] > -torch.inf).squeeze(1)
        kept = real[_kept(boxes[image, real], scores[image, real], groups[image, real], iou_threshold)]
        if k_per_group > 0:
            kept = kept[_rank_in_group(groups[image, kept]) < k_per_group]
        kept = kept[:k]
        index[image, : len(kept)] = kept
        valid[image, : len(kept)] = True
    return index, valid


@_nms.register_fake
def _(boxes, scores, groups, iou_threshold, k, k_per_group):
    shape = (boxes.shape[0], k)
    return boxes.new_empty(shape, dtype=torch.int64), boxes.new_empty(shape, dtype=torch.bool)


def _kept(boxes: Tensor, scores: Tensor, groups: Tensor, iou_threshold: float) -> Tensor:
    """Kept boxes of one image, best first, suppressing within each group only; ties keep their order."""
    if boxes.is_cuda:
        # One launch: groups are moved apart, in float64 so that the shift does not change any IoU.
        apart = groups.double() * (boxes.max() - boxes.min() + 1).double() if len(boxes) else groups.double()
        return torchvision.ops.nms(boxes.double() + apart[:, None], scores.double(), iou_threshold)
    # The CPU kernel's cost is candidates x kept: many small calls are faster than one large.
    kept = []
    for group in torch.unique(groups):
        members = torch.nonzero(groups == group).squeeze(1)
        kept.append(members[torchvision.ops.nms(boxes[members], scores[members], iou_threshold)])
    index = torch.cat(kept).sort().values if kept else groups.new_zeros(0)
    return index[scores[index].sort(descending=True, stable=True).indices]


def _rank_in_group(groups: Tensor) -> Tensor:
    """How many of the same group stand before each member: (n,) -> (n,)."""
    is_same = groups[:, None] == torch.unique(groups)  # (n, groups)
    return (is_same.cumsum(dim=0) * is_same).sum(dim=1) - 1


@torch.no_grad()
def nms(
    boxes: Tensor,
    scores: Tensor,
    *,
    groups: Tensor | None = None,
    iou_threshold: float,
    k: int,
    k_per_group: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Greedy non-maximum suppression of a batch: the first k boxes kept in each image.

    1. Visit boxes by falling score, equal scores in their given order.
    2. Keep a box unless its IoU with a kept box of the same group is above the threshold.
    3. Give the first k kept, of each group at most the first k_per_group.

    Args:
        boxes: (B, N, 4).
        scores: (B, N); a box of score -inf is an empty slot and never kept.
        groups: (B, N) int64, such as levels or classes; boxes of different groups do not suppress each other. None is
            one group.
        iou_threshold: in 0..1.
        k: length of the result.
        k_per_group: None is no limit.

    Returns:
        index (B, k) int64 into N, by falling score, 0 in empty slots; valid (B, k) bool.

    No gradient. Equal to `torchvision.ops.nms` run on each image and group.
    """
    if groups is None:
        groups = torch.zeros(scores.shape, dtype=torch.int64, device=scores.device)
    return _nms(widen(boxes), widen(scores), groups, iou_threshold, k, k_per_group or 0)
