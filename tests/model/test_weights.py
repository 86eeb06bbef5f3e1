"""Pretrained weights: sources, what fits, and the errors if they do not fit."""

import logging
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
import torchvision
from torch import nn

from frcnn.config.schema import ModelConfig
from frcnn.errors import CheckpointError, ConfigError
from frcnn.model.backbone.pretrained import load_trunk, read_imagenet_weights, read_weights
from frcnn.model.backbone.trunks import TORCHVISION_TRUNKS
from frcnn.model.build_detector import build_detector
from tests.model.trunk_checks import build

IMAGENET_FILES = {
    "vgg16": "vgg16-397923af.pth",
    "resnet18": "resnet18-f37072fd.pth",
    "resnet34": "resnet34-b627a593.pth",
    "resnet50": "resnet50-0676ba61.pth",
    "resnet101": "resnet101-63fe2227.pth",
    "resnet152": "resnet152-394f9c45.pth",
    "resnext50_32x4d": "resnext50_32x4d-7cdf4587.pth",
    "resnext101_32x8d": "resnext101_32x8d-8ba56ff5.pth",
    "mobilenet_v3_large": "mobilenet_v3_large-8738ca79.pth",
}


@pytest.fixture(scope="module")
def resnet18_state():
    network = torchvision.models.resnet18()
    with torch.no_grad():
        for buffer in network.buffers():
            buffer += torch.rand(()) if buffer.is_floating_point() else 7
    return network.state_dict()


