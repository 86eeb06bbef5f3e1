"""The device a user names, and how exactly it computes in float32."""

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


def set_tf32(allowed: bool) -> None:
    """Let CUDA devices compute float32 convolutions in TensorFloat-32, or in full float32, for this process.

    Matrix products use full float32 in both cases, which is also PyTorch's default. No effect on a CPU.

    Args:
        allowed: `train.tf32` of the config.
    """
    torch.backends.cudnn.allow_tf32 = allowed
    torch.backends.cuda.matmul.allow_tf32 = False
