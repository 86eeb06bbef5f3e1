"""The feature pyramid (Lin et al. 2017)."""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from frcnn.model.init import initialise
from frcnn.model.norm import norm_layer


class FeaturePyramid(nn.Module):
    """Combine coarse and fine maps into levels with the same number of channels.

    1. Apply a 1x1 convolution to each map, which gives `channels` channels.
    2. From coarse to fine, upsample each map (nearest neighbor) and add it to the next finer one.
    3. Apply a 3x3 convolution to each sum.
    4. With `extra_level`, add a level of every second pixel of the coarsest output (P6).

    Args:
        in_channels: channels of each map, fine to coarse.
        channels: C of every output.
        norm: "none", or "group" or "batch" norm after each convolution, which then has no bias.
        init: see `initialise`.
        extra_level: see step 4.
    """

    def __init__(self, in_channels: Sequence[int], *, channels: int, norm: str, init: str, extra_level: bool):
        super().__init__()
        self.extra_level = extra_level
        self.lateral = nn.ModuleList(_convolution(count, channels, 1, norm=norm, init=init) for count in in_channels)
        self.output = nn.ModuleList(_convolution(channels, channels, 3, norm=norm, init=init) for _ in in_channels)

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Maps (B, C_l, H_l, W_l), fine to coarse -> maps (B, C, H_l, W_l) in the same order, the extra level last."""
        merged = [lateral(level) for lateral, level in zip(self.lateral, maps, strict=True)]
        for finer in reversed(range(len(merged) - 1)):
            size = merged[finer].shape[-2:]
            merged[finer] = merged[finer] + F.interpolate(merged[finer + 1], size=size, mode="nearest")
        levels = [output(level) for output, level in zip(self.output, merged, strict=True)]
        if self.extra_level:
            levels.append(F.max_pool2d(levels[-1], kernel_size=1, stride=2))
        return tuple(levels)


def _convolution(in_channels: int, channels: int, size: int, *, norm: str, init: str) -> nn.Sequential:
    convolution = nn.Conv2d(in_channels, channels, size, padding=size // 2, bias=norm == "none")
    initialise(convolution, init)
    layers: list[nn.Module] = [convolution]
    if norm != "none":
        layers.append(norm_layer(norm, channels))
    return nn.Sequential(*layers)