@pytest.fixture
def saved(tmp_path):
    def save(content, name="weights.pth") -> str:
        torch.save(content, tmp_path / name)
        return str(tmp_path / name)

    return save


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An empty cache of torch.hub."""
    folder = tmp_path / "hub"
    monkeypatch.setattr(torch.hub, "_hub_dir", str(folder))
    (folder / "checkpoints").mkdir(parents=True)
    return folder / "checkpoints"


def assert_holds(module: nn.Module, state, prefix=""):
    for key, value in module.state_dict().items():
        assert torch.equal(value, state[prefix + key]), key


@pytest.mark.parametrize(
    ("wrapper", "prefix"),
    [
        (None, ""),
        (None, "module."),
        (None, "backbone.body."),
        ("state_dict", "backbone."),
        ("state_dict", "model."),
        ("model", "module.backbone."),
    ],
)
def test_state_dicts_of_other_programs(saved, resnet18_state, wrapper, prefix):
    state = {prefix + key: value for key, value in resnet18_state.items()}
    path = saved({wrapper: state, "epoch": 3} if wrapper else state)
    backbone, head = build("resnet18", weights=path, head="res5")
    assert_holds(backbone.body, resnet18_state)
    assert_holds(head, resnet18_state)


def test_loaded_and_skipped_tensors_are_logged(saved, resnet18_state, caplog):
    with caplog.at_level(logging.INFO, logger="frcnn"):
        path = saved(resnet18_state)
        build("resnet18", weights=path, neck="fpn")
    assert f"backbone weights from {path}: 120 tensors loaded; skipped 2: fc.weight, fc.bias" in caplog.text


def test_safetensors(tmp_path, resnet18_state):
    safetensors = pytest.importorskip("safetensors.torch")
    path = tmp_path / "weights.safetensors"
    safetensors.save_file(resnet18_state, path)
    backbone, _ = build("resnet18", weights=str(path))
    assert_holds(backbone.body, resnet18_state)


def test_files_without_the_counters_of_batch_norm(saved, resnet18_state):
    state = {key: value for key, value in resnet18_state.items() if not key.endswith("num_batches_tracked")}
    backbone, _ = build("resnet18", weights=saved(state))
    assert torch.equal(backbone.body.bn1.running_var, resnet18_state["bn1.running_var"])


def own_checkpoint(backbone, head):
    model = {f"backbone.{key}": value for key, value in backbone.state_dict().items()}
    if head is not None:
        model |= {f"roi_head.head.{key}": value for key, value in head.state_dict().items()}
    model["rpn.convs.0.weight"] = torch.zeros(1)
    return {"format": 1, "model": model, "config": {}, "class_names": ["a"], "step": 5}


def test_own_checkpoint(saved):
    """From a single-map detector to a pyramid and back: layer4 belongs to the head, then to the body."""
    single, res5 = build("resnet18", head="res5")
    pyramid, _ = build("resnet18", weights=saved(own_checkpoint(single, res5)), neck="fpn")
    assert_holds(pyramid.body.layer3, single.body.layer3.state_dict())
    assert_holds(pyramid.body.layer4, res5.layer4.state_dict())
    again, head = build("resnet18", weights=saved(own_checkpoint(pyramid, None)), head="res5")
    assert_holds(again.body, single.body.state_dict())
    assert_holds(head, res5.state_dict())


def test_torchvisions_detector(saved):
    state = torchvision.models.detection.fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None).state_dict()
    backbone, _ = build("resnet50", weights=saved(state), neck="fpn")
    assert torch.equal(backbone.body.layer4[2].conv3.weight, state["backbone.body.layer4.2.conv3.weight"])


class TinyVgg(nn.Module):
    def __init__(self, part):
        super().__init__()
        if part == "body":
            self.features = nn.Sequential(nn.Conv2d(3, 4, 1))
        else:
            self.classifier = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Dropout(), nn.Linear(4, 4))


def test_vgg_head_takes_the_first_two_layers_of_the_classifier(caplog):
    body, head = TinyVgg("body"), TinyVgg("head")
    state = {"classifier.6.weight": torch.rand(9, 4)}
    for part in (TinyVgg("body"), TinyVgg("head")):
        state |= part.state_dict()
    load_trunk(state, body=body, head=head, source="here")
    assert_holds(body, state)
    assert_holds(head, state)
    before = {key: value.clone() for key, value in head.state_dict().items()}
    load_trunk(TinyVgg("body").state_dict(), body=body, head=head, source="features alone")
    assert "features alone has no fc6 and fc7" in caplog.text
    assert_holds(head, before)
    with pytest.raises(CheckpointError, match=r"1 of 6 tensors are missing: classifier\.3\.bias"):
        load_trunk(
            {key: value for key, value in state.items() if key != "classifier.3.bias"},
            body=body,
            head=head,
            source="x",
        )


def test_lite0_with_its_real_weights(shared_path):
    timm = pytest.importorskip("timm")
    path = shared_path("weights/tf_efficientnet_lite0_imagenet.pth")
    settings = {"neck": "fpn", "strides": [8, 16, 32], "neck_channels": 128, "norm": "frozen_bn"}
    backbone, _ = build("timm/tf_efficientnet_lite0", weights=str(path), **settings)
    assert_holds(backbone.body, read_weights(path))
    peer = timm.create_model("tf_efficientnet_lite0", features_only=True, out_indices=(2, 3, 4)).eval()
    peer.load_state_dict(read_weights(path), strict=False)
    image = torch.randn(2, 3, 96, 160)
    with torch.no_grad():
        for ours, theirs in zip(backbone.train().body(image), peer(image), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
        assert [tuple(level.shape[1:]) for level in backbone(image)] == [
            (128, 12, 20),
            (128, 6, 10),
            (128, 3, 5),
            (128, 2, 3),
        ]


@pytest.mark.parametrize("name", ["convnext_atto", "regnety_002", "vit_tiny_patch16_224"])
def test_plain_timm_state_dicts(saved, name):
    """timm's wrapper renames stages.0 to stages_0; a file of the whole network loads nevertheless."""
    timm = pytest.importorskip("timm")
    network = timm.create_model(name)
    backbone, _ = build(f"timm/{name}", weights=saved(network.state_dict()))
    if name == "convnext_atto":
        assert torch.equal(backbone.body.stages_1.blocks[0].conv_dw.weight, network.stages[1].blocks[0].conv_dw.weight)


# ------------------------------------------------------------------------------------------------------------ imagenet


@pytest.mark.parametrize("name", TORCHVISION_TRUNKS)
def test_imagenet_takes_version_1_from_the_cache(hub, name):
    torch.save({"some.key": torch.ones(1)}, hub / IMAGENET_FILES[name])
    source, state = read_imagenet_weights(name)
    assert source.endswith(IMAGENET_FILES[name])
    assert list(state) == ["some.key"]


def test_imagenet_end_to_end(hub, resnet18_state):
    torch.save(resnet18_state, hub / IMAGENET_FILES["resnet18"])
    backbone, head = build("resnet18", weights="imagenet", head="res5", norm="frozen_bn", frozen_stages=2)
    assert_holds(backbone.body, resnet18_state)
    assert_holds(head, resnet18_state)


