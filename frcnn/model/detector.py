"""Faster R-CNN, put together (Ren et al. 2015).

Training:
    1. normalise the images; backbone -> feature maps
    2. label anchors, sample 256 of them
    3. RPN: objectness and deltas of every anchor; losses at the sampled ones
    4. propose: top 12000 -> clip -> NMS -> 2000
    5. sample 512 regions from proposals and ground truth
    6. pool, box head, RoI losses

Detection: 1, 3 without losses, 4, then pooling and box head on all proposals, and the final boxes.

The numbers are the defaults. Shapes are fixed from end to end; `structures` has the letters.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from frcnn.model.backbone.backbone import Backbone
from frcnn.model.roi.heads import RoiHead
from frcnn.model.rpn.anchors import AnchorGenerator
from frcnn.model.rpn.head import RpnHead
from frcnn.ops import boxes as box_ops
from frcnn.ops.pixel_table import PixelTable, pixel_table
from frcnn.structures import Batch, Detections, GroundTruth, Losses, Proposals, RpnOutput


@dataclass(frozen=True, kw_only=True)
class Stages:
    """The pure functions between the networks, with their numbers already bound (see `build`)."""

    label_anchors: Callable
    """`assignment.label_anchors`."""
    sample_anchors: Callable
    """`assignment.sample_anchors`."""
    rpn_losses: Callable
    """`losses.rpn_losses`."""
    propose_train: Callable
    """`rpn.propose` with the numbers of training."""
    propose_test: Callable
    """`rpn.propose` with the numbers of detection."""
    sample_rois: Callable
    """`assignment.sample_rois`."""
    roi_losses: Callable
    """`losses.roi_losses`."""
    detect: Callable
    """`detection.detect`."""


class FasterRCNN(nn.Module):
    """The detector.

    Args:
        backbone: normalised images -> tuple of maps.
        anchors: map sizes -> anchors.
        rpn: maps -> objectness and deltas.
        roi_head: maps and boxes -> class logits and deltas.
        stages: the functions between them.
        mean, std: of each channel in the order of `channels`, on the scale 0..255.
        channels: "rgb" or "bgr", what the backbone gets.
        plus_one: ground truth spans whole pixels as in the Caffe code, see `_ground_truth`.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        *,
        backbone: Backbone,
        anchors: AnchorGenerator,
        rpn: RpnHead,
        roi_head: RoiHead,
        stages: Stages,
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
        channels: str = "rgb",
        plus_one: bool = False,
    ):
        super().__init__()
        self.backbone = backbone
        self.anchors = anchors
        self.rpn = rpn
        self.roi_head = roi_head
        self.stages = stages
        self.channels = channels
        self.plus_one = plus_one
        self.register_buffer("mean", torch.tensor(mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(std)[:, None, None], persistent=False)

    def forward_train(self, batch: Batch) -> Losses:
        """The four losses of a batch.

        Which anchors and regions are drawn is a function of `batch.seed`; only dropout, where a head has it, draws
        from the global random state of the device.
        """
        scales = _scales(batch.image_sizes, batch.original_sizes)
        ground_truth = self._ground_truth(batch.ground_truth, scales)
        features, anchors = self._features(batch.images, batch.image_sizes)
        labels = self.stages.label_anchors(anchors, ground_truth, batch.image_sizes)
        positions = self.anchors.positions([_size(feature) for feature in features])
        index, valid = self.stages.sample_anchors(labels, positions, batch.seed)
        table = pixel_table(features) if self._is_sampling_cheaper(features, index) else None
        output, sampled = self._rpn_outputs(features, table, index)
        rpn_class, rpn_box = self.stages.rpn_losses(sampled, anchors, labels, ground_truth.boxes, index, valid)

        proposals = self._proposals(self.stages.propose_train, output, anchors, features, batch.image_sizes, scales)
        samples = self.stages.sample_rois(proposals, ground_truth, positions, batch.seed)
        class_logits, deltas = self.roi_head(features, samples.boxes, table)
        roi_class, roi_box = self.stages.roi_losses(class_logits, deltas, samples)
        return Losses(rpn_class, rpn_box, roi_class, roi_box)

    def forward_detect(self, images: Tensor, image_sizes: Tensor, original_sizes: Tensor | None = None) -> Detections:
        """Final boxes on the canvas.

        Args:
            images: (B, 3, H, W) RGB in 0..255, uint8 or float32; H and W multiples of 32.
            image_sizes: (B, 2) int64 (height, width) of the real part of each.
            original_sizes: (B, 2) int64 (height, width) before the resize; None if there was none. Only rules that
                count original pixels read it.
        """
        scales = _scales(image_sizes, image_sizes if original_sizes is None else original_sizes)
        features, anchors = self._features(images, image_sizes)
        proposals = self._proposals(
            self.stages.propose_test, self.rpn(features), anchors, features, image_sizes, scales
        )
        class_logits, deltas = self.roi_head(features, proposals.boxes)
        return self.stages.detect(class_logits, deltas, proposals, image_sizes, scales)

    def forward(self, batch: Batch) -> Losses:
        """`forward_train`, so that DistributedDataParallel can wrap the detector."""
        return self.forward_train(batch)

    def normalise(self, images: Tensor, image_sizes: Tensor) -> Tensor:
        """Order the channels, subtract the mean, divide by the deviation, pad with 0: (B, 3, H, W) float32."""
        if self.channels == "bgr":
            images = images.flip(1)
        height, width = images.shape[2:]
        is_row = torch.arange(height, device=images.device) < image_sizes[:, :1]  # (B, H)
        is_column = torch.arange(width, device=images.device) < image_sizes[:, 1:]  # (B, W)
        is_real = is_row[:, None, :, None] & is_column[:, None, None, :]
        return torch.where(is_real, (images.to(self.mean.dtype) - self.mean) / self.std, 0)

    def _features(self, images: Tensor, image_sizes: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        """Step 1: feature maps, and the anchors (A, 4) on them."""
        features = self.backbone(self.normalise(images, image_sizes))
        return features, self.anchors([_size(feature) for feature in features], _size(images))

    def _is_sampling_cheaper(self, features: tuple[Tensor, ...], index: Tensor) -> bool:
        """Whether to run the RPN once more at the sampled anchors (B, S) to spare the backward pass of whole maps.

        That pass costs twice the forward pass of all positions, the other way three times that of what the sampled ones
        see. Only on a CPU; on a GPU it was not measured.
        """
        positions = sum(feature.shape[2] * feature.shape[3] for feature in features)
        is_asked = features[0].device.type == "cpu" and torch.is_grad_enabled()
        return is_asked and 2 * positions > 3 * index.shape[1] * self.rpn.positions_seen

    def _rpn_outputs(
        self, features: tuple[Tensor, ...], table: PixelTable | None, index: Tensor
    ) -> tuple[RpnOutput, RpnOutput]:
        """Step 3: of every anchor for the proposals, and of the sampled ones, `index` (B, S), for the losses.

        Proposals need no gradient, and the losses need it at a few hundred anchors. With a table the dense backward
        pass is not run at all: the sampled anchors are computed once more from the pixels that they depend on.
        """
        if table is None:
            output = self.rpn(features)
            return output, output.at(index)
        # Before the pass without gradient: autocast keeps the weights it has cast, and older versions of PyTorch would
        # keep them without gradient (pytorch/pytorch#112583).
        sampled = self.rpn.at(table, index)
        with torch.no_grad():
            output = self.rpn(features)
        return output, sampled

    def _proposals(
        self,
        propose: Callable,
        output: RpnOutput,
        anchors: Tensor,
        features: tuple[Tensor, ...],
        image_sizes: Tensor,
        scales: Tensor,
    ) -> Proposals:
        """Step 4."""
        anchors_per_level = [feature.shape[2] * feature.shape[3] * self.anchors.num_anchors for feature in features]
        return propose(output, anchors, anchors_per_level, image_sizes, scales)

    def _ground_truth(self, ground_truth: GroundTruth, scales: Tensor) -> GroundTruth:
        """The ground truth that training compares with.

        The Caffe code resizes the positions of a box's first and last pixel, so that the box ends one pixel of the
        canvas after the last one's position, and not one resized pixel.
        """
        if not self.plus_one:
            return ground_truth
        return ground_truth._replace(boxes=box_ops.move_far_corners(ground_truth.boxes, 1 - scales))


def _scales(image_sizes: Tensor, original_sizes: Tensor) -> Tensor:
    """Canvas pixels to an original pixel, the mean of both axes: (B, 2) and (B, 2) -> (B,) float32."""
    return (image_sizes / original_sizes).mean(dim=1)


def _size(maps: Tensor) -> tuple[int, int]:
    return maps.shape[2], maps.shape[3]
