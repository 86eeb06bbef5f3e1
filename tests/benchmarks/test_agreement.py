"""The peer computes the same as ours, and the check detects deviations."""

import pytest
import torch

from benchmarks.agreement import compare_detections, compare_training
from benchmarks.build_torchvision import in_their_names
from tests.benchmarks.sides import ALL, NO_PEER, small_sides


@pytest.mark.parametrize("kind", ALL)
def test_detections_agree(kind):
    sides = small_sides(ALL[kind])
    agreement = compare_detections(sides.ours, sides.peer)
    assert agreement.agrees, agreement.reasons
    assert min(agreement.figures["detections"]) >= 10


@pytest.mark.parametrize("kind", ALL)
def test_losses_and_gradients_agree(kind):
    sides = small_sides(ALL[kind], "train")
    agreement = compare_training(sides.ours, sides.peer, in_their_names=in_their_names)
    assert agreement.agrees, agreement.reasons
    assert all(loss > 0 for losses in agreement.figures["losses"] for loss in losses)


@pytest.mark.parametrize("layer", ["rpn.head.cls_logits", "roi_heads.box_predictor.bbox_pred", "backbone.fpn"])
def test_different_weights_are_detected(layer):
    for what in ("detect", "train"):
        sides = small_sides(what=what)
        with torch.no_grad():
            next(sides.peer.model.get_submodule(layer).parameters()).mul_(-1)
        if what == "detect":
            agreement = compare_detections(sides.ours, sides.peer)
        else:
            agreement = compare_training(sides.ours, sides.peer, in_their_names=in_their_names)
        assert not agreement.agrees and agreement.reasons


def test_a_parameter_trained_on_one_side_only_is_detected():
    sides = small_sides(what="train")
    sides.peer.model.rpn.head.cls_logits.requires_grad_(False)
    agreement = compare_training(sides.ours, sides.peer, in_their_names=in_their_names)
    assert "trained on one side only" in "; ".join(agreement.reasons)


def test_the_check_does_not_change_the_sides():
    sides = small_sides(ALL["trained_norm"], "train")
    before = [{name: value.clone() for name, value in side.model.state_dict().items()} for side in sides.both]
    sampler = sides.peer.model.rpn.fg_bg_sampler
    compare_training(sides.ours, sides.peer, in_their_names=in_their_names)
    for side, state in zip(sides.both, before, strict=True):
        assert all(torch.equal(value, state[name]) for name, value in side.model.state_dict().items())
        assert all(parameter.grad is None for parameter in side.model.parameters())
    assert sides.peer.model.rpn.fg_bg_sampler is sampler


def test_a_config_that_torchvision_does_not_support_has_no_peer():
    sides = small_sides(NO_PEER)
    assert sides.peer is None and sides.no_peer == ["model.backbone.neck_norm is group"]
    assert not sides.adapted


def test_keys_with_one_value_in_torchvision_are_adapted():
    sides = small_sides(ALL["roi_pool"])
    assert sides.adapted["model.rpn.skip_padding"] is False
    assert sides.config.model.rpn.skip_padding is False
    assert "model.roi.add_ground_truth" not in sides.adapted
