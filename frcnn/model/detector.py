"""Faster R-CNN (Ren et al. 2015).

Training:
    1. Normalize the images; backbone -> feature maps.
    2. RPN: label anchors and sample 256 of them; objectness and deltas; losses at the sampled anchors.
    3. RPN: select proposals: top 12000 -> clip -> NMS -> 2000.
    4. RoI head: sample 512 regions from proposals and ground truth.
    5. RoI head: pool, classify and refine them; losses.

Detection: step 1, the RPN without targets and losses, then pooling, the RoI head on all proposals, and the final boxes.

The numbers are the defaults of the config. Shapes are fixed from end to end; `structures` defines the letters.
"""

import torch
from torch import Tensor, nn

from frcnn.model.backbone.backbone import Backbone
from frcnn.model.roi.roi_head import RoiHead
from frcnn.model.rpn.rpn import RegionProposalNetwork
from frcnn.ops import boxes as box_ops
from frcnn.structures import Batch, Canvas, Detections, GroundTruth, Losses


class FasterRCNN(nn.Module):
    """The detector.

    Args:
        backbone: normalized images -> tuple of maps.
        rpn: maps -> losses and proposals.
        roi_head: maps and proposals -> losses and detections.
        mean, std: of each channel in the order of `channels`, on the scale 0..255.
        channels: "rgb" or "bgr", the order in which the backbone takes the channels.
        plus_one: ground truth spans whole pixels as in the Caffe code, see `_ground_truth`.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        *,
        backbone: Backbone,
        rpn: RegionProposalNetwork,
        roi_head: RoiHead,
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
        channels: str = "rgb",
        plus_one: bool = False,
    ):
        super().__init__()
        self.backbone = backbone
        self.rpn = rpn
        self.roi_head = roi_head
        self.channels = channels
        self.plus_one = plus_one
        self.register_buffer("mean", torch.tensor(mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(std)[:, None, None], persistent=False)

    def forward_train(self, batch: Batch) -> Losses:
        """Losses of a batch by name: those of the RPN, then those of the RoI head.

        The sampled anchors and regions are a function of `batch.seed`. Only dropout, if a head has it, draws from the
        global random state of the device.
        """
        canvas = _canvas(batch.images, batch.image_sizes, batch.original_sizes)
        ground_truth = self._ground_truth(batch.ground_truth, canvas.scales)
        features = self.backbone(self.normalise(batch.images, batch.image_sizes))
        rpn = self.rpn.forward_train(features, canvas, ground_truth, batch.seed)
        roi_losses = self.roi_head.forward_train(
            features, rpn.proposals, ground_truth, rpn.positions, batch.seed, table=rpn.table
        )
        return {**rpn.losses, **roi_losses}

    def forward_detect(self, images: Tensor, image_sizes: Tensor, original_sizes: Tensor | None = None) -> Detections:
        """Final boxes on the canvas.

        Args:
            images: (B, 3, H, W) RGB in 0..255, uint8 or float32; H and W are multiples of 32.
            image_sizes: (B, 2) int64 (height, width) of the real part of each image.
            original_sizes: (B, 2) int64 (height, width) before the resize; None if the images were not resized. Used
                only by rules that count original pixels.
        """
        canvas = _canvas(images, image_sizes, image_sizes if original_sizes is None else original_sizes)
        features = self.backbone(self.normalise(images, image_sizes))
        proposals = self.rpn.forward_detect(features, canvas)
        return self.roi_head.forward_detect(features, canvas, proposals)

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

    def _ground_truth(self, ground_truth: GroundTruth, scales: Tensor) -> GroundTruth:
        """The ground truth that targets are computed from.

        The Caffe code resizes the positions of the first and last pixel of a box. The box then ends one canvas pixel
        after the position of the last pixel, and not one resized pixel.
        """
        if not self.plus_one:
            return ground_truth
        return ground_truth._replace(boxes=box_ops.move_far_corners(ground_truth.boxes, 1 - scales))


def _canvas(images: Tensor, image_sizes: Tensor, original_sizes: Tensor) -> Canvas:
    return Canvas(images.shape[2:], image_sizes, scales=(image_sizes / original_sizes).mean(dim=1))
