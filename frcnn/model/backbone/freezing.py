"""What of a network is not trained."""

from collections.abc import Iterable
from typing import TypeVar

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

Network = TypeVar("Network", bound="PartlyFrozen")


def has_batch_norm(module: nn.Module) -> bool:
    """Whether batch statistics play a part anywhere in `module`; timm's fused norms count, layer norm does not."""
    return any(isinstance(child, _BatchNorm) for child in module.modules())


def set_norm_eps(module: nn.Module, eps: float) -> None:
    """Change what every batch norm in `module` adds to the variance."""
    for child in module.modules():
        if isinstance(child, _BatchNorm):
            child.eps = eps


class PartlyFrozen(nn.Module):
    """A network of which parts are held as they are: no gradient, and evaluation mode for good.

    Evaluation mode matters to batch norm (stored statistics, never updated), dropout and stochastic depth.
    """

    frozen: tuple[str, ...]
    """Names of the submodules that are held."""

    def __init__(self):
        super().__init__()
        self.frozen = ()

    def freeze(self, names: Iterable[str]) -> None:
        """Hold the submodules of these names, with all they contain."""
        names = tuple(names)
        for name in names:
            self.get_submodule(name).requires_grad_(False)
        self.frozen += names
        self.train(self.training)

    def freeze_batch_norm(self) -> None:
        """Hold every batch norm, statistics and affine."""
        self.freeze(name for name, module in self.named_modules() if isinstance(module, _BatchNorm))

    def train(self: Network, mode: bool = True) -> Network:
        super().train(mode)
        for name in self.frozen:
            self.get_submodule(name).eval()
        return self
