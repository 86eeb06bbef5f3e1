"""Training that gives the same bits each time: `train.deterministic`."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from frcnn.config.schema import Config
from frcnn.errors import ConfigError

CUBLAS_WORKSPACE = ":4096:8"
"""Workspaces of fixed size for cuBLAS, without which it is not deterministic (one of two that NVIDIA allows)."""


def set_deterministic(config: Config, device: torch.device) -> None:
    """Let PyTorch use operations with one result only, or again any, for this process.

    Called before anything is moved to a GPU: cuBLAS reads its variable once, when it is first used.

    Raises:
        ConfigError: settings whose operations have no deterministic form on this device.
    """
    wanted = config.train.deterministic
    if wanted:
        check_deterministic(config, device)
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", CUBLAS_WORKSPACE)
        torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = wanted
    torch.use_deterministic_algorithms(wanted)


def check_deterministic(config: Config, device: torch.device) -> None:
    """Raise ConfigError for what is known to have no deterministic form; `explained` catches the rest."""
    pooling = config.model.roi.pooling
    if pooling.kind == "roi_pool" and device.type != "cpu":
        raise ConfigError(
            f"train.deterministic: the backward pass of model.roi.pooling.kind roi_pool adds in any order on {device}; "
            "take roi_align, train.device=cpu or train.deterministic=false"
        )


@contextmanager
def explained() -> Iterator[None]:
    """Around a training step: PyTorch's refusal of an operation becomes a ConfigError."""
    try:
        yield
    except RuntimeError as error:
        # What PyTorch says has no type of its own; all such messages name the setting.
        if torch.are_deterministic_algorithms_enabled() and "deterministic" in str(error):
            reason = str(error).splitlines()[0].split(". You can")[0]
            raise ConfigError(
                f"train.deterministic: {reason}. Set train.deterministic=false or train.device=cpu"
            ) from error
        raise
