"""The named tuples that flow through Faster R-CNN, from the loader to the detections.

Letters used in every shape of this package:

    B images of a batch     H W  the padded canvas, always in this order
    L pyramid levels        A    anchors of all levels together
    G ground-truth slots    P    proposals an image
    R sampled RoIs          D    detections an image
    C channels              K    foreground classes; background is label 0 and K never counts it

Every image of a batch has the same number of slots. A boolean mask, `valid`, is True where a slot is real; it
travels with the tensors it describes. Empty slots hold the box [0, 0, 1, 1], label 0 and score -inf, so that areas
and logarithms stay finite; nothing may read meaning into those fillers.

Boxes are float32 xyxy pixels of the network's canvas, with continuous edges (a box covering one pixel is
[0, 0, 1, 1]), unless a name says otherwise (`boxes_original`).
"""

from typing import NamedTuple

import torch
from torch import Tensor


class GroundTruth(NamedTuple):
    """Annotated objects and ignore regions of a batch of images.

    An ignore region (a COCO crowd, a difficult VOC object) is real but is no object: what lies in it is neither
    trained as foreground nor as background.
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
    """One batch as the loader gives it and the detector takes it."""

    images: Tensor
    """(B, 3, H, W) RGB in 0..255, uint8 or float32, zero-padded at the right and the bottom."""
    image_sizes: Tensor
    """(B, 2) int64 (height, width) of the real part of each image on the canvas."""
    original_sizes: Tensor
    """(B, 2) int64 (height, width) before the resize."""
    index: Tensor
    """(B,) int64 position of each image in its dataset; -1 where there is none."""
    seed: Tensor
    """(B,) int64, not negative: what is drawn at random for an image follows from this number alone, so that it does
    not matter with which others, on which rank or after what the image is trained on."""
    ground_truth: GroundTruth

    def to(self, device, *, non_blocking: bool = True) -> "Batch":
        """Move every tensor to `device`."""
        moved = [tensor.to(device, non_blocking=non_blocking) for tensor in self[:-1]]
        ground_truth = GroundTruth(*(tensor.to(device, non_blocking=non_blocking) for tensor in self.ground_truth))
        return Batch._make([*moved, ground_truth])

    def pin_memory(self) -> "Batch":
        """Copy every tensor to page-locked memory; the loader calls this where a GPU is there."""
        ground_truth = GroundTruth(*(tensor.pin_memory() for tensor in self.ground_truth))
        return Batch._make([*(tensor.pin_memory() for tensor in self[:-1]), ground_truth])


class RpnOutput(NamedTuple):
    """What the RPN head says of every anchor, levels one after the other."""

    objectness: Tensor
    """(B, A) logits."""
    deltas: Tensor
    """(B, A, 4)."""

    def at(self, index: Tensor) -> "RpnOutput":
        """What it says of some anchors, `index` (B, S) into A: objectness (B, S), deltas (B, S, 4)."""
        images, anchors = self.objectness.shape
        row = (index + anchors * torch.arange(images, device=index.device)[:, None]).flatten()
        # Not by `gather`, which would keep all anchors' deltas for the backward pass.
        objectness = self.objectness.flatten().index_select(0, row)
        deltas = self.deltas.flatten(0, 1).index_select(0, row)
        return RpnOutput(objectness.view(index.shape), deltas.view(*index.shape, 4))


class AnchorLabels(NamedTuple):
    """What every anchor is to be trained as."""

    label: Tensor
    """(B, A) int8: 1 object, 0 background, -1 ignored."""
    matched: Tensor
    """(B, A) int64 index into G; 0 where the label is not 1."""


class Proposals(NamedTuple):
    """Class-agnostic boxes, best first."""

    boxes: Tensor
    """(B, P, 4)."""
    scores: Tensor
    """(B, P) objectness logits, -inf in empty slots."""
    anchor_index: Tensor
    """(B, P) int64 index into A of the anchor each box was decoded from; 0 in empty slots."""
    valid: Tensor
    """(B, P) bool."""


class RoiSamples(NamedTuple):
    """Regions drawn for training the box head, foreground first."""

    boxes: Tensor
    """(B, R, 4)."""
    labels: Tensor
    """(B, R) int64, 0 for background."""
    gt_boxes: Tensor
    """(B, R, 4) the object each foreground region is to be regressed to."""
    valid: Tensor
    """(B, R) bool."""


class Losses(NamedTuple):
    """The four scalar losses of a training step."""

    rpn_class: Tensor
    rpn_box: Tensor
    roi_class: Tensor
    roi_box: Tensor

    @property
    def total(self) -> Tensor:
        return self.rpn_class + self.rpn_box + self.roi_class + self.roi_box


class Detections(NamedTuple):
    """Final boxes, best first, on the canvas."""

    boxes: Tensor
    """(B, D, 4)."""
    scores: Tensor
    """(B, D) probabilities, 0 in empty slots."""
    labels: Tensor
    """(B, D) int64 in 1..K, 0 in empty slots."""
    valid: Tensor
    """(B, D) bool."""
