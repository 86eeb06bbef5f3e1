"""Non-maximum suppression on a GPU: one kernel for the whole batch, without host sync.

Imported only when it is used, because Triton is not available everywhere. Triton's interpreter runs the same code on a
CPU; most tests use it.
"""

# pyright: reportCallIssue=false, reportOperatorIssue=false
# (a kernel is written in Triton's language, which the type checker reads as Python)

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 64
"""Number of candidates, and of kept boxes, that are compared at once."""
WARPS = 16


def first_kept(
    boxes: Tensor, scores: Tensor, groups: Tensor, *, iou_threshold: float, k: int, k_per_group: int
) -> tuple[Tensor, Tensor]:
    """The first boxes kept in each image, best first: at most k, and at most k_per_group of each group.

    The algorithm of `nms.first_kept`, with one program per image: blocks of candidates in order of descending score,
    each compared with the kept boxes and then with itself, up to the k-th kept box.

    Args:
        boxes: (B, N, 4) float32.
        scores: (B, N) float32, -inf in empty slots.
        groups: (B, N) int64, below 2**31.
        iou_threshold: a float32 number, see `nms.float32_below`.
        k: at least 1.

    Returns:
        index (B, k) int64 into N, 0 in empty slots; valid (B, k) bool.
    """
    batch, count = scores.shape
    order = scores.argsort(dim=1, descending=True, stable=True)
    num_real = (scores > -torch.inf).sum(dim=1, dtype=torch.int32)
    index = torch.zeros((batch, k), dtype=torch.int64, device=boxes.device)
    num_kept = torch.zeros((batch,), dtype=torch.int32, device=boxes.device)
    if count > 0 and k > 0:
        with torch.cuda.device_of(boxes):  # Triton launches on the current device
            _first_kept[(batch,)](
                boxes.gather(1, order[..., None].expand(-1, -1, 4)).contiguous(),
                groups.gather(1, order).to(torch.int32).contiguous(),
                order.contiguous(),
                num_real,
                torch.empty((batch, k, 4), dtype=torch.float32, device=boxes.device),
                torch.empty((batch, k), dtype=torch.int32, device=boxes.device),
                index,
                num_kept,
                count,
                k,
                k_per_group,
                iou_threshold,
                BLOCK=BLOCK,
                num_warps=WARPS,
                num_stages=1,
                # Fused multiply-add rounds once, so that IoUs would differ from a CPU's in their last digit.
                enable_fp_fusion=False,
            )
    return index, torch.arange(k, device=boxes.device) < num_kept[:, None]


@triton.jit
def _first_kept(
    boxes,  # (B, N, 4) by descending score
    groups,  # (B, N)
    order,  # (B, N) positions before sorting
    num_real,  # (B,) number of candidates
    kept_boxes,  # (B, k, 4) space for kept boxes
    kept_groups,  # (B, k) and their groups
    index,  # (B, k) result
    num_kept,  # (B,) result
    count,  # N
    k,
    k_per_group,
    iou_threshold,
    BLOCK: tl.constexpr,
):
    image = tl.program_id(0).to(tl.int64)
    boxes += image * count * 4
    groups += image * count
    order += image * count
    kept_boxes += image * k * 4
    kept_groups += image * k
    index += image * k
    real = tl.load(num_real + image)
    lane = tl.arange(0, BLOCK)
    is_before = lane[:, None] < lane[None, :]
    start = 0
    done = 0
    while (start < real) & (done < k):
        # 1. A block of candidates, one per column.
        slot = start + lane
        is_left = slot < real
        x1, y1, x2, y2 = _load(boxes, slot, is_left)
        group = tl.load(groups + slot, mask=is_left, other=-1)

        # 2. Boxes kept earlier, block by block, one per row.
        num_of_group = tl.zeros((BLOCK,), dtype=tl.int32)
        for first in range(0, done, BLOCK):
            row = first + lane
            is_row = row < done
            kept_x1, kept_y1, kept_x2, kept_y2 = _load(kept_boxes, row, is_row)
            kept_group = tl.load(kept_groups + row, mask=is_row, other=-2)
            is_same = kept_group[:, None] == group[None, :]
            is_over = is_same & _is_over(kept_x1, kept_y1, kept_x2, kept_y2, x1, y1, x2, y2, iou_threshold)
            is_left = is_left & (tl.max(is_over.to(tl.int32), axis=0) == 0)
            num_of_group += tl.sum(is_same.to(tl.int32), axis=0)

        # 3. Compare the block with itself until nothing changes.
        is_same = (group[:, None] == group[None, :]) & is_before
        is_over = is_same & _is_over(x1, y1, x2, y2, x1, y1, x2, y2, iou_threshold)
        is_kept = is_left.to(tl.int32)
        num_changed = 1
        while num_changed > 0:
            is_struck = tl.max(is_over.to(tl.int32) * is_kept[:, None], axis=0)
            judged = is_left.to(tl.int32) * (1 - is_struck)
            num_changed = tl.sum((judged != is_kept).to(tl.int32), axis=0)
            is_kept = judged

        # 4. Apply the limit of the group, then of the result.
        rank = num_of_group + tl.sum(is_same.to(tl.int32) * is_kept[:, None], axis=0)
        is_kept = is_kept * (rank < k_per_group).to(tl.int32)
        place = done + tl.cumsum(is_kept, axis=0) - 1
        is_stored = (is_kept > 0) & (place < k)
        tl.store(index + place, tl.load(order + slot, mask=is_stored, other=0), mask=is_stored)
        tl.store(kept_groups + place, group, mask=is_stored)
        tl.store(kept_boxes + place * 4, x1, mask=is_stored)
        tl.store(kept_boxes + place * 4 + 1, y1, mask=is_stored)
        tl.store(kept_boxes + place * 4 + 2, x2, mask=is_stored)
        tl.store(kept_boxes + place * 4 + 3, y2, mask=is_stored)
        done = tl.minimum(done + tl.sum(is_kept, axis=0), k)
        start += BLOCK
        tl.debug_barrier()  # all threads see the list before any continues
    tl.store(num_kept + image, done)


@triton.jit
def _load(boxes, slot, mask):
    """Corners of some boxes; boxes outside `mask` are points."""
    x1 = tl.load(boxes + slot * 4, mask=mask, other=0.0)
    y1 = tl.load(boxes + slot * 4 + 1, mask=mask, other=0.0)
    x2 = tl.load(boxes + slot * 4 + 2, mask=mask, other=0.0)
    y2 = tl.load(boxes + slot * 4 + 3, mask=mask, other=0.0)
    return x1, y1, x2, y2


@triton.jit
def _is_over(x1, y1, x2, y2, other_x1, other_y1, other_x2, other_y2, iou_threshold):
    """Whether the IoU of each pair is above the threshold, in the order of torchvision's kernels.

    Two boxes without area give nan, which is not above the threshold. `div_rn` is the IEEE division; Triton's `/` is
    not.
    """
    width = tl.minimum(x2[:, None], other_x2[None, :]) - tl.maximum(x1[:, None], other_x1[None, :])
    height = tl.minimum(y2[:, None], other_y2[None, :]) - tl.maximum(y1[:, None], other_y1[None, :])
    shared = tl.maximum(width, 0.0) * tl.maximum(height, 0.0)
    area = (x2 - x1) * (y2 - y1)
    other_area = (other_x2 - other_x1) * (other_y2 - other_y1)
    return tl.div_rn(shared, area[:, None] + other_area[None, :] - shared) > iou_threshold
