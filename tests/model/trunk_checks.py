"""Checks that apply to every backbone."""

import math

import torch

from frcnn.model.backbone.backbone import build_backbone

SETTINGS = {
    "weights": None,
    "frozen_stages": 0,
    "norm": "bn",
    "neck": "none",
    "strides": None,
    "neck_channels": 32,
    "neck_norm": "none",
    "extra_level": True,
    "head": "two_fc",
    "dropout": 0.5,
}


def build(name, **settings):
    """`build_backbone` with defaults for tests."""
    return build_backbone(name=name, **{**SETTINGS, **settings})


def assert_maps_as_declared(backbone):
    """Check strides, channels and sizes, on canvases whose sides are multiples of 32 but not all of 64."""
    backbone.eval()
    for height, width in ((64, 96), (96, 160)):
        with torch.no_grad():
            maps = backbone(torch.rand(2, 3, height, width))
        assert isinstance(maps, tuple)
        expected = [
            (2, backbone.channels, math.ceil(height / stride), math.ceil(width / stride)) for stride in backbone.strides
        ]
        assert [tuple(level.shape) for level in maps] == expected


def assert_trains_but_for_frozen(backbone, *, frozen):
    """Check that all parameters but those in `frozen` get a gradient, and that frozen statistics do not change."""
    backbone.train()
    parameters = dict(backbone.named_parameters())
    assert {name for name, parameter in parameters.items() if not parameter.requires_grad} == frozen
    held = {name: buffer.clone() for name, buffer in backbone.named_buffers()}
    sum(level.square().mean() for level in backbone(torch.rand(2, 3, 64, 96))).backward()
    assert {name for name, parameter in parameters.items() if parameter.grad is None} == frozen
    for name, module in backbone.named_modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            is_held = f"{name}.weight" in frozen
            assert module.training is not is_held, name
            assert torch.equal(module.running_mean, held[f"{name}.running_mean"]) is is_held, name
