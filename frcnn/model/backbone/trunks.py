"""Cut classification networks into stages and feature maps.

A trunk keeps the names of the original network, so that published state dicts load unchanged. It contains only the
layers that the maps depend on, because unused layers would have no gradient.
"""

from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple, TypeVar

import torchvision
from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck, ResNet

from frcnn.errors import ConfigError
from frcnn.model.backbone.freezing import PartlyFrozen

Tap = TypeVar("Tap")

RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnext50_32x4d", "resnext101_32x8d")
TORCHVISION_TRUNKS = ("vgg16", *RESNETS, "mobilenet_v3_large")


_RESNET_MAPS = {4: "layer1", 8: "layer2", 16: "layer3", 32: "layer4"}


class Trunk(NamedTuple):
    """The part of a network that the backbone uses."""

    body: nn.Module
    """Images (B, 3, H, W) -> a list of maps, fine to coarse."""
    stages: tuple[tuple[str, ...], ...]
    """Names of the submodules of `body` in each stage, stem first. Whole stages are frozen."""
    strides: tuple[int, ...]
    """Strides of the maps."""
    head: PartlyFrozen | None = None
    """The later layers of the network, if they are used as the box head."""
    is_channels_last: bool = False
    """Maps are (B, H, W, C), as in timm's Swin."""


class Tapped(nn.Sequential):
    """A sequence that returns the outputs of some of its members.

    Args:
        layers: members by name, in order; members after the last tap are dropped.
        taps: names of the members whose outputs are returned.
    """

    def __init__(self, layers: Mapping[str, nn.Module], taps: Collection[str]):
        names = list(layers)
        used = names[: max(names.index(tap) for tap in taps) + 1]
        super().__init__(OrderedDict((name, layers[name]) for name in used))
        self.taps = frozenset(taps)

    def forward(self, x: Tensor) -> list[Tensor]:  # type: ignore[override]
        maps = []
        for name, layer in self.named_children():
            x = layer(x)
            if name in self.taps:
                maps.append(x)
        return maps


class VggHead(PartlyFrozen):
    """VGG16's fc6 and fc7 with ReLU and dropout: pooled regions (N, 512, 7, 7) -> (N, 4096).

    Args:
        dropout: dropout probability after each of the two layers.
    """

    out_channels = 4096

    def __init__(self, *, dropout: float):
        super().__init__()
        self.classifier = nn.Sequential(
            nn.Linear(512 * 7 * 7, 4096),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Linear(4096, 4096),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
        )
        for layer in self.classifier:
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=0.01)
                nn.init.zeros_(layer.bias)

    def forward(self, pooled: Tensor) -> Tensor:
        return self.classifier(pooled.flatten(1))  # (N, 512, 7, 7) -> (N, 512*7*7)


class Res5Head(PartlyFrozen):
    """ResNet's last stage on pooled regions: (N, C, h, w) -> (N, 2C, h/2, w/2).

    Args:
        layer4: torchvision's last stage.
        out_channels: 2C.
    """

    def __init__(self, layer4: nn.Module, *, out_channels: int):
        super().__init__()
        self.layer4 = layer4
        self.out_channels = out_channels

    def forward(self, pooled: Tensor) -> Tensor:
        return self.layer4(pooled)


def build_torchvision_trunk(
    name: str,
    *,
    strides: Sequence[int] | None,
    neck: str,
    head: str,
    dropout: float,
    stride_in_1x1: bool = False,
    dilated_res5: bool = False,
    stem_pool: str = "padded",
) -> Trunk:
    """Build one of `TORCHVISION_TRUNKS` with random weights.

    Args:
        strides, neck, head, dropout: see `backbone.build_backbone`.
        stride_in_1x1, dilated_res5, stem_pool: options of a ResNet, see `_change_resnet`.
    """
    wanted = wanted_strides(strides, neck=neck)
    if name == "vgg16":
        return _build_vgg16(wanted, head=head, dropout=dropout)
    if name == "mobilenet_v3_large":
        pair_of_torchvision = strides is None and neck == "fpn"
        return _build_mobilenet([32, 32] if pair_of_torchvision else wanted)
    network = getattr(torchvision.models, name)(weights=None)
    _change_resnet(network, name=name, stride_in_1x1=stride_in_1x1, dilated_res5=dilated_res5, stem_pool=stem_pool)
    return _build_resnet(network, wanted, name=name, head=head, dilated_res5=dilated_res5)


def wanted_strides(strides: Sequence[int] | None, *, neck: str) -> list[int]:
    """The given strides, or by default 16 for a single map and 4 to 32 for a pyramid."""
    if strides is not None:
        return list(strides)
    return [4, 8, 16, 32] if neck == "fpn" else [16]


def choose_taps(available: Mapping[int, Tap], wanted: Sequence[int], *, name: str) -> list[Tap]:
    """The entries of `available` (by stride) for the wanted strides; ConfigError if one is missing."""
    if missing := [stride for stride in wanted if stride not in available]:
        raise ConfigError(
            f"model.backbone.strides: {name} has no map of stride {', '.join(map(str, missing))}; "
            f"it has {', '.join(map(str, sorted(available)))}"
        )
    return [available[stride] for stride in wanted]


