"""Backbones cut from timm's networks, with random weights."""

import sys

import pytest
import torch

from frcnn.errors import ConfigError
from frcnn.model.backbone.backbone import has_batch_norm
from tests.model.trunk_checks import assert_maps_as_declared, assert_trains_but_for_frozen, build

timm = pytest.importorskip("timm")

FAMILIES = ["resnet18", "mobilenetv3_small_100", "convnext_atto", "tf_efficientnet_lite0", "regnety_002"]


@pytest.mark.parametrize("settings", [{}, {"neck": "fpn"}, {"neck": "fpn", "strides": [8, 16]}], ids=str)
@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_with_every_neck(name, settings):
    backbone, head = build(f"timm/{name}", **settings)
    assert head is None
    assert_maps_as_declared(backbone)
    assert_trains_but_for_frozen(backbone, frozen=set())


@pytest.mark.parametrize("name", FAMILIES)
def test_maps_equal_those_of_timm(name):
    backbone, _ = build(f"timm/{name}", neck="fpn", strides=[16, 32])
    peer = timm.create_model(name, features_only=True)
    indices = [peer.feature_info.reduction().index(stride) for stride in (16, 32)]
    backbone.body.load_state_dict(peer.state_dict(), strict=False)
    image = torch.rand(1, 3, 96, 64)
    with torch.no_grad():
        theirs = peer.eval()(image)
        ours = backbone.eval().body(image)
    for level, index in zip(ours, indices, strict=True):
        torch.testing.assert_close(level, theirs[index], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("name", "prefixes"),
    [
        ("resnet18", ("conv1.", "bn1.", "layer1.")),
        ("mobilenetv3_small_100", ("conv_stem.", "bn1.", "blocks.0.")),
        ("convnext_atto", ("stem_0.", "stem_1.", "stages_0.", "stages_1.")),
        ("tf_efficientnet_lite0", ("conv_stem.", "bn1.", "blocks.0.", "blocks.1.")),
        ("regnety_002", ("stem.", "s1.")),
    ],
)
def test_two_frozen_stages(name, prefixes):
    backbone, _ = build(f"timm/{name}", frozen_stages=2, neck="fpn")
    below = tuple(f"body.{prefix}" for prefix in prefixes)
    frozen = {key for key, _ in backbone.named_parameters() if key.startswith(below)}
    assert_trains_but_for_frozen(backbone, frozen=frozen)
    modules = dict(backbone.named_modules())
    assert not any(module.training for key, module in modules.items() if f"{key}.".startswith(below))


@pytest.mark.parametrize("name", FAMILIES)
def test_frozen_batch_norm(name):
    backbone, _ = build(f"timm/{name}", norm="frozen_bn", neck="fpn")
    frozen = {
        f"{key}.{parameter}"
        for key, module in backbone.named_modules()
        if isinstance(module, torch.nn.BatchNorm2d)
        for parameter in ("weight", "bias")
    }
    assert has_batch_norm(backbone) is bool(frozen) is (name != "convnext_atto")
    assert_trains_but_for_frozen(backbone, frozen=frozen)


def test_only_layers_that_the_maps_depend_on_are_kept():
    backbone, _ = build("timm/tf_efficientnet_lite0", strides=[16])
    assert [name for name, _ in backbone.body.blocks.named_children()] == ["0", "1", "2", "3", "4"]
    assert not any("conv_head" in key or "classifier" in key for key in backbone.state_dict())


def test_channels_last_maps_are_permuted():
    backbone, _ = build("timm/swin_tiny_patch4_window7_224", strides=[4, 8], neck="fpn")
    assert backbone.is_channels_last
    assert_maps_as_declared(backbone)


def test_a_plain_transformer_returns_its_last_map():
    backbone, _ = build("timm/vit_tiny_patch16_224")
    assert (backbone.strides, backbone.channels) == ((16,), 192)
    assert_maps_as_declared(backbone)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("timm/resnet", {}, "timm has no model 'resnet'; did you mean timm/"),
        ("timm/resnet18.unheard_of", {}, "resnet18.unheard_of"),
        ("timm/convnext_atto", {"strides": [2]}, "no map of stride 2; it has 4, 8, 16, 32"),
        ("timm/resnet18", {"frozen_stages": 6, "neck": "fpn"}, "6, but timm/resnet18 has 5 stages"),
        ("timm/maxvit_tiny_rw_224", {}, "does not accept images of every size"),
        ("timm/hrnet_w18_small", {"frozen_stages": 1}, "has no stages"),
    ],
)
def test_unknown_networks_strides_and_stages_are_refused(name, settings, message):
    with pytest.raises(ConfigError, match=message):
        build(name, **settings)


def test_without_timm_the_error_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ConfigError, match=r'pip install "frcnn\[timm\]"'):
        build("timm/resnet18")
