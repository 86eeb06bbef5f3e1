"""Non-maximum suppression as one operator with a result of fixed length.

The number of boxes that NMS keeps depends on the data. The operator returns the first k kept boxes and a mask, so that
shapes stay fixed under `torch.compile`, FakeTensorMode and export.

On a GPU it is a single Triton kernel (`nms_triton`) without host sync. Without Triton it is torchvision's kernel, one
call and one host sync per image.
"""

import functools
import math
import warnings
from types import ModuleType

import torch
import torchvision
from torch import Tensor, library

from frcnn.ops.boxes import area, widen

BLOCK = 256
"""Candidates compared at once on a CPU: 256 x 256 float32 numbers fit into its cache."""


@library.custom_op("frcnn::nms", mutates_args=())
def _nms(
    boxes: Tensor, scores: Tensor, groups: Tensor, iou_threshold: float, k: int, k_per_group: int
) -> tuple[Tensor, Tensor]:
    limit = k_per_group or k
    if boxes.is_cuda and boxes.dtype == torch.float32 and (triton := _triton(boxes.device)) is not None:
        return triton.first_kept(
            boxes, scores, groups, iou_threshold=float32_below(iou_threshold), k=k, k_per_group=limit
        )
    kernel = _first_kept_cuda if boxes.is_cuda else first_kept
    index = torch.zeros((len(boxes), k), dtype=torch.int64, device=boxes.device)
    valid = torch.zeros((len(boxes), k), dtype=torch.bool, device=boxes.device)
    for image in range(len(boxes)):
        kept = kernel(boxes[image], scores[image], groups[image], iou_threshold=iou_threshold, k=k, k_per_group=limit)
        index[image, : len(kept)] = kept
        valid[image, : len(kept)] = True
    return index, valid


@_nms.register_fake
def _(boxes, scores, groups, iou_threshold, k, k_per_group):
    shape = (boxes.shape[0], k)
    return boxes.new_empty(shape, dtype=torch.int64), boxes.new_empty(shape, dtype=torch.bool)


@functools.cache
def _triton(device: torch.device) -> ModuleType | None:
    """The module of the GPU kernel; None if it does not run on `device`.

    Triton is part of PyTorch for CUDA on Linux. It also needs a C compiler, and does not support every GPU.
    """
    try:
        from frcnn.ops import nms_triton

        box = torch.zeros(1, 1, 4, device=device)
        nms_triton.first_kept(box, box[..., 0], box[..., 0].long(), iou_threshold=0.5, k=1, k_per_group=1)
    except Exception as error:  # ImportError, RuntimeError, errors of Triton
        warnings.warn(f"NMS on {device} runs without Triton, with one host sync per image: {error}", stacklevel=2)
        return None
    return nms_triton


def float32_below(threshold: float) -> float:
    """The largest float32 number that is not above `threshold`.

    A float32 number is above the result exactly if it is above `threshold`. IoUs are thus compared with the threshold
    itself, as in torchvision's CPU kernel, and not with its rounded value.
    """
    rounded = torch.tensor(threshold, dtype=torch.float32)
    return (torch.nextafter(rounded, torch.tensor(-math.inf)) if rounded.item() > threshold else rounded).item()


