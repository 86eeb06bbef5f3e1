"""The device a user names."""

import torch

from frcnn.errors import ConfigError


def find_device(name: str, *, setting: str = "device") -> torch.device:
    """`auto` is the GPU where there is one, else the CPU; other names are PyTorch's.

    Args:
        setting: what the user wrote the name into, for messages.

    Raises:
        ConfigError: no such kind of device, or this machine does not have it.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"{setting}: {name!r} is no device; use auto, cpu, cuda or cuda:N") from None
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError):
        raise ConfigError(f"{setting}: this machine has no {name} for PyTorch; use auto or cpu") from None
    return device
