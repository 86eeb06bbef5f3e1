"""Recognize the ResNet of a state dict."""

import re
from collections.abc import Mapping

from torch import Tensor

from frcnn.errors import CheckpointError

RESNETS = {
    "resnet18": ((2, 2, 2, 2), None, (64, 64)),
    "resnet34": ((3, 4, 6, 3), None, (64, 64)),
    "resnet50": ((3, 4, 6, 3), 256, (64, 64)),
    "resnet101": ((3, 4, 23, 3), 256, (64, 64)),
    "resnet152": ((3, 8, 36, 3), 256, (64, 64)),
    "resnext50_32x4d": ((3, 4, 6, 3), 256, (128, 4)),
    "resnext101_32x8d": ((3, 4, 23, 3), 256, (256, 8)),
}
"""Numbers of blocks in layer1 to layer4; output channels of the third convolutions in layer1 (None if there are none);
output channels, and input channels per group, of the second convolutions."""


def find_resnet(state: Mapping[str, Tensor]) -> str:
    """The name of the network with tensors such as layer1.0.conv1.weight, after any prefix.

    Raises:
        CheckpointError: the network is not in `RESNETS`.
    """
    blocks: list[set[str]] = [set(), set(), set(), set()]
    shapes = {}
    for name, tensor in state.items():
        if match := re.search(r"\blayer([1-4])\.(\d+)\.", name):
            blocks[int(match[1]) - 1].add(match[2])
        if match := re.search(r"\blayer1\.0\.(conv\d)\.weight$", name):
            shapes[match[1]] = tuple(tensor.shape)
    counts = tuple(len(stage) for stage in blocks)
    second, third = shapes.get("conv2", ())[:2], shapes.get("conv3", (None,))[0]
    for name, known in RESNETS.items():
        if known == (counts, third, second):
            return name
    kind = "no bottlenecks" if third is None else f"a second convolution of {second} channels"
    raise CheckpointError(
        f"unknown backbone with stages of {', '.join(map(str, counts))} blocks and {kind}; known: {', '.join(RESNETS)}"
    )
