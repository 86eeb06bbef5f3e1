"""The layers between pooled regions and class logits."""

import pytest
import torch
from torch import nn

from frcnn.model.roi.heads import ConvFcHead


@pytest.mark.parametrize(("channels", "groups"), [(64, 32), (48, 16), (40, 8)])
def test_group_norm_takes_any_number_of_channels(channels, groups):
    head = ConvFcHead(channels, size=3, channels=10, num_convs=2, num_fcs=2, norm="group", init="pytorch")
    assert [layer.num_groups for layer in head.convs if isinstance(layer, nn.GroupNorm)] == [groups] * 2
    assert head(torch.rand(4, channels, 3, 3)).shape == (4, 10)
