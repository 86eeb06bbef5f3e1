"""Norm layers of the parts that are not the trunk's."""

from math import gcd

from torch import nn


def group_norm(channels: int) -> nn.GroupNorm:
    """Group norm of 32 groups (Wu and He 2018), or of the largest divisor of 32 that also divides `channels`."""
    return nn.GroupNorm(gcd(32, channels), channels)
