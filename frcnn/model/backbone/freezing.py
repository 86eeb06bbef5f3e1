"""Frozen parts of a network."""

from collections.abc import Iterable
from typing import TypeVar

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

Network = TypeVar("Network", bound="PartlyFrozen")


def has_batch_norm(module: nn.Module) -> bool:
    """Whether `module` contains batch norm, including timm's fused norms. Layer norm does not count."""
    return any(isinstance(child, _BatchNorm) for child in module.modules())


def set_norm_eps(module: nn.Module, eps: float) -> None:
    """Set the epsilon of every batch norm in `module`."""
    for child in module.modules():
        if isinstance(child, _BatchNorm):
            child.eps = eps


class PartlyFrozen(nn.Module):
    """A network with frozen submodules, which have no gradient and always stay in evaluation mode.

    Evaluation mode affects batch norm (statistics are not updated), dropout and stochastic depth.
    """

    frozen: tuple[str, ...]
    """Names of the frozen submodules."""

    def __init__(self):
        super().__init__()
        self.frozen = ()

    def freeze(self, names: Iterable[str]) -> None:
        """Freeze submodules and everything they contain."""
        names = tuple(names)
        for name in names:
            self.get_submodule(name).requires_grad_(False)
        self.frozen += names
        self.train(self.training)

    def freeze_batch_norm(self) -> None:
        """Freeze the statistics and affine parameters of every batch norm."""
        self.freeze(name for name, module in self.named_modules() if isinstance(module, _BatchNorm))

    def train(self: Network, mode: bool = True) -> Network:
        super().train(mode)
        for name in self.frozen:
            self.get_submodule(name).eval()
        return self