def first_kept(
    boxes: Tensor, scores: Tensor, groups: Tensor, *, iou_threshold: float, k: int, k_per_group: int
) -> Tensor:
    """The first boxes kept in one image, best first: at most k, and at most k_per_group of each group.

    1. Process the boxes in blocks, in order of descending score.
    2. Remove boxes of the block that are suppressed by boxes kept earlier.
    3. Keep all remaining boxes, remove those that the kept ones suppress, and repeat until nothing changes. Each round
       decides at least one more box; two or three rounds decide nearly all.
    4. Stop at the k-th kept box.

    Args:
        boxes: (N, 4).
        scores: (N,), -inf in empty slots.
        groups: (N,) int64.

    Returns:
        (n,) int64 into N, n <= k.

    Pairs are processed by float arithmetic on whole blocks, because on a CPU PyTorch compares two matrices ten times
    slower than it multiplies them.
    """
    sorted_scores, order = scores.sort(descending=True, stable=True)
    order = order[: int((sorted_scores > -torch.inf).sum())]
    boxes, groups = boxes[order], groups[order]
    threshold = float32_below(iou_threshold) if boxes.dtype == torch.float32 else iou_threshold
    has_groups = len(groups) > 0 and bool((groups != groups[0]).any())
    # One column per box: x1, y1, x2, y2, area, group
    candidates = torch.cat([boxes.t(), area(boxes)[None], groups[None].to(boxes.dtype)])
    kept = candidates.new_empty((6, min(k, len(order))))
    kept_order = order.new_empty(kept.shape[1])
    num_kept_of = order.new_zeros(int(groups.max()) + 1 if len(groups) else 0)
    count = 0
    for start in range(0, len(order), BLOCK):
        block, members = candidates[:, start : start + BLOCK], order[start : start + BLOCK]
        worst = block.new_zeros(len(members))
        for first in range(0, count, BLOCK):
            earlier = kept[:, first : min(first + BLOCK, count)]
            worst = worst.maximum(_overlap(earlier, block, has_groups).amax(dim=0))
        is_left = worst <= threshold
        block, members = block[:, is_left], members[is_left]

        overlap = _overlap(block, block, has_groups).triu_(diagonal=1)
        is_kept = block.new_ones(len(members))
        while len(members):
            judged = ((overlap * is_kept[:, None]).amax(dim=0) <= threshold).to(block.dtype)
            if torch.equal(judged, is_kept):
                break
            is_kept = judged
        is_kept = is_kept > 0
        block, members = block[:, is_kept], members[is_kept]

        if k_per_group < k:
            group = block[5].long()
            has_room = num_kept_of[group] + _rank_in_group(group) < k_per_group
            block, members = block[:, has_room], members[has_room]
            num_kept_of += torch.bincount(group[has_room], minlength=len(num_kept_of))
        end = min(k, count + len(members))
        kept[:, count:end] = block[:, : end - count]
        kept_order[count:end] = members[: end - count]
        count = end
        if count == k:
            break
    return kept_order[:count]


def _overlap(boxes: Tensor, others: Tensor, has_groups: bool) -> Tensor:
    """IoU of each pair, 0 for boxes of different groups: columns (6, N) and (6, M) of `first_kept` -> (N, M).

    Operations are in the order of torchvision's kernels, so that rounding is the same.
    """
    x1, y1, x2, y2, own_area, group = boxes[:, :, None]
    other_x1, other_y1, other_x2, other_y2, other_area, other_group = others
    shared = torch.minimum(x2, other_x2).sub_(torch.maximum(x1, other_x1)).relu_()
    shared *= torch.minimum(y2, other_y2).sub_(torch.maximum(y1, other_y1)).relu_()
    # Two boxes without area have IoU 0, not nan.
    union = (own_area + other_area).sub_(shared).clamp_(min=torch.finfo(shared.dtype).tiny)
    iou = shared.div_(union)
    return iou.mul_((group - other_group).abs_().neg_().add_(1).relu_()) if has_groups else iou


def _first_kept_cuda(
    boxes: Tensor, scores: Tensor, groups: Tensor, *, iou_threshold: float, k: int, k_per_group: int
) -> Tensor:
    """`first_kept` by torchvision's CUDA kernel, which finds all kept boxes. One host sync."""
    real = torch.nonzero(scores > -torch.inf).squeeze(1)
    boxes, scores, groups = boxes[real], scores[real], groups[real]
    # One launch for all groups: they are shifted apart, in float64 so that IoUs do not change.
    apart = groups.double() * (boxes.max() - boxes.min() + 1).double() if len(boxes) else groups.double()
    kept = torchvision.ops.nms(boxes.double() + apart[:, None], scores.double(), iou_threshold)
    if k_per_group < k:
        kept = kept[_rank_in_group(groups[kept]) < k_per_group]
    return real[kept[:k]]


def _rank_in_group(groups: Tensor) -> Tensor:
    """Number of earlier members of the same group: (n,) -> (n,)."""
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

    1. Visit boxes in order of descending score; equal scores keep their order.
    2. Keep a box unless its IoU with a kept box of the same group is above the threshold.
    3. Return the first k kept boxes, with at most k_per_group of each group.

    Args:
        boxes: (B, N, 4).
        scores: (B, N); a box with score -inf or nan is an empty slot and is never kept.
        groups: (B, N) int64 in 0..2**24 - 1, such as levels or classes. Boxes of different groups do not suppress each
            other. None means a single group.
        iou_threshold: in 0..1.
        k: length of the result.
        k_per_group: None means no limit.

    Returns:
        index (B, k) int64 into N, in order of descending score, 0 in empty slots; valid (B, k) bool.

    No gradient. The result equals `torchvision.ops.nms` on each image and group on a CPU.
    """
    if groups is None:
        groups = torch.zeros(scores.shape, dtype=torch.int64, device=scores.device)
    scores = torch.where(scores > -torch.inf, scores, -torch.inf)  # nan becomes -inf
    return _nms(widen(boxes), widen(scores), groups, iou_threshold, k, k_per_group or 0)