def keep_existing(body: nn.Module, stages: Sequence[Sequence[str]]) -> tuple[tuple[str, ...], ...]:
    """The modules of each stage that `body` still contains after it was cut."""
    existing = {name for name, _ in body.named_modules()}
    cut = (tuple(name for name in stage if name in existing) for stage in stages)
    return tuple(stage for stage in cut if stage)


def _build_vgg16(wanted: Sequence[int], *, head: str, dropout: float) -> Trunk:
    """Five stages of 3x3 convolutions, conv1 to conv5, each followed by a pool. Maps are outputs before the pool.

    The output of the last pool is the map of stride 32. Initialized as in torchvision (He et al. 2015).
    """
    layers: list[nn.Module] = []
    stages: list[list[str]] = []
    available: dict[int, str] = {}
    channels = 3
    for stage, (width, depth) in enumerate(((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))):
        first = len(layers)
        for _ in range(depth):
            convolution = nn.Conv2d(channels, width, 3, padding=1)
            nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(convolution.bias)  # type: ignore[arg-type]
            layers += [convolution, nn.ReLU(inplace=True)]
            channels = width
        available[2**stage] = str(len(layers) - 1)
        layers.append(nn.MaxPool2d(2))
        stages.append([f"features.{index}" for index in range(first, len(layers))])
    available[32] = str(len(layers) - 1)
    taps = choose_taps(available, wanted, name="vgg16")
    features = Tapped({str(index): layer for index, layer in enumerate(layers)}, taps)
    body = nn.Sequential(OrderedDict(features=features))
    trunk_head = VggHead(dropout=dropout) if head == "vgg_fc" else None
    return Trunk(body, keep_existing(body, stages), tuple(wanted), trunk_head)


def _change_resnet(network: ResNet, *, name: str, stride_in_1x1: bool, dilated_res5: bool, stem_pool: str) -> None:
    """Change torchvision's ResNet to an older form. Names and shapes of weights stay the same.

    Args:
        stride_in_1x1: the stride of a stage is in the first 1x1 convolution of its first block instead of the 3x3 (He
            et al. 2015; Caffe's pretrained weights).
        dilated_res5: res5 has stride 16, and dilation 2 in all its 3x3 convolutions (Detectron2's DC5).
        stem_pool: "ceil" for a first pool without padding that rounds its size up, as in Caffe.
    """
    stages = [_bottlenecks(stage) for stage in (network.layer2, network.layer3, network.layer4)]
    if not all(stages) and (stride_in_1x1 or dilated_res5):
        raise ConfigError(
            f"model.backbone: stride_in_1x1 and dilated_res5 need bottleneck blocks, which {name} does not have"
        )
    if dilated_res5:
        first = stages[2][0]
        assert first.downsample is not None  # res5 changes the number of channels
        first.conv2.stride = (1, 1)
        shortcut = first.downsample.get_submodule("0")
        assert isinstance(shortcut, nn.Conv2d)
        shortcut.stride = (1, 1)
        for block in stages[2]:
            block.conv2.dilation = block.conv2.padding = (2, 2)
    if stride_in_1x1:
        for first, *_ in stages:
            first.conv1.stride, first.conv2.stride = first.conv2.stride, (1, 1)
    if stem_pool == "ceil":
        network.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, ceil_mode=True)


def _bottlenecks(stage: nn.Sequential) -> list[Bottleneck]:
    return [block for block in stage if isinstance(block, Bottleneck)]


def _build_resnet(network: ResNet, wanted: Sequence[int], *, name: str, head: str, dilated_res5: bool) -> Trunk:
    """Stage 1 is the stem with its pool; stages 2 to 5 are res2 to res5 (layer1 to layer4)."""
    stages = [["conv1", "bn1", "relu", "maxpool"], ["layer1"], ["layer2"], ["layer3"], ["layer4"]]
    available = {4: "layer1", 8: "layer2", 16: "layer4"} if dilated_res5 else _RESNET_MAPS
    taps = choose_taps(available, wanted, name=name)
    body = Tapped({layer: getattr(network, layer) for stage in stages for layer in stage}, taps)
    trunk_head = Res5Head(network.layer4, out_channels=network.fc.in_features) if head == "res5" else None
    return Trunk(body, keep_existing(body, stages), tuple(wanted), trunk_head)


def _build_mobilenet(wanted: Sequence[int]) -> Trunk:
    """A stage begins at each block of stride 2. The last 1x1 convolution is a stage of its own, as in torchvision.

    Strides [32, 32] are the two maps of torchvision's `fasterrcnn_mobilenet_v3_large_fpn`: the first block of stride 32
    (160 channels) and the last convolution (960 channels). Otherwise the map of a stride is its last one.
    """
    features = torchvision.models.mobilenet_v3_large(weights=None).features
    first_and_end = ((0, 2), (2, 4), (4, 7), (7, 13), (13, 16), (16, 17))
    stages = [[f"features.{index}" for index in range(first, end)] for first, end in first_and_end]
    if list(wanted) == [32, 32]:
        taps = ["13", "16"]
    else:
        taps = choose_taps({2: "1", 4: "3", 8: "6", 16: "12", 32: "16"}, wanted, name="mobilenet_v3_large")
    body = nn.Sequential(OrderedDict(features=Tapped(dict(features.named_children()), taps)))
    return Trunk(body, keep_existing(body, stages), tuple(wanted))