def test_imagenet_without_a_network(hub, monkeypatch):
    def unreachable(*args, **kwargs):
        raise URLError("Name or service not known")

    monkeypatch.setattr(torch.hub, "urlopen", unreachable)
    with pytest.raises(CheckpointError) as raised:
        build("resnet18", weights="imagenet")
    message = str(raised.value)
    assert "https://download.pytorch.org/models/resnet18-f37072fd.pth" in message
    assert "Name or service not known" in message
    assert str(hub / "resnet18-f37072fd.pth") in message
    assert "model.backbone.weights to the path of a weight file, or to null" in message


def test_frozen_layers_without_weights():
    settings = ModelConfig.model_validate({"backbone": {"name": "resnet18", "weights": None}})
    with pytest.raises(ConfigError, match=r"model\.backbone\.norm=bn model\.backbone\.frozen_stages=0$"):
        build_detector(settings, num_classes=3, mean=[0.0] * 3, std=[1.0] * 3)


def test_imagenet_with_a_broken_file_in_the_cache(hub):
    (hub / IMAGENET_FILES["resnet18"]).write_bytes(b"half a file")
    with pytest.raises(CheckpointError, match="delete a broken file there"):
        build("resnet18", weights="imagenet")


def test_imagenet_of_timm(monkeypatch):
    timm = pytest.importorskip("timm")
    create = timm.create_model
    published = create("regnety_002", features_only=True)

    def fetch(name, *, pretrained=False, **options):
        return published if pretrained else create(name, **options)

    monkeypatch.setattr(timm, "create_model", fetch)
    backbone, _ = build("timm/regnety_002", weights="imagenet")
    assert_holds(backbone.body, published.state_dict())

    def offline(name, *, pretrained=False, **options):
        if pretrained:
            raise OSError("cannot find the requested files in the local cache")
        return create(name, **options)

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(CheckpointError, match="timm's pretrained weights of regnety_002 .*local cache.*HF_HOME"):
        build("timm/regnety_002", weights="imagenet", neck="fpn")


# -------------------------------------------------------------------------------------------------------------- errors


def test_missing_file(tmp_path):
    with pytest.raises(CheckpointError, match="nowhere.pth: no such weight file"):
        build("resnet18", weights=str(tmp_path / "nowhere.pth"))


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("content", ["truncated", "empty", "text"])
def test_broken_file(saved, tmp_path, content, suffix):
    if suffix == ".safetensors":
        pytest.importorskip("safetensors")
    whole = Path(saved({"conv1.weight": torch.rand(64, 3, 7, 7)})).read_bytes()
    path = tmp_path / f"broken{suffix}"
    path.write_bytes({"truncated": whole[: len(whole) // 2], "empty": b"", "text": b"<html>404</html>"}[content])
    with pytest.raises(CheckpointError, match=f"broken{suffix}: cannot be read as weights"):
        build("resnet18", weights=str(path))


def test_pickled_model(saved):
    with pytest.raises(CheckpointError, match=r"save its state_dict|Save the model"):
        build("resnet18", weights=saved(nn.Conv2d(3, 4, 1)))


@pytest.mark.parametrize("content", [{}, {"epoch": 3}, [1, 2], torch.zeros(3)], ids=["empty", "no", "list", "tensor"])
def test_file_without_a_state_dict(saved, content):
    with pytest.raises(CheckpointError, match="contains no tensors"):
        build("resnet18", weights=saved(content))


def test_weights_of_another_network(saved, resnet18_state):
    with pytest.raises(CheckpointError, match=r"weights.pth: .* tensors are missing: .*keys begin with conv1\.weight"):
        build("vgg16", weights=saved(resnet18_state))


def test_weights_of_a_wider_network(saved, resnet18_state):
    message = (
        r"tensors are missing: layer1\.0\.conv3\.weight, .*"
        r"are mis-shaped: layer1\.0\.conv1\.weight is \(64, 64, 3, 3\), expected \(64, 64, 1, 1\)"
    )
    with pytest.raises(CheckpointError, match=message):
        build("resnet50", weights=saved(resnet18_state))


def test_a_single_missing_tensor_and_nothing_is_copied(resnet18_state):
    backbone, _ = build("resnet18")
    before = {key: value.clone() for key, value in backbone.body.state_dict().items()}
    state = {key: value for key, value in resnet18_state.items() if key != "layer2.1.conv2.weight"}
    with pytest.raises(CheckpointError, match=r"1 of 90 tensors are missing: layer2\.1\.conv2\.weight"):
        load_trunk(state, body=backbone.body, head=None, source="x")
    assert_holds(backbone.body, before)
