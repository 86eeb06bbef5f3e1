"""Copies of the weights follow the training up to the first bad step, with few launches on a GPU."""

import math

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from frcnn.structures import Losses
from frcnn.training.faults.guard import Guard
from tests.model.detectors import small_detector
from tests.training.experiments import WORLD


class Launches(TorchDispatchMode):
    """Counts the operators that would be launched on a GPU: all but views and allocations."""

    def __init__(self) -> None:
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if not function.is_view and "empty" not in function.name():
            self.names.append(function.name())
        return function(*args, **(kwargs or {}))


def a_model() -> nn.Module:
    """Detector with a frozen stage, trainable batch norm with its counters, and kernels in another layout."""
    model = small_detector()
    model.backbone.requires_grad_(False)
    next(iter(model.backbone.modules())).to(memory_format=torch.channels_last)
    return model


def late_guard(model: nn.Module, *, memory: int = 8) -> Guard:
    return Guard(model, WORLD, at_once=False, is_scaled=False, memory=memory)


def losses_of(value: float) -> Losses:
    return {name: torch.tensor(value) for name in ("rpn_class", "roi_class")}


@torch.no_grad()
def change(model: nn.Module, value: float) -> None:
    for tensor in model.state_dict(keep_vars=True).values():
        if tensor.is_floating_point() and (tensor.requires_grad or not isinstance(tensor, nn.Parameter)):
            tensor.mul_(value).add_(torch.randn_like(tensor))
        elif not tensor.is_floating_point():
            tensor.add_(1)


def bits_of(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().numpy().tobytes()


def test_the_copies_are_of_the_weights_before_the_first_bad_step():
    """Bit-identical for any values of the weights, including nan, infinities and signed zeros."""
    model = a_model()
    guard = late_guard(model)
    kept = []
    for step, (factor, loss) in enumerate(
        [(1.5, 1.0), (-0.0, 1.0), (1e38, 1.0), (torch.inf, torch.nan), (torch.nan, 1.0), (1.0, torch.inf)], start=1
    ):
        kept.append({name: value.clone() for name, value in model.state_dict().items()})
        guard.begin(step)
        guard.allows(losses_of(loss))
        change(model, factor)
    assert guard.bad_step(look=True) == 4
    weights, _, losses = guard.before(4)
    assert list(weights) == list(kept[3]) and all(map(math.isnan, losses.values()))
    for name, value in kept[3].items():
        assert weights[name].dtype == value.dtype and weights[name].stride() == value.stride()
        assert bits_of(weights[name]) == bits_of(value), name


def test_a_step_begins_with_few_launches():
    model = a_model()
    guard = late_guard(model)
    with Launches() as launches:
        guard.begin(1)
    assert len(model.state_dict()) > 100
    assert len(launches.names) <= 10, launches.names
