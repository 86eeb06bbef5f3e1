"""Anchor labels, region samples and losses against torchvision's RPN and RoI heads."""

import dataclasses

import pytest
import torch
from torchvision.models.detection._utils import BoxCoder, Matcher
from torchvision.models.detection.roi_heads import fastrcnn_loss
from torchvision.models.detection.rpn import RegionProposalNetwork
from torchvision.ops import box_iou

from frcnn.model.losses.losses import RoiLoss, RpnLoss
from frcnn.model.matching import match_boxes
from frcnn.model.rpn.targets import AnchorLabeller
from frcnn.structures import AnchorLabels, GroundTruth, RoiSamples, RpnOutput

LABEL = AnchorLabeller(
    iou_positive=0.7,
    iou_negative=0.3,
    iou_low_quality=0.0,
    ignore_overlap=0.5,
    inside_only=False,
    skip_padding=False,
)
RPN_LOSS = RpnLoss(smooth_l1_beta=1 / 9, normaliser="sampled")


def boxes_on_a_grid(count, *, step=8, extent=20):
    """Boxes with whole corners, so that many pairs have exactly the same IoU."""
    corner = torch.randint(0, extent, (count, 2)) * step
    return torch.cat([corner, corner + torch.randint(1, 8, (count, 2)) * step], dim=1).float()


def ground_truth_of(objects, *, slots=None, ignored=None):
    """Ground truth of a batch from a list of (n, 4) boxes."""
    slots = slots or max(8, *(len(boxes) for boxes in objects))
    padded = torch.tensor([0.0, 0, 1, 1]).repeat(len(objects), slots, 1)
    valid = torch.zeros(len(objects), slots, dtype=torch.bool)
    is_ignored = torch.zeros_like(valid)
    for image, boxes in enumerate(objects):
        padded[image, : len(boxes)] = boxes
        valid[image, : len(boxes)] = True
        if ignored:
            is_ignored[image, : len(boxes)] = ignored[image]
    labels = torch.where(valid, torch.randint(1, 5, valid.shape), 0)
    return GroundTruth(padded, labels, is_ignored, valid)


@pytest.mark.parametrize("count", [1, 5, 8, 9, 21])
def test_anchor_labels_equal_torchvision_with_ties_and_the_low_quality_rule(count):
    anchors = boxes_on_a_grid(3000)
    objects = [boxes_on_a_grid(count), boxes_on_a_grid(max(1, count - 1))]
    labels = LABEL(anchors, ground_truth_of(objects), torch.tensor([[999, 999]] * 2))
    matcher = Matcher(0.7, 0.3, allow_low_quality_matches=True)
    low_quality = 0
    for image, boxes in enumerate(objects):
        iou = box_iou(boxes, anchors)
        expected = matcher(iou)
        label = torch.where(expected >= 0, 1, torch.where(expected == Matcher.BELOW_LOW_THRESHOLD, 0, -1))
        assert torch.equal(labels.label[image].long(), label)
        positive = label == 1
        assert torch.equal(labels.matched[image][positive], expected[positive])
        low_quality += int((positive & (iou.max(dim=0).values < 0.7)).sum())
    assert low_quality > 0, "the data must use the low-quality rule"


def test_an_object_that_overlaps_no_anchor_is_not_matched():
    anchors = boxes_on_a_grid(100)
    far = torch.tensor([[5000.0, 5000, 5100, 5100]])
    labels = LABEL(anchors, ground_truth_of([far]), torch.tensor([[9999, 9999]]))
    assert (labels.label == 0).all()


def test_an_image_without_objects_is_background():
    labels = LABEL(boxes_on_a_grid(50), ground_truth_of([torch.zeros(0, 4)]), torch.tensor([[999, 999]]))
    assert (labels.label == 0).all() and (labels.matched == 0).all()


def test_background_inside_an_ignore_region_is_ignored_and_objects_in_it_stay():
    anchors = torch.tensor([[0.0, 0, 10, 10], [50, 50, 60, 60], [6, 0, 16, 10], [200, 200, 210, 210]])
    objects = torch.tensor([[0.0, 0, 100, 100], [50, 50, 60, 60]])
    ground_truth = ground_truth_of([objects], ignored=[torch.tensor([True, False])])
    labels = LABEL(anchors, ground_truth, torch.tensor([[999, 999]]))
    assert labels.label.tolist() == [[-1, 1, -1, 0]]
    assert labels.matched[0, 1] == 1


def test_an_ignore_region_is_never_matched():
    boxes = torch.tensor([[[0.0, 0, 10, 10]]])
    ground_truth = ground_truth_of([boxes[0]], ignored=[torch.tensor([True])])
    match = match_boxes(boxes, ground_truth)
    assert match.iou.item() == 0 and not match.is_best_of_object.any() and match.ignore_coverage.item() == 1


