"""Bit-identical training: `train.deterministic`."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from frcnn.config.schema import Config
from frcnn.errors import ConfigError

CUBLAS_WORKSPACE = ":4096:8"
"""cuBLAS is deterministic with workspaces of fixed size only (this is one of two values that NVIDIA allows)."""


def set_deterministic(config: Config, device: torch.device) -> None:
    """Switch PyTorch's deterministic algorithms on or off for this process.

    Call it before anything is moved to a GPU: cuBLAS reads its environment variable once, at first use.

    Raises:
        ConfigError: an operation of this config has no deterministic implementation on this device.
    """
    wanted = config.train.deterministic
    if wanted:
        check_deterministic(config, device)
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", CUBLAS_WORKSPACE)
        torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = wanted
    torch.use_deterministic_algorithms(wanted)


def check_deterministic(config: Config, device: torch.device) -> None:
    """Raise ConfigError for settings known to have no deterministic implementation; `explained` catches others."""
    pooling = config.model.roi.pooling
    if pooling.kind == "roi_pool" and device.type != "cpu":
        raise ConfigError(
            f"train.deterministic: the backward pass of model.roi.pooling.kind=roi_pool is not deterministic on "
            f"{device}. Use roi_align, train.device=cpu or train.deterministic=false"
        )


@contextmanager
def explained() -> Iterator[None]:
    """Convert PyTorch's error about a nondeterministic operation to a ConfigError."""
    try:
        yield
    except RuntimeError as error:
        # PyTorch raises a plain RuntimeError; all its messages about this contain the word.
        if torch.are_deterministic_algorithms_enabled() and "deterministic" in str(error):
            reason = str(error).splitlines()[0].split(". You can")[0]
            raise ConfigError(
                f"train.deterministic: {reason}. Set train.deterministic=false or train.device=cpu"
            ) from error
        raise
