"""Converting torchvision's detectors and back gives the same bits, and every part the same outputs."""

from functools import partial
from pathlib import Path

import pytest
import torch
from torchvision.models.detection import (
    FasterRCNN,
    fasterrcnn_mobilenet_v3_large_fpn,
    fasterrcnn_resnet50_fpn,
    fasterrcnn_resnet50_fpn_v2,
)
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

from frcnn.config import parse_config
from frcnn.convert.build_checkpoint import export_checkpoint, import_checkpoint
from frcnn.convert.class_rows import COCO_OUTPUTS
from frcnn.errors import CheckpointError
from frcnn.model.build_detector import build_detector
from tests.convert import peers

NAMES = ["cat", "dog"]
BARE = {"weights": None, "weights_backbone": None, "num_classes": 3}


def resnet18_fpn():
    """With frozen batch norm, which has no counters."""
    return FasterRCNN(resnet_fpn_backbone(backbone_name="resnet18", weights=None), num_classes=3)


MODELS = {
    "resnet18": (resnet18_fpn, "torchvision_resnet50_fpn"),
    "v1": (partial(fasterrcnn_resnet50_fpn, **BARE), "torchvision_resnet50_fpn"),
    "v2": (partial(fasterrcnn_resnet50_fpn_v2, **BARE), "torchvision_resnet50_fpn_v2"),
    "mobilenet": (partial(fasterrcnn_mobilenet_v3_large_fpn, **BARE), "torchvision_mobilenet_v3_large_fpn"),
}


def load(state, *, name="file.pth", class_names=NAMES, like=None, overrides=()):
    return import_checkpoint(state, path=Path(name), like=like, class_names=class_names, overrides=overrides)


@pytest.fixture(scope="module", params=MODELS)
def peer(request):
    """A model with tensors of realistic size, and the name of its base config."""
    build, like = MODELS[request.param]
    torch.manual_seed(4)
    model = build().eval()
    for name, tensor in model.state_dict().items():
        if name.endswith("num_batches_tracked"):
            tensor.fill_(7)
        elif name.endswith("running_var"):
            tensor.uniform_(0.8, 1.2)
        elif name.endswith((".bias", "running_mean")):
            tensor.normal_(std=0.1)
    return model, like


def test_import_and_export_give_the_same_bits(peer):
    model, like = peer
    state = model.state_dict()
    imported = load(state)
    assert imported.like == like and imported.checkpoint["source"]["like"] == like
    has_counters = any(name.endswith("num_batches_tracked") for name in state)
    assert imported.checkpoint["source"]["has_batch_counters"] is has_counters
    assert bool(imported.filled) is not has_counters

    back, notes = export_checkpoint(imported.checkpoint, path=Path("x"))
    assert list(back) == list(state)
    assert all(torch.equal(back[name], state[name]) and back[name].dtype == state[name].dtype for name in state)
    assert "num_classes=3" in notes[0] and "image_mean=[0.485, 0.456, 0.406]" in notes[0]


@torch.no_grad()
def test_every_part_has_the_same_outputs(peer):
    model, _ = peer
    checkpoint = load(model.state_dict()).checkpoint
    config = parse_config(checkpoint["config"], source="test")
    ours = build_detector(
        config.model, num_classes=2, mean=config.data.mean, std=config.data.std, pretrained=False
    ).eval()
    ours.load_state_dict(checkpoint["model"])
    image = torch.randn(1, 3, 64, 96)
    features = ours.backbone(image)
    theirs = list(model.backbone(image).values())
    for mine, other in zip(features, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-4)
    output = ours.rpn(features)
    logits, deltas = model.rpn.head(theirs)
    expected = torch.cat([level.permute(0, 2, 3, 1).flatten(1) for level in logits], dim=1)
    torch.testing.assert_close(output.objectness, expected, rtol=1e-4, atol=1e-4)
    expected = torch.cat([level.permute(0, 2, 3, 1).reshape(1, -1, 4) for level in deltas], dim=1)
    torch.testing.assert_close(output.deltas, expected, rtol=1e-4, atol=1e-4)
    pooled = torch.randn(5, 256, 7, 7)
    class_logits, box_deltas = ours.roi_head.predictor(ours.roi_head.head(pooled))
    their_logits, their_deltas = model.roi_heads.box_predictor(model.roi_heads.box_head(pooled))
    torch.testing.assert_close(class_logits, their_logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(box_deltas, their_deltas.unflatten(1, (3, 4))[:, 1:], rtol=1e-4, atol=1e-4)


def test_torchvision_loads_an_exported_detector(peer):
    """Without a source, background deltas are 0 and there are no counters; torchvision loads it strictly."""
    model, _ = peer
    checkpoint = load(model.state_dict()).checkpoint
    del checkpoint["source"]
    back, _ = export_checkpoint(checkpoint, path=Path("x"))
    assert not any(name.endswith("num_batches_tracked") for name in back)
    assert not back["roi_heads.box_predictor.bbox_pred.weight"][:4].any()
    assert not back["roi_heads.box_predictor.bbox_pred.bias"][:4].any()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.load_state_dict(back, strict=True)
    for name, tensor in model.state_dict().items():
        first = 4 if name.startswith("roi_heads.box_predictor.bbox_pred") else 0
        if not name.endswith("num_batches_tracked"):
            assert torch.equal(tensor[first:], before[name][first:]), name
    model.load_state_dict(before)


@pytest.fixture(scope="module")
def shapes():
    """torchvision's fasterrcnn_resnet50_fpn for COCO, by names and shapes."""
    with torch.device("meta"):
        return fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None).state_dict()


