"""Backbones cut from torchvision's networks."""

import copy

import pytest
import torch
import torchvision
from torch import nn
from torchvision.models._utils import IntermediateLayerGetter

from frcnn.errors import ConfigError
from frcnn.model.backbone.backbone import has_batch_norm
from frcnn.model.backbone.trunks import TORCHVISION_TRUNKS
from tests.model.trunk_checks import assert_maps_as_declared, assert_trains_but_for_frozen, build

DEEP = {"resnet101", "resnet152", "resnext101_32x8d"}
"""Trunks that differ from ones in the default run only in their depth and width."""


def names_below(backbone, *prefixes):
    return {name for name, _ in backbone.named_parameters() if name.startswith(prefixes)}


def batch_norm_names(backbone):
    return {
        f"{name}.{parameter}"
        for name, module in backbone.named_modules()
        if isinstance(module, nn.BatchNorm2d)
        for parameter in ("weight", "bias")
    }


@pytest.mark.parametrize("neck", ["none", "fpn"])
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.heavy if name in DEEP else ()) for name in TORCHVISION_TRUNKS],
)
def test_every_trunk_with_every_neck(name, neck):
    backbone, head = build(name, neck=neck)
    assert head is None
    assert backbone.num_roi_levels == len(backbone.strides) - (neck == "fpn")
    assert_maps_as_declared(backbone)
    assert_trains_but_for_frozen(backbone, frozen=set())


def test_group_norm_and_no_extra_level():
    backbone, _ = build("resnet18", neck="fpn", neck_norm="group", extra_level=False)
    assert (backbone.strides, backbone.num_roi_levels) == ((4, 8, 16, 32), 4)
    assert_maps_as_declared(backbone)
    assert_trains_but_for_frozen(backbone, frozen=set())


@pytest.mark.parametrize(
    ("name", "single", "pyramid"),
    [
        ("vgg16", (16,), (4, 8, 16, 32, 64)),
        ("resnet18", (16,), (4, 8, 16, 32, 64)),
        ("mobilenet_v3_large", (16,), (32, 32, 64)),
    ],
)
def test_default_strides(name, single, pyramid):
    assert build(name)[0].strides == single
    assert build(name, neck="fpn")[0].strides == pyramid


@pytest.mark.parametrize(("name", "channels"), [("resnet18", 256), ("resnet50", 1024), ("mobilenet_v3_large", 112)])
def test_a_single_map_has_the_channels_of_the_trunk(name, channels):
    assert build(name)[0].channels == channels


@pytest.mark.parametrize(
    ("name", "strides"),
    [("resnet18", [8, 16]), ("mobilenet_v3_large", [16, 32]), ("mobilenet_v3_large", [32, 32]), ("vgg16", [8])],
)
def test_chosen_strides(name, strides):
    backbone, _ = build(name, strides=strides, neck="fpn" if len(strides) > 1 else "none", extra_level=False)
    assert backbone.strides == tuple(strides)
    assert_maps_as_declared(backbone)
    assert_trains_but_for_frozen(backbone, frozen=set())


@pytest.mark.parametrize(
    ("name", "frozen_stages", "prefixes"),
    [
        ("vgg16", 2, ("body.features.0.", "body.features.2.", "body.features.5.", "body.features.7.")),
        ("resnet18", 1, ("body.conv1.", "body.bn1.")),
        ("resnet50", 2, ("body.conv1.", "body.bn1.", "body.layer1.")),
        ("mobilenet_v3_large", 3, tuple(f"body.features.{index}." for index in range(7))),
    ],
)
def test_frozen_stages(name, frozen_stages, prefixes):
    backbone, _ = build(name, frozen_stages=frozen_stages, neck="fpn")
    assert_trains_but_for_frozen(backbone, frozen=names_below(backbone, *prefixes))


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_large"])
def test_frozen_batch_norm_does_not_change(name):
    backbone, _ = build(name, norm="frozen_bn", neck="fpn")
    frozen = batch_norm_names(backbone)
    assert len(frozen) > 30
    assert_trains_but_for_frozen(backbone, frozen=frozen)


def test_all_stages_can_be_frozen_under_a_pyramid():
    backbone, _ = build("resnet18", frozen_stages=5, neck="fpn")
    assert_trains_but_for_frozen(backbone, frozen=names_below(backbone, "body."))


