"""Norm layers of the pyramid and the heads."""

from math import gcd

from torch import nn


def norm_layer(kind: str, channels: int) -> nn.Module:
    """Build a norm layer.

    Args:
        kind: "batch" for trained batch norm; "group" for group norm with 32 groups (Wu and He 2018), or the largest
            divisor of 32 that also divides `channels`.
    """
    return nn.BatchNorm2d(channels) if kind == "batch" else nn.GroupNorm(gcd(32, channels), channels)
