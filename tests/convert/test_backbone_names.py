"""model.backbone.weights with tensor names of Detectron and Detectron2, such as R-50.pkl."""

import pickle
import re

import pytest
import torch
import torchvision

from frcnn.model.backbone.pretrained import read_weights, torchvision_resnet_key
from tests.convert import peers

NORM = {"weight": "s", "bias": "b", "running_mean": "rm", "running_var": "riv"}
OLD_NORM = {"weight": "gamma", "bias": "beta", "running_mean": "running_mean", "running_var": "running_var"}


def caffe2_name(name, norm):
    """Caffe2's name of a tensor of torchvision's ResNet."""
    block, _, rest = name.rpartition(".")[0].partition(".")  # layer1, 0.conv1
    last = name.rpartition(".")[2]
    if not rest:
        return "conv1_w" if block == "conv1" else f"res_conv1_bn_{norm[last]}"
    number, layer = rest.split(".", 1)
    branch = {"downsample.0": "1", "downsample.1": "1"}.get(layer) or "2" + "abc"[int(layer[-1]) - 1]
    suffix = "w" if layer.startswith("conv") or layer == "downsample.0" else f"bn_{norm[last]}"
    return f"res{int(block[-1]) + 1}_{number}_branch{branch}_{suffix}"


@pytest.fixture(scope="module")
def names():
    """Names in torchvision's ResNet-50, without its classifier and the counters of batch norm."""
    with torch.device("meta"):
        state = torchvision.models.resnet50().state_dict()
    return [name for name in state if not re.search(r"^fc\.|num_batches_tracked$", name)]


@pytest.mark.parametrize("norm", [NORM, OLD_NORM])
def test_caffe2_names(names, norm):
    assert [torchvision_resnet_key(caffe2_name(name, norm)) for name in names] == names
    assert caffe2_name("layer2.0.downsample.1.bias", norm) == f"res3_0_branch1_bn_{norm['bias']}"


@pytest.mark.parametrize("prefix", ["", "backbone.", "backbone.bottom_up."])
def test_detectron2_names(names, prefix):
    theirs = peers.detectron2_resnet("resnet50", prefix, range(5))
    assert sorted(torchvision_resnet_key(name) for name in theirs) == sorted(names)


def test_other_names_are_unknown(names):
    for name in [*names, "fc.weight", "features.0.weight", "layer1.0.conv1.weight", "res2.0.conv1", "conv1.bias"]:
        assert torchvision_resnet_key(name) is None


def test_a_file_of_the_model_zoo(tmp_path):
    arrays = {name: tensor.numpy() for name, tensor in peers.random({"stem.conv1.weight": (4, 3, 7, 7)}).items()}
    (tmp_path / "R-50.pkl").write_bytes(pickle.dumps({"model": arrays | {"fc.w": arrays["stem.conv1.weight"]}}))
    assert sorted(read_weights(tmp_path / "R-50.pkl")) == ["conv1.weight", "fc.w"]
