"""The region proposal network: layers, anchors, targets, losses and proposals (Ren et al. 2015, section 3)."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from frcnn.model.losses.losses import RpnLoss
from frcnn.model.rpn.anchors import AnchorGenerator
from frcnn.model.rpn.head import RpnHead
from frcnn.model.rpn.proposals import ProposalSelector
from frcnn.model.rpn.targets import AnchorLabeller, AnchorSampler
from frcnn.ops.pixel_table import PixelTable, map_sizes, pixel_table
from frcnn.structures import Canvas, GroundTruth, Losses, Proposals, RpnOutput


class RpnStep(NamedTuple):
    """Results of the RPN in a training step."""

    losses: Losses
    proposals: Proposals
    positions: Tensor
    """(A,) int64, see `AnchorGenerator.positions`."""
    table: PixelTable | None
    """The maps as a table, if the RPN has made one."""


class RegionProposalNetwork(RpnHead):
    """The RPN. It is a subclass of its head, so that the layers keep their names in state dicts (`rpn.convs`, ...).

    Args:
        in_channels: channels of the maps.
        channels, num_convs, objectness: see `RpnHead`.
        anchors: sizes of the maps -> anchors.
        label_anchors, sample_anchors: training targets.
        loss: losses at the sampled anchors.
        propose_train, propose_test: proposals in training and in detection.
    """

    def __init__(
        self,
        in_channels: int,
        *,
        channels: int | None,
        num_convs: int = 1,
        objectness: str = "sigmoid",
        anchors: AnchorGenerator,
        label_anchors: AnchorLabeller,
        sample_anchors: AnchorSampler,
        loss: RpnLoss,
        propose_train: ProposalSelector,
        propose_test: ProposalSelector,
    ):
        num_anchors = anchors.num_anchors
        super().__init__(
            in_channels, channels=channels, num_anchors=num_anchors, num_convs=num_convs, objectness=objectness
        )
        self.anchors = anchors
        self.label_anchors = label_anchors
        self.sample_anchors = sample_anchors
        self.loss = loss
        self.propose_train = propose_train
        self.propose_test = propose_test

    def forward_train(
        self, features: Sequence[Tensor], canvas: Canvas, ground_truth: GroundTruth, seed: Tensor
    ) -> RpnStep:
        """Losses and proposals of a training batch.

        1. Label all anchors, and sample some of them.
        2. Compute objectness and deltas, and the losses at the sampled anchors.
        3. Select proposals.

        Args:
            features: maps (B, C, Hl, Wl).
            seed: (B,) see `Batch.seed`.
        """
        sizes = map_sizes(features)
        anchors, positions = self.anchors(sizes, canvas.size), self.anchors.positions(sizes)
        labels = self.label_anchors(anchors, ground_truth, canvas.image_sizes)
        index, valid = self.sample_anchors(labels, positions, seed)

        table = pixel_table(features) if self.is_sampling_cheaper(features, index) else None
        output, sampled = self.dense_and_sampled(features, table, index)
        losses = self.loss(sampled, anchors, labels, ground_truth.boxes, index, valid)

        proposals = self.propose_train(output, anchors, self.anchors.per_level(sizes), canvas)
        return RpnStep(losses, proposals, positions, table)

    def forward_detect(self, features: Sequence[Tensor], canvas: Canvas) -> Proposals:
        """Proposals in detection, from maps (B, C, Hl, Wl)."""
        sizes = map_sizes(features)
        anchors = self.anchors(sizes, canvas.size)
        return self.propose_test(self(features), anchors, self.anchors.per_level(sizes), canvas)

    def is_sampling_cheaper(self, features: Sequence[Tensor], index: Tensor) -> bool:
        """Whether a second pass over the sampled anchors (B, S) costs less than the backward pass over whole maps.

        The backward pass costs twice the forward pass over all positions. The second pass, forward and backward, costs
        three times the forward pass over the positions that the sampled anchors depend on. Used on a CPU only; it has
        not been measured on a GPU.
        """
        positions = sum(height * width for height, width in map_sizes(features))
        is_candidate = features[0].device.type == "cpu" and torch.is_grad_enabled()
        return is_candidate and 2 * positions > 3 * index.shape[1] * self.positions_seen

    def dense_and_sampled(
        self, features: Sequence[Tensor], table: PixelTable | None, index: Tensor
    ) -> tuple[RpnOutput, RpnOutput]:
        """Outputs of all anchors, for the proposals, and of the sampled ones, `index` (B, S), for the losses.

        The proposals need no gradient, and the losses need it at a few hundred anchors. With a table, the sampled
        anchors are computed a second time from the pixels that they depend on, and the dense pass has no gradient.
        """
        if table is None:
            output = self(features)
            return output, output.at(index)
        # Before the pass without gradient: autocast caches the weights it casts, and older versions of PyTorch cache
        # them without gradient (pytorch/pytorch#112583).
        sampled = self.at(table, index)
        with torch.no_grad():
            output = self(features)
        return output, sampled
