"""The data structures of Faster R-CNN, from the loader to the detections.

Letters used for shapes in this package:

    B images of a batch     H W  the padded canvas, always in this order
    L pyramid levels        A    anchors of all levels together
    G ground-truth slots    P    proposals per image
    R sampled RoIs          D    detections per image
    C channels              K    foreground classes; background is label 0 and K never counts it

Every image of a batch has the same number of slots. The boolean mask `valid` is True where a slot is real, and travels
with the tensors it describes. Empty slots hold the box [0, 0, 1, 1], label 0 and score -inf, so that areas and
logarithms stay finite. No code may read these filler values as data.

Boxes are float32 xyxy pixels of the network's canvas with continuous edges (a box that covers one pixel is
[0, 0, 1, 1]), unless a name says otherwise (`boxes_original`).
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class GroundTruth(NamedTuple):
    """Annotated objects and ignore regions of a batch of images.

    An ignore region (a COCO crowd, a difficult VOC object) is annotated but is not an object. Boxes inside it are
    trained neither as foreground nor as background.
    """

    boxes: Tensor
    """(B, G, 4) float32."""
    labels: Tensor
    """(B, G) int64 in 1..K, 0 in empty slots."""
    is_ignored: Tensor
    """(B, G) bool, True for ignore regions; always False in empty slots."""
    valid: Tensor
    """(B, G) bool, True for objects and ignore regions alike."""

    @property
    def is_object(self) -> Tensor:
        """(B, G) bool: real and not an ignore region."""
        return self.valid & ~self.is_ignored


class Batch(NamedTuple):
    """A batch of images and their ground truth, as the loader returns it."""

    images: Tensor
    """(B, 3, H, W) RGB in 0..255, uint8 or float32, zero-padded at the right and the bottom."""
    image_sizes: Tensor
    """(B, 2) int64 (height, width) of the real part of each image on the canvas."""
    original_sizes: Tensor
    """(B, 2) int64 (height, width) before the resize."""
    index: Tensor
    """(B,) int64 position of each image in its dataset; -1 for an image that is not from a dataset."""
    seed: Tensor
    """(B,) int64, at least 0. All random draws for an image depend on this number alone, and not on the other images
    of the batch, the rank or the training step."""
    ground_truth: GroundTruth

    def to(self, device, *, non_blocking: bool = True) -> "Batch":
        """Move every tensor to `device`."""
        moved = [tensor.to(device, non_blocking=non_blocking) for tensor in self[:-1]]
        ground_truth = GroundTruth(*(tensor.to(device, non_blocking=non_blocking) for tensor in self.ground_truth))
        return Batch._make([*moved, ground_truth])

    def pin_memory(self) -> "Batch":
        """Copy every tensor to page-locked memory. The loader calls this if there is a GPU."""
        ground_truth = GroundTruth(*(tensor.pin_memory() for tensor in self.ground_truth))
        return Batch._make([*(tensor.pin_memory() for tensor in self[:-1]), ground_truth])


class Canvas(NamedTuple):
    """The images of a batch on their canvas."""

    size: Sequence[int]
    """(height, width) of the padded batch."""
    image_sizes: Tensor
    """(B, 2) int64 (height, width) of the real part of each image."""
    scales: Tensor
    """(B,) float32 canvas pixels per pixel of the original image, the mean of both axes."""


class RpnOutput(NamedTuple):
    """Outputs of the RPN head for every anchor; levels are concatenated, fine to coarse."""

    objectness: Tensor
    """(B, A) logits."""
    deltas: Tensor
    """(B, A, 4)."""

    def at(self, index: Tensor) -> "RpnOutput":
        """Outputs for the anchors `index` (B, S) int64 into A: objectness (B, S), deltas (B, S, 4)."""
        images, anchors = self.objectness.shape
        row = (index + anchors * torch.arange(images, device=index.device)[:, None]).flatten()
        # `gather` would keep the deltas of all anchors for the backward pass.
        objectness = self.objectness.flatten().index_select(0, row)
        deltas = self.deltas.flatten(0, 1).index_select(0, row)
        return RpnOutput(objectness.view(index.shape), deltas.view(*index.shape, 4))


class AnchorLabels(NamedTuple):
    """Training labels of all anchors."""

    label: Tensor
    """(B, A) int8: 1 for object, 0 for background, -1 for ignored."""
    matched: Tensor
    """(B, A) int64 index into G; 0 where the label is not 1."""


class Proposals(NamedTuple):
    """Class-agnostic boxes in order of descending score."""

    boxes: Tensor
    """(B, P, 4)."""
    scores: Tensor
    """(B, P) objectness logits, -inf in empty slots."""
    anchor_index: Tensor
    """(B, P) int64 index into A of the anchor that each box was decoded from; 0 in empty slots."""
    valid: Tensor
    """(B, P) bool."""


class RoiSamples(NamedTuple):
    """Regions sampled to train the RoI head, foreground first."""

    boxes: Tensor
    """(B, R, 4)."""
    labels: Tensor
    """(B, R) int64, 0 for background."""
    gt_boxes: Tensor
    """(B, R, 4) box of the object that each foreground region is regressed to."""
    valid: Tensor
    """(B, R) bool."""


Losses = dict[str, Tensor]
"""Scalar losses of a training step by name, in the order in which `total_loss` adds them."""


def total_loss(losses: Losses) -> Tensor:
    """Sum of the losses, added in their order."""
    return functools.reduce(torch.add, losses.values())


class Detections(NamedTuple):
    """Final boxes on the canvas, in order of descending score."""

    boxes: Tensor
    """(B, D, 4)."""
    scores: Tensor
    """(B, D) probabilities, 0 in empty slots."""
    labels: Tensor
    """(B, D) int64 in 1..K, 0 in empty slots."""
    valid: Tensor
    """(B, D) bool."""
