"""Match boxes to ground truth, for anchors and regions alike.

A box is compared with real objects by IoU and with ignore regions (crowds, difficult objects) by coverage. Ground truth
in empty slots is never matched.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from frcnn.ops import boxes as box_ops
from frcnn.structures import GroundTruth

MATCH_BYTES = 200 * 2**20
"""Memory for the comparison of boxes with ground truth. The IoU of all anchors with all slots would take 1.1 GB at
B=16, A=268569, G=64, so it is reduced chunk by chunk and never stored whole."""
PAIR_BYTES = 24
"""Peak memory per pair of a box and a slot in `match_boxes`: three points of two float32 numbers each."""


class Match(NamedTuple):
    """Comparison of N boxes of each image with its ground truth."""

    iou: Tensor
    """(B, N) IoU with the best object of each box; 0 if it overlaps no object."""
    index: Tensor
    """(B, N) int64 index of that object in G; the first one if several are equal."""
    is_best_of_object: Tensor
    """(B, N) bool: the box has the highest IoU of all boxes with some object (ties included), and this IoU is above 0
    and at least iou_low_quality."""
    ignore_coverage: Tensor
    """(B, N) largest share of the box's area that lies in a single ignore region."""


def match_boxes(boxes: Tensor, ground_truth: GroundTruth, *, iou_low_quality: float = 0.0) -> Match:
    """Compare boxes (B, N, 4) with the ground truth of their images, as many slots at a time as `slots_at_once` gives.

    Args:
        iou_low_quality: see `Match.is_best_of_object`.
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
        del covered  # otherwise it would stay in memory next to the IoU
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


def is_on_image(anchors: Tensor, image_sizes: Tensor, *, inside_only: bool, skip_padding: bool) -> Tensor:
    """Whether each anchor can be used in each image: (A, 4) and (B, 2) (height, width) -> (B, A) bool.

    Args:
        inside_only: exclude anchors that are not wholly inside the image.
        skip_padding: exclude anchors whose center is in the padding.
    """
    height, width = image_sizes[:, :1].to(anchors.dtype), image_sizes[:, 1:].to(anchors.dtype)  # (B, 1)
    is_on = torch.ones((len(image_sizes), len(anchors)), dtype=torch.bool, device=anchors.device)
    if skip_padding:
        x, y = (anchors[:, :2] + anchors[:, 2:]).unbind(1)
        is_on &= (x / 2 < width) & (y / 2 < height)
    if inside_only:
        is_on &= (anchors[:, :2] >= 0).all(dim=1) & (anchors[:, 2] <= width) & (anchors[:, 3] <= height)
    return is_on
