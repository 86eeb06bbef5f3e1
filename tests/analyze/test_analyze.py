"""Results of `analyze` compared with manual calculations and with torchvision's model."""

from contextlib import nullcontext

import pytest
import torch
from torch import nn
from torchvision.models.detection import fasterrcnn_resnet50_fpn

from frcnn.analyze.analyze import analyze
from frcnn.analyze.build_scene import read_config
from frcnn.analyze.counting import PartCounter
from frcnn.analyze.parts import strides_of
from frcnn.analyze.stages import wrapped
from frcnn.config import parse_config
from frcnn.config.schema.model import ModelConfig
from tests.benchmarks.sides import FPN, SINGLE, settings
from tests.model.detectors import small_detector
from tests.static.test_configs import CONFIGS


def small(model, **changes):
    return analyze(
        parse_config(settings(model), source="test"), num_classes=4, **{"size": (96, 128), "batch": 2} | changes
    )


def test_rpn_operations():
    """Maps of 24 x 32 and 6 x 8 with 256 channels, 24 channels in the RPN, 9 anchors, 256 samples per image."""
    of_position = 2 * 2 * (256 * 24 * 9 + 24 * 9 * 5)
    row = small(SINGLE, size=(384, 512))["parts"]["rpn head"]
    assert row["detect_forward"] == 24 * 32 * of_position
    assert row["train_forward"] == (24 * 32 + 256) * of_position
    assert row["trainable"] == (256 * 9 + 1) * 24 + (24 + 1) * 9 * 5
    row = small(SINGLE)["parts"]["rpn head"]  # fewer positions than samples: the dense pass serves both
    assert row["train_forward"] == row["detect_forward"] == 6 * 8 * of_position
    assert row["train_backward"] == 2 * row["train_forward"]


def test_box_head_operations():
    row = small(SINGLE)["parts"]["box head"]
    fully_connected = 256 * 7 * 7 * 32 + 32 * 32 + 32 * (5 + 16)
    assert row["train_forward"] == 2 * 2 * 16 * fully_connected  # 16 regions per image
    assert row["train_backward"] == 2 * row["train_forward"]
    assert row["detect_forward"] == 2 * 2 * 20 * fully_connected  # 20 proposals
    assert row["trainable"] == fully_connected + 32 + 32 + 5 + 16
    # saved: the pooled features, and the outputs of both layers
    assert row["saved_bytes"] == 4 * 2 * 16 * (256 * 7 * 7 + 32 + 32)


def test_roi_pooling_operations():
    """A region has 49 bins of 2 x 2 samples with 4 neighbors each, and 256 channels."""
    row = small(SINGLE)["parts"]["roi pooling"]
    assert row["train_forward"] == 2 * 2 * 16 * 49 * 16 * 256
    assert row["train_backward"] == row["train_forward"]


def test_a_labelled_part_keeps_its_numbers_and_is_restored():
    head = small_detector().roi_head
    points, loss = [(head, "loss", "losses")], head.loss
    with wrapped(points, lambda stage: nullcontext()):
        assert head.loss is not loss and head.loss.box_weights == loss.box_weights
    assert head.loss is loss


def test_twice_the_images_are_twice_the_work():
    one, two = small(FPN, batch=1), small(FPN)
    for name, row in two["parts"].items():
        for key in ("train_forward", "train_backward", "detect_forward"):
            assert row[key] == 2 * one["parts"][name][key], (name, key)
        assert row["trainable"] == one["parts"][name]["trainable"]


def test_parameters_match_torchvisions_model():
    """Except for the background deltas: 4 rows with 1024 weights and a bias each."""
    config, _ = read_config(CONFIGS / "base/torchvision_resnet50_fpn.yaml", [])
    ours = analyze(config, num_classes=90, size=(64, 64), batch=1)["total"]
    theirs = fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=91)
    count = sum(parameter.numel() for parameter in theirs.parameters())
    assert ours["trainable"] + ours["frozen"] == count - 4 * 1025
    norms = sum(p.numel() for m in theirs.modules() if isinstance(m, nn.BatchNorm2d) for p in m.parameters())
    assert count - norms == 41_755_286  # torchvision's table of weights does not count norms


def test_frozen_stages_have_no_backward_pass():
    frozen = {**FPN["backbone"], "frozen_stages": 4}
    parts = small({**FPN, "backbone": frozen})["parts"]
    for name, row in parts.items():
        if name.startswith("backbone"):
            assert row["train_backward"] == row["saved_bytes"] == row["trainable"] == 0 < row["train_forward"]


def test_backward_of_grouped_convolutions():
    convolution = nn.Conv2d(8, 8, 3, padding=1, groups=8)
    counter = PartCounter(uncounted=[])
    with counter.counting():
        with counter.inside("here"):
            total = convolution(torch.rand(1, 8, 5, 6, requires_grad=True)).sum()
        total.backward()
    assert counter.forward["here"] == 2 * 8 * 9 * 30
    assert counter.backward["here"] == 2 * counter.forward["here"]


def test_storages_count_once_in_the_part_that_saves_them_first():
    counter = PartCounter(uncounted=[])
    given = torch.rand(10, requires_grad=True)
    with counter.counting():
        with counter.inside("first"):
            middle = given.exp()  # saves its result
        with counter.inside("second"):
            (middle * middle).sum()  # saves it again
    assert counter.saved == {"first": 40}


def test_strides():
    network = nn.Sequential(nn.Conv2d(3, 2, 3, stride=2, padding=1), nn.ReLU(), nn.MaxPool2d(2))
    assert list(strides_of(network).values()) == [2, 2, 4]


@pytest.mark.parametrize("kind", ["res5", "vgg16"])
def test_other_structures(kind):
    model = {"res5": SINGLE | {"roi": {"head": {"kind": "res5"}}}, "vgg16": {}}[kind]
    if kind == "vgg16":
        backbone = {"name": "vgg16", "weights": None}
        model = {"backbone": backbone, "roi": {"samples_per_image": 4, "head": {"kind": "vgg_fc"}}}
        ModelConfig.model_validate(model)
    parts = small(model)["parts"]
    assert "backbone, stride 16" in parts and parts["box head"]["train_backward"] > 0
