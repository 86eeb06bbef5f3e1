"""The device that a user names, and the precision of its float32 convolutions."""

import torch

from frcnn.errors import ConfigError


def find_device(name: str, *, setting: str = "device") -> torch.device:
    """Find a device by name: `auto` is the GPU if there is one, else the CPU. Other names are PyTorch's.

    Args:
        setting: the option or key that contains the name, for messages.

    Raises:
        ConfigError: an unknown name, or a device that this machine does not have.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"{setting}: {name!r} is not a device; use auto, cpu, cuda or cuda:N") from None
    try:
        torch.empty(0, device=device).cpu()  # fails on the device meta too, whose tensors have no data
    except (RuntimeError, AssertionError, NotImplementedError):
        raise ConfigError(f"{setting}: PyTorch finds no {name} on this machine; use auto or cpu") from None
    return device


def set_tf32(allowed: bool) -> None:
    """Let CUDA devices compute float32 convolutions in TensorFloat-32, or in full float32, for this process.

    Matrix products use full float32 in both cases, which is also PyTorch's default. No effect on a CPU.

    Args:
        allowed: `train.tf32` of the config.
    """
    torch.backends.cudnn.allow_tf32 = allowed
    torch.backends.cuda.matmul.allow_tf32 = False