def test_names_of_published_files(shapes):
    """They have older names: the convolutions of FPN and RPN had no submodule index."""
    old = {}
    for name, tensor in shapes.items():
        if name.startswith("backbone.fpn."):
            name = name.replace(".0.weight", ".weight").replace(".0.bias", ".bias")
        old[name.replace("rpn.head.conv.0.0.", "rpn.head.conv.")] = tensor
    assert "backbone.fpn.inner_blocks.3.weight" in old and "rpn.head.conv.bias" in old
    imported = load(old, class_names=None)
    assert imported.checkpoint["class_names"] == COCO_OUTPUTS
    assert imported.checkpoint["category_ids"] == list(range(1, 91))
    assert imported.checkpoint["config"]["data"]["classes"] is None
    back, _ = export_checkpoint(imported.checkpoint, path=Path("x"))
    assert list(back) == list(shapes)


def test_eps_of_the_published_file(shapes):
    imported = load(shapes, name="fasterrcnn_resnet50_fpn_coco-258fb6c6.pth", class_names=None)
    assert imported.checkpoint["config"]["model"]["backbone"]["norm_eps"] == 0
    assert any("eps 0" in change for change in imported.conversion.changes)
    _, notes = export_checkpoint(imported.checkpoint, path=Path("x"))
    assert any("eps = 0.0" in note for note in notes)
    assert load(shapes, class_names=None).checkpoint["config"]["model"]["backbone"]["norm_eps"] is None


@pytest.mark.parametrize("name", ["fasterrcnn_mobilenet_v3_large_320_fpn-907ea3f9.pth", "mine.pth"])
def test_mobilenet_for_320_pixels(name):
    with torch.device("meta"):
        state = fasterrcnn_mobilenet_v3_large_fpn(weights=None, weights_backbone=None).state_dict()
    imported = load(state, name=name, class_names=None)
    assert imported.like.endswith("large_320_fpn") is ("320" in name)
    assert imported.checkpoint["config"]["model"]["backbone"]["norm_eps"] == 1e-5
    like = "torchvision_mobilenet_v3_large_320_fpn"
    config = load(state, class_names=None, like=like).checkpoint["config"]
    assert config["data"]["short_side"] == 320


def test_detectors_that_torchvision_does_not_support():
    imported = import_checkpoint(
        peers.meta(peers.jwyang("vgg16")), path=Path("x"), like=None, class_names=None, overrides=()
    )
    with pytest.raises(CheckpointError) as raised:
        export_checkpoint(imported.checkpoint, path=Path("mine.pt"))
    message = str(raised.value)
    assert message.startswith("mine.pt: torchvision does not support this detector: data.channels is bgr, not rgb; ")
    for part in ("plus_one is True", "model.backbone.neck is none, not fpn", "objectness is softmax", "vgg_fc"):
        assert part in message


@pytest.mark.parametrize(
    "override",
    [
        "model.roi.pooling.kind=roi_pool",
        "model.roi.pooling.aligned=true",
        "model.anchors.centre=middle",
        "model.backbone.stride_in_1x1=true",
        "data.channels=bgr",
        "model.plus_one=true",
    ],
)
def test_settings_that_torchvision_does_not_support(shapes, override):
    checkpoint = load(shapes, class_names=None, overrides=[override]).checkpoint
    with pytest.raises(CheckpointError, match=override.partition("=")[0]):
        export_checkpoint(checkpoint, path=Path("x"))
