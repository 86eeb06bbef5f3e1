"""Parameter groups with their weight decay and learning rate, and the optimizer."""

from typing import Any, Literal

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase as BatchOrInstanceNorm

from frcnn.config.schema import Config

FUSED_DEVICES = ("cpu", "cuda")
NORM_LAYERS = (BatchOrInstanceNorm, nn.GroupNorm, nn.LayerNorm)


def parameter_groups(
    model: nn.Module,
    *,
    weight_decay: float,
    norm_weight_decay: float,
    bias_weight_decay: float,
    bias_lr_factor: float,
) -> list[dict[str, Any]]:
    """Divide the trainable parameters into weights, norms and biases; each parameter is in exactly one group.

    The weight and the bias of a norm layer are norms. A parameter that two modules share is counted once, at its first
    module. Empty groups are omitted. Parameters are in the order of the modules, so that the optimizer's state fits a
    model that is built again.
    """
    norms: list[nn.Parameter] = []
    biases: list[nn.Parameter] = []
    weights: list[nn.Parameter] = []
    seen: set[nn.Parameter] = set()
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad or parameter in seen:
                continue
            seen.add(parameter)
            if isinstance(module, NORM_LAYERS):
                norms.append(parameter)
            elif name == "bias":
                biases.append(parameter)
            else:
                weights.append(parameter)
    groups = [
        {"name": "weights", "params": weights, "weight_decay": weight_decay, "lr_factor": 1.0},
        {"name": "norms", "params": norms, "weight_decay": norm_weight_decay, "lr_factor": 1.0},
        {"name": "biases", "params": biases, "weight_decay": bias_weight_decay, "lr_factor": bias_lr_factor},
    ]
    return [group for group in groups if group["params"]]


def optimizer_from_config(config: Config, model: nn.Module, *, lr: float) -> torch.optim.Optimizer:
    """Build the optimizer of a config for the trainable parameters of `model`."""
    train = config.train
    groups = parameter_groups(
        model,
        weight_decay=train.weight_decay,
        norm_weight_decay=train.norm_weight_decay,
        bias_weight_decay=train.bias_weight_decay,
        bias_lr_factor=train.bias_lr_factor,
    )
    return build_optimizer(
        groups, kind=train.optimizer, lr=lr, momentum=train.momentum, is_scaled=train.precision == "fp16"
    )


def build_optimizer(
    groups: list[dict[str, Any]],
    *,
    kind: Literal["sgd", "adamw"],
    lr: float,
    momentum: float,
    is_scaled: bool = False,
) -> torch.optim.Optimizer:
    """SGD with momentum, or AdamW with PyTorch's betas, over the groups of `parameter_groups`.

    A step is one pass over parameters, gradients and state (`fused`) where that exists for their device. SGD under
    GradScaler is not fused: GradScaler leaves it to a fused optimizer to skip a step whose gradients overflow, and
    fused SGD does not initialize the momentum in a skipped first step, yet uses it in the next one.

    Args:
        is_scaled: GradScaler takes the steps.
    """
    is_fused = all(p.device.type in FUSED_DEVICES for group in groups for p in group["params"]) or None
    if kind == "sgd":
        is_fused = None if is_scaled else is_fused  # False would also disable PyTorch's multi-tensor step
        optimizer: torch.optim.Optimizer = torch.optim.SGD(groups, lr=lr, momentum=momentum, fused=is_fused)
    else:
        optimizer = torch.optim.AdamW(groups, lr=lr, fused=is_fused)
    set_lr(optimizer, lr)
    return optimizer


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give every group `lr` times its own factor."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_factor"]
