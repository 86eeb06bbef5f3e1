"""Batch norm with the statistics of all processes: `model.backbone.norm: sync_bn`.

`torch.nn.SyncBatchNorm` does not run on a CPU, selects by a mask, which makes a GPU's host wait, and drops the
activation of timm's layers.
"""

from functools import cache
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from frcnn.errors import ConfigError

WITH_ACTIVATION = "BatchNormAct2d"
"""timm's layer of norm and activation; by name, as timm may not be installed."""


class Synchronised:
    """Mixin, placed before the class of a batch norm, that normalizes by the images of all processes in training.

    All processes must call it equally often. Without gradients, in evaluation mode and without a process group,
    the layer behaves as before, and no process waits for another.
    """

    training: bool
    num_batches_tracked: Tensor
    running_mean: Tensor
    running_var: Tensor
    weight: Tensor
    bias: Tensor
    eps: float
    momentum: float

    def forward(self, x: Tensor) -> Tensor:
        if not (self.training and torch.is_grad_enabled() and dist.is_available() and dist.is_initialized()):
            return super().forward(x)  # type: ignore[misc] - the layer's own
        y, mean, var, count = _Normalise.apply(x, self.weight, self.bias, self.eps)
        with torch.no_grad():
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
            unbiased = var * (count / (count - 1))
            self.running_var.lerp_(unbiased.to(self.running_var.dtype), self.momentum)
        return self.act(self.drop(y)) if isinstance(self, _HasActivation) else y


class _HasActivation:
    """Marks timm's layer."""

    drop: nn.Module
    act: nn.Module


class _Normalise(torch.autograd.Function):
    """Batch norm over (B, H, W) of all processes, with one reduction in each direction and no host sync."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(B, C, H, W) -> normalized, and the mean (C,), biased variance (C,) and count () over all processes."""
        own_var, own_mean = torch.var_mean(x.to(_precise(x)), dim=(0, 2, 3), correction=0)
        # One row for each process, so that the means are known before deviations from them are added up. The sum of
        # squares alone would cancel if the mean is large.
        rows = own_mean.new_zeros(dist.get_world_size(), 2 * x.shape[1] + 1)
        own_count = own_mean.new_full((1,), x.numel() // x.shape[1])
        rows[dist.get_rank()] = torch.cat([own_mean, own_var, own_count])
        dist.all_reduce(rows)
        means, variances, counts = rows.split([x.shape[1], x.shape[1], 1], dim=1)
        count = counts.sum()
        mean = (counts * means).sum(dim=0) / count
        var = (counts * (variances + (means - mean).square())).sum(dim=0) / count
        ctx.save_for_backward(x, weight, mean, var, count)
        ctx.eps = eps
        ctx.mark_non_differentiable(mean, var, count)
        return F.batch_norm(x, mean, var, weight, bias, training=False, eps=eps), mean, var, count

    @staticmethod
    def backward(ctx, gradient: Tensor, *_: Any):  # type: ignore[override]
        x, weight, mean, var, count = ctx.saved_tensors
        gradient = gradient.to(mean.dtype)
        inverse = (var + ctx.eps).rsqrt()
        normalised = (x - _of_channels(mean)) * _of_channels(inverse)
        of_bias, of_weight = gradient.sum(dim=(0, 2, 3)), (gradient * normalised).sum(dim=(0, 2, 3))
        sums = torch.stack([of_bias, of_weight])
        dist.all_reduce(sums)
        mean_bias, mean_weight = sums / count
        of_x = gradient - _of_channels(mean_bias) - normalised * _of_channels(mean_weight)
        of_x = of_x * _of_channels(weight * inverse)
        return of_x.to(x.dtype), of_weight.to(weight.dtype), of_bias.to(weight.dtype), None


def _precise(x: Tensor) -> torch.dtype:
    """float32 for half types, else the type of `x`."""
    return torch.promote_types(x.dtype, torch.float32)


def _of_channels(values: Tensor) -> Tensor:
    """(C,) -> (1, C, 1, 1)."""
    return values.view(1, -1, 1, 1)


def synchronise_batch_norm(network: nn.Module) -> None:
    """Let every batch norm of `network` that is trained use the statistics of all processes. Names do not change.

    Frozen layers, which are in evaluation mode, do not change.

    Raises:
        ConfigError: a layer of another kind than BatchNorm2d and timm's BatchNormAct2d.
    """
    for name, module in network.named_modules():
        if not isinstance(module, _BatchNorm) or not module.training:
            continue
        if type(module) is not nn.BatchNorm2d and type(module).__name__ != WITH_ACTIVATION:
            raise ConfigError(
                f"model.backbone.norm: sync_bn does not support the layer {name} ({type(module).__name__}); use bn"
            )
        module.__class__ = _synchronised_class(type(module))


def separate_batch_norm(network: nn.Module) -> None:
    """Undo `synchronise_batch_norm`."""
    for module in network.modules():
        if isinstance(module, Synchronised):
            module.__class__ = type(module).plain  # type: ignore[attr-defined]


@cache
def _synchronised_class(kind: type) -> type:
    bases = (Synchronised, kind) if kind is nn.BatchNorm2d else (Synchronised, _HasActivation, kind)
    return type(f"Synchronised{kind.__name__}", bases, {"plain": kind})
