"""Padding images and ground truth to one batch."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from frcnn.structures import Batch, GroundTruth

CANVAS_MULTIPLE = 32
SMALLEST_BUCKET = 8


class Sample(NamedTuple):
    """One image with its annotation, before and after augmentation."""

    image: Tensor
    """(3, h, w) uint8."""
    boxes: Tensor
    """(n, 4) float32, pixels of `image`."""
    labels: Tensor
    """(n,) int64 in 1..K."""
    is_ignored: Tensor
    """(n,) bool."""
    original_size: Tensor
    """(2,) int64 (height, width) of the image file."""
    index: int
    """Position in the dataset."""
    seed: int
    """See `structures.Batch`."""


def ground_truth_slots(count: int) -> int:
    """The smallest of 8, 16, 32, 64, ... that is at least `count`: few different shapes, and no object is cut.

    >>> [ground_truth_slots(count) for count in (0, 8, 9, 200)]
    [8, 8, 16, 256]
    """
    slots = SMALLEST_BUCKET
    while slots < count:
        slots *= 2
    return slots


def canvas_size(height: int, width: int) -> tuple[int, int]:
    """Round both sides up to a multiple of 32.

    >>> canvas_size(600, 800)
    (608, 800)
    """
    return math.ceil(height / CANVAS_MULTIPLE) * CANVAS_MULTIPLE, math.ceil(width / CANVAS_MULTIPLE) * CANVAS_MULTIPLE


def collate(samples: Sequence[Sample]) -> Batch:
    """Pad images with zeros and ground truth with empty slots.

    The canvas is the `canvas_size` of the largest height and the largest width of the batch. Images are placed in its
    upper left corner. Empty slots have the box [0, 0, 1, 1] and label 0 (see `structures`).
    """
    size = len(samples)
    height, width = canvas_size(
        max(sample.image.shape[1] for sample in samples), max(sample.image.shape[2] for sample in samples)
    )
    slots = ground_truth_slots(max(len(sample.boxes) for sample in samples))

    images = torch.zeros(size, 3, height, width, dtype=torch.uint8)
    boxes = torch.tensor([0.0, 0.0, 1.0, 1.0]).repeat(size, slots, 1)
    labels = torch.zeros(size, slots, dtype=torch.int64)
    is_ignored = torch.zeros(size, slots, dtype=torch.bool)
    valid = torch.zeros(size, slots, dtype=torch.bool)
    for row, sample in enumerate(samples):
        count = len(sample.boxes)
        images[row, :, : sample.image.shape[1], : sample.image.shape[2]] = sample.image
        boxes[row, :count] = sample.boxes
        labels[row, :count] = sample.labels
        is_ignored[row, :count] = sample.is_ignored
        valid[row, :count] = True
    return Batch(
        images=images,
        image_sizes=torch.tensor([sample.image.shape[1:] for sample in samples]),
        original_sizes=torch.stack([sample.original_size for sample in samples]),
        index=torch.tensor([sample.index for sample in samples]),
        seed=torch.tensor([sample.seed for sample in samples]),
        ground_truth=GroundTruth(boxes, labels, is_ignored, valid),
    )