def test_a_copy_keeps_its_own_layers_frozen():
    backbone, _ = build("resnet18", norm="frozen_bn")
    twin = copy.deepcopy(backbone).train()
    assert not twin.body.bn1.training
    assert twin.body.bn1 is not backbone.body.bn1
    assert not nn.SyncBatchNorm.convert_sync_batchnorm(twin).train().body.bn1.training


def test_a_single_map_equals_torchvision():
    network = torchvision.models.resnet18().eval()
    backbone, head = build("resnet18", head="res5", norm="frozen_bn")
    backbone.body.load_state_dict({key: network.state_dict()[key] for key in backbone.body.state_dict()})
    head.load_state_dict({key: network.state_dict()[key] for key in head.state_dict()})
    image = torch.rand(1, 3, 64, 96)
    expected = IntermediateLayerGetter(network, {"layer3": "single", "layer4": "head"})(image)
    (single,) = backbone(image)
    torch.testing.assert_close(single, expected["single"], rtol=0, atol=0)
    torch.testing.assert_close(head(single), expected["head"], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("resnet50", torchvision.models.detection.fasterrcnn_resnet50_fpn),
        ("mobilenet_v3_large", torchvision.models.detection.fasterrcnn_mobilenet_v3_large_fpn),
    ],
)
def test_the_pyramid_equals_that_of_torchvisions_detector(name, model):
    peer = model(weights=None, weights_backbone=None).backbone.eval()
    backbone, _ = build(name, neck="fpn", neck_channels=256)
    backbone.eval()
    body = {key.removeprefix("body."): value for key, value in peer.state_dict().items() if key.startswith("body.")}
    if name == "mobilenet_v3_large":
        body = {f"features.{key}": value for key, value in body.items()}
    backbone.body.load_state_dict(body, strict=False)  # torchvision's frozen norms have no counter
    assert {key for key in backbone.body.state_dict() if not key.endswith("num_batches_tracked")} <= set(body)
    neck = {
        key.removeprefix("fpn.").replace("inner_blocks", "lateral").replace("layer_blocks", "output"): value
        for key, value in peer.state_dict().items()
        if key.startswith("fpn.")
    }
    backbone.neck.load_state_dict(neck)
    image = torch.rand(1, 3, 96, 64)
    with torch.no_grad():
        ours, theirs = backbone(image), list(peer(image).values())
    assert len(ours) == len(theirs)
    for level, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(level, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnext50_32x4d"])
def test_res5_head(name):
    backbone, head = build(name, head="res5", norm="frozen_bn")
    assert not any("layer4" in key for key in backbone.state_dict())
    head.train()
    pooled = torch.rand(3, backbone.channels, 14, 14)
    assert head(pooled).shape == (3, head.out_channels, 7, 7)
    assert not head.layer4[0].bn1.training and not head.layer4[0].bn1.weight.requires_grad
    assert head.layer4[0].conv1.weight.requires_grad


def test_vgg_head():
    backbone, head = build("vgg16", head="vgg_fc", dropout=0.25)
    assert backbone.channels == 512
    with torch.no_grad():
        assert head(torch.rand(2, 512, 7, 7)).shape == (2, head.out_channels)
    assert [layer.p for layer in head.modules() if isinstance(layer, nn.Dropout)] == [0.25, 0.25]
    assert list(head.state_dict()) == [f"classifier.{layer}.{kind}" for layer in (0, 3) for kind in ("weight", "bias")]


def test_has_batch_norm():
    assert has_batch_norm(build("resnet18")[0])
    assert not has_batch_norm(build("vgg16")[0])


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("resnet5", {}, "unknown 'resnet5'; did you mean resnet50"),
        ("yolo", {}, "vgg16, resnet18"),
        ("resnet18", {"strides": [2, 4], "neck": "fpn"}, "no map of stride 2; it has 4, 8, 16, 32"),
        ("resnet18", {"frozen_stages": 5}, "5, but resnet18 has 4 stages up to stride 16"),
    ],
)
def test_unknown_networks_strides_and_stages_are_refused(name, settings, message):
    with pytest.raises(ConfigError, match=message):
        build(name, **settings)