@pytest.mark.parametrize(
    ("inside_only", "skip_padding", "expected"),
    [(False, False, [0, 0, 0]), (False, True, [0, 0, -1]), (True, True, [0, -1, -1])],
)
def test_anchors_off_the_image(inside_only, skip_padding, expected):
    """One inside an image of 100 x 100, one over its border, one centered in the padding."""
    anchors = torch.tensor([[0.0, 0, 10, 10], [90, 90, 105, 105], [100, 0, 120, 20]])
    label_anchors = dataclasses.replace(LABEL, inside_only=inside_only, skip_padding=skip_padding)
    labels = label_anchors(anchors, ground_truth_of([torch.zeros(0, 4)]), torch.tensor([[100, 100]]))
    assert labels.label[0].tolist() == expected


def test_rpn_losses_equal_torchvision_on_the_same_samples():
    anchors = boxes_on_a_grid(500)
    objects = [boxes_on_a_grid(6), boxes_on_a_grid(3)]
    ground_truth = ground_truth_of(objects)
    labels = LABEL(anchors, ground_truth, torch.tensor([[999, 999]] * 2))
    output = RpnOutput(torch.randn(2, 500, requires_grad=True), torch.randn(2, 500, 4, requires_grad=True))

    chosen = torch.rand(2, 500) < 0.4
    chosen &= labels.label >= 0
    index = torch.zeros(2, 300, dtype=torch.int64)
    valid = torch.zeros(2, 300, dtype=torch.bool)
    for image in range(2):
        where = torch.nonzero(chosen[image]).squeeze(1)
        index[image, : len(where)] = where
        valid[image, : len(where)] = True
    ours = tuple(RPN_LOSS(output.at(index), anchors, labels, ground_truth.boxes, index, valid).values())

    coder = BoxCoder((1.0, 1.0, 1.0, 1.0))
    matched = [ground_truth.boxes[image][labels.matched[image]] for image in range(2)]
    targets = coder.encode(matched, [anchors] * 2)

    class Sampled:  # replaces the sampler and the rest of the network
        def fg_bg_sampler(self, labels):
            flat = [label[mask] for label, mask in zip(labels, chosen, strict=True)]
            assert all((label >= 0).all() for label in flat)
            return (
                [((label == 1) & mask).to(torch.uint8) for label, mask in zip(labels, chosen, strict=True)],
                [((label == 0) & mask).to(torch.uint8) for label, mask in zip(labels, chosen, strict=True)],
            )

    theirs = RegionProposalNetwork.compute_loss(
        Sampled(),
        output.objectness.reshape(-1, 1),
        output.deltas.reshape(-1, 4),
        [label.float() for label in labels.label],
        list(targets),
    )
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, atol=1e-6, rtol=1e-5)
    for field in output:
        mine, other = (torch.autograd.grad(sum(pair), field, retain_graph=True)[0] for pair in (ours, theirs))
        torch.testing.assert_close(mine, other, atol=1e-7, rtol=1e-4)


def test_roi_losses_equal_torchvision_on_the_same_samples():
    regions = boxes_on_a_grid(128).view(2, 64, 4)
    objects = regions + torch.rand(2, 64, 4)
    labels = torch.randint(0, 5, (2, 64))
    samples = RoiSamples(regions, labels, objects, torch.ones(2, 64, dtype=torch.bool))
    logits = torch.randn(2, 64, 5, requires_grad=True)
    deltas = torch.randn(2, 64, 4, 4, requires_grad=True)
    weights = (10.0, 10.0, 5.0, 5.0)
    ours = tuple(RoiLoss(box_weights=weights, smooth_l1_beta=1 / 9)(logits, deltas, samples).values())

    targets = BoxCoder(weights).encode(list(objects), list(regions))
    with_background = torch.cat([torch.zeros(2, 64, 1, 4), deltas], dim=2).reshape(128, 20)
    theirs = fastrcnn_loss(logits.reshape(128, 5), with_background, list(labels), list(targets))
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, atol=1e-6, rtol=1e-5)
    for tensor in (logits, deltas):
        mine, other = (torch.autograd.grad(sum(pair), tensor, retain_graph=True)[0] for pair in (ours, theirs))
        torch.testing.assert_close(mine, other, atol=1e-7, rtol=1e-4)


def test_losses_without_any_sample_are_zero_and_differentiable():
    output = RpnOutput(torch.randn(1, 10, requires_grad=True), torch.randn(1, 10, 4, requires_grad=True))
    labels = AnchorLabels(torch.full((1, 10), -1, dtype=torch.int8), torch.zeros(1, 10, dtype=torch.int64))
    nothing = torch.zeros(1, 4, dtype=torch.bool)
    index = torch.zeros(1, 4, dtype=torch.int64)
    losses = RPN_LOSS(output.at(index), torch.ones(10, 4), labels, torch.zeros(1, 8, 4), index, nothing)
    gradients = torch.autograd.grad(sum(losses.values()), list(output))
    assert [loss.item() for loss in losses.values()] == [0, 0]
    assert all((gradient == 0).all() for gradient in gradients)
