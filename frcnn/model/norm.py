"""Norm layers of the parts that are not the trunk's."""

from math import gcd

from torch import nn


def norm_layer(kind: str, channels: int) -> nn.Module:
    """A norm layer of `channels`.

    Args:
        kind: "group" for 32 groups (Wu and He 2018), or the largest divisor of 32 that also divides `channels`;
            "batch" for trained batch norm.
    """
    return nn.BatchNorm2d(channels) if kind == "batch" else nn.GroupNorm(gcd(32, channels), channels)
