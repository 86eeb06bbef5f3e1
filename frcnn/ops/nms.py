"""Non-maximum suppression as one operator with a result of fixed length.

How many boxes NMS keeps depends on the data. The operator hides that: it gives the first k kept, with a mask, so that
everything above it keeps its shapes under `torch.compile`, FakeTensorMode and export.

On a GPU it is one Triton kernel (`nms_triton`) that the host never waits for. Without Triton it is torchvision's
kernel, image by image, and the host waits for each.
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
"""Candidates that are judged at once on a CPU: 256 x 256 float32 numbers stay in its cache."""


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
    """The module of the GPU's kernel; None if it does not run on `device`.

    Triton comes with PyTorch for CUDA on Linux, but it also needs a C compiler and does not support every GPU.
    """
    try:
        from frcnn.ops import nms_triton

        box = torch.zeros(1, 1, 4, device=device)
        nms_triton.first_kept(box, box[..., 0], box[..., 0].long(), iou_threshold=0.5, k=1, k_per_group=1)
    except Exception as error:  # ImportError, RuntimeError, Triton's own
        warnings.warn(f"NMS on {device} runs without Triton, so the host waits for the GPU: {error}", stacklevel=2)
        return None
    return nms_triton


def float32_below(threshold: float) -> float:
    """The largest float32 that is not above `threshold`.

    A float32 number is above the one exactly where it is above the other, so that IoUs are compared with the threshold
    itself, as torchvision's CPU kernel does, and not with what rounding makes of it.
    """
    rounded = torch.tensor(threshold, dtype=torch.float32)
    return (torch.nextafter(rounded, torch.tensor(-math.inf)) if rounded.item() > threshold else rounded).item()


def first_kept(
    boxes: Tensor, scores: Tensor, groups: Tensor, *, iou_threshold: float, k: int, k_per_group: int
) -> Tensor:
    """The first boxes kept in one image, best first: at most k, and at most k_per_group of each group.

    1. Go through the boxes by falling score, a block at a time.
    2. Strike out those of the block that a box kept earlier suppresses.
    3. Of the rest keep all; strike out what the kept ones suppress; repeat until nothing changes. Each round settles at
       least one more box, and the first two or three settle nearly all.
    4. End with the k-th kept box.

    Args:
        boxes: (N, 4).
        scores: (N,), -inf in empty slots.
        groups: (N,) int64.

    Returns:
        (n,) int64 into N, n <= k.

    Everything by pairs is float arithmetic on whole blocks: on a CPU comparing two matrices takes PyTorch ten times as
    long as multiplying them.
    """
    sorted_scores, order = scores.sort(descending=True, stable=True)
    order = order[: int((sorted_scores > -torch.inf).sum())]
    boxes, groups = boxes[order], groups[order]
    threshold = float32_below(iou_threshold) if boxes.dtype == torch.float32 else iou_threshold
    has_groups = len(groups) > 0 and bool((groups != groups[0]).any())
    # One column a box: x1, y1, x2, y2, area, group
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

    In the order of torchvision's kernels, so that it rounds as they do.
    """
    x1, y1, x2, y2, own_area, group = boxes[:, :, None]
    other_x1, other_y1, other_x2, other_y2, other_area, other_group = others
    shared = torch.minimum(x2, other_x2).sub_(torch.maximum(x1, other_x1)).relu_()
    shared *= torch.minimum(y2, other_y2).sub_(torch.maximum(y1, other_y1)).relu_()
    # Where both have no area, the quotient is to be 0, not nan.
    union = (own_area + other_area).sub_(shared).clamp_(min=torch.finfo(shared.dtype).tiny)
    iou = shared.div_(union)
    return iou.mul_((group - other_group).abs_().neg_().add_(1).relu_()) if has_groups else iou


def _first_kept_cuda(
    boxes: Tensor, scores: Tensor, groups: Tensor, *, iou_threshold: float, k: int, k_per_group: int
) -> Tensor:
    """`first_kept` by torchvision's CUDA kernel, which finds all kept boxes; the host waits for it."""
    real = torch.nonzero(scores > -torch.inf).squeeze(1)
    boxes, scores, groups = boxes[real], scores[real], groups[real]
    # One launch: groups are moved apart, in float64 so that the shift does not change any IoU.
    apart = groups.double() * (boxes.max() - boxes.min() + 1).double() if len(boxes) else groups.double()
    kept = torchvision.ops.nms(boxes.double() + apart[:, None], scores.double(), iou_threshold)
    if k_per_group < k:
        kept = kept[_rank_in_group(groups[kept]) < k_per_group]
    return real[kept[:k]]


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
        scores: (B, N); a box of score -inf or nan is an empty slot and never kept.
        groups: (B, N) int64 from 0 on, below 2**24, such as levels or classes; boxes of different groups do not
            suppress each other. None is one group.
        iou_threshold: in 0..1.
        k: length of the result.
        k_per_group: None is no limit.

    Returns:
        index (B, k) int64 into N, by falling score, 0 in empty slots; valid (B, k) bool.

    No gradient. Equal to `torchvision.ops.nms` run on each image and group on a CPU.
    """
    if groups is None:
        groups = torch.zeros(scores.shape, dtype=torch.int64, device=scores.device)
    scores = torch.where(scores > -torch.inf, scores, -torch.inf)  # nan too is no score
    return _nms(widen(boxes), widen(scores), groups, iou_threshold, k, k_per_group or 0)
