"""The second stage: pooling, head, predictor, targets, losses and detections of regions of interest."""

from collections.abc import Sequence

from torch import Tensor, nn

from frcnn.model.losses.losses import RoiLoss
from frcnn.model.roi.detection import DetectionSelector
from frcnn.model.roi.heads import BoxPredictor
from frcnn.model.roi.pooling import RoiPooling
from frcnn.model.roi.targets import RoiSampler
from frcnn.ops.pixel_table import PixelTable
from frcnn.structures import Canvas, Detections, GroundTruth, Losses, Proposals


class RoiHead(nn.Module):
    """Classify and refine regions of interest (Girshick 2015, section 2).

    Args:
        pooling: maps and boxes -> (N, C, S, S).
        head: (N, C, S, S) -> (N, D) or (N, D, h, w).
        predictor: -> class logits and deltas.
        sample_rois: training targets.
        loss: losses of the sampled regions.
        select_detections: class logits and deltas -> final boxes.
    """

    def __init__(
        self,
        *,
        pooling: RoiPooling,
        head: nn.Module,
        predictor: BoxPredictor,
        sample_rois: RoiSampler,
        loss: RoiLoss,
        select_detections: DetectionSelector,
    ):
        super().__init__()
        self.pooling = pooling
        self.head = head
        self.predictor = predictor
        self.sample_rois = sample_rois
        self.loss = loss
        self.select_detections = select_detections

    def forward_train(
        self,
        features: Sequence[Tensor],
        proposals: Proposals,
        ground_truth: GroundTruth,
        positions: Tensor,
        seed: Tensor,
        *,
        table: PixelTable | None = None,
    ) -> Losses:
        """Sample regions from proposals and ground truth, and compute their losses.

        Args:
            features: maps (B, C, Hl, Wl).
            positions: (A,) see `AnchorGenerator.positions`.
            seed: (B,) see `Batch.seed`.
            table: the maps as a table, if there is one already.
        """
        samples = self.sample_rois(proposals, ground_truth, positions, seed)
        class_logits, deltas = self(features, samples.boxes, table)
        return self.loss(class_logits, deltas, samples)

    def forward_detect(self, features: Sequence[Tensor], canvas: Canvas, proposals: Proposals) -> Detections:
        """Classify and refine all proposals, and select the final boxes."""
        class_logits, deltas = self(features, proposals.boxes)
        return self.select_detections(class_logits, deltas, proposals, canvas)

    def forward(
        self, features: Sequence[Tensor], boxes: Tensor, table: PixelTable | None = None
    ) -> tuple[Tensor, Tensor]:
        """Boxes (B, R, 4) on the canvas -> class_logits (B, R, K + 1), deltas (B, R, K or 1, 4)."""
        class_logits, deltas = self.predictor(self.head(self.pooling(features, boxes, table)))
        shape = boxes.shape[:2]
        return class_logits.unflatten(0, shape), deltas.unflatten(0, shape)
