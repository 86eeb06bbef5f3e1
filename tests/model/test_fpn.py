"""The feature pyramid against torchvision's."""

from collections import OrderedDict

import pytest
import torch
from torch import nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from frcnn.model.backbone.fpn import FeaturePyramid


def random_maps(*sizes):
    return [torch.randn(2, 8 * 2**level, *size) for level, size in enumerate(sizes)]


@pytest.mark.parametrize("extra_level", [True, False])
@pytest.mark.parametrize("norm", ["none", "group"])
@pytest.mark.parametrize("sizes", [[(16, 24), (8, 12), (4, 6), (2, 3)], [(13, 9), (7, 5), (4, 3)], [(5, 6)]])
def test_equals_torchvision(sizes, norm, extra_level):
    maps = random_maps(*sizes)
    channels = [level.shape[1] for level in maps]
    neck = FeaturePyramid(channels, channels=32, norm=norm, init="caffe2_xavier", extra_level=extra_level)
    peer = FeaturePyramidNetwork(
        channels,
        32,
        extra_blocks=LastLevelMaxPool() if extra_level else None,
        norm_layer=(lambda count: nn.GroupNorm(32, count)) if norm == "group" else None,
    )
    theirs = {
        key.replace("inner_blocks", "lateral").replace("layer_blocks", "output"): value
        for key, value in peer.state_dict().items()
    }
    neck.load_state_dict(theirs)
    expected = peer(OrderedDict((str(index), level) for index, level in enumerate(maps)))
    outputs = neck(maps)
    assert len(outputs) == len(sizes) + extra_level
    for ours, other in zip(outputs, expected.values(), strict=True):
        torch.testing.assert_close(ours, other, rtol=0, atol=0)


def test_initial_values_equal_those_of_torchvision():
    torch.manual_seed(3)
    neck = FeaturePyramid([8], channels=64, norm="none", init="caffe2_xavier", extra_level=False)
    weight = neck.output[0][0].weight
    bound = (3 / (64 * 9)) ** 0.5  # kaiming_uniform with a = 1
    assert 0.99 * bound < weight.abs().max() <= bound
    assert not neck.output[0][0].bias.any() and not neck.lateral[0][0].bias.any()


def test_group_norm_takes_any_number_of_channels():
    neck = FeaturePyramid([8, 16], channels=40, norm="group", init="caffe2_xavier", extra_level=True)
    assert neck.output[0][1].num_groups == 8
    assert neck.output[0][0].bias is None
    assert [tuple(level.shape) for level in neck(random_maps((4, 6), (2, 3)))] == [
        (2, 40, 4, 6),
        (2, 40, 2, 3),
        (2, 40, 1, 2),
    ]


def test_every_parameter_gets_a_gradient():
    neck = FeaturePyramid([8, 16, 32], channels=32, norm="group", init="caffe2_xavier", extra_level=True)
    sum(level.square().sum() for level in neck(random_maps((8, 8), (4, 4), (2, 2)))).backward()
    assert all(parameter.grad is not None for parameter in neck.parameters())
