"""Measurements during training: mean losses, non-finite weights, time and memory."""

import math
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from frcnn.errors import TrainingError
from frcnn.structures import Losses, total_loss
from frcnn.training.distributed import World, mean_over_ranks

CURE = "A lower train.lr, a longer train.schedule.warmup_steps or train.clip_grad_norm usually helps"


class LossMeter:
    """Mean losses since the last reading.

    The sums stay on the device, so adding a step needs no host sync. Reading needs one.
    """

    def __init__(self, device: torch.device) -> None:
        self.names: list[str] = []  # names of the losses, known from the first step on
        self.sums = torch.zeros(1, device=device)  # each loss, and their total
        self.num_steps = 0

    def add(self, losses: Losses) -> None:
        """Add the losses of one optimizer step. No host sync on a GPU."""
        self.names = list(losses)
        self.sums = self.sums + torch.stack([*losses.values(), total_loss(losses)]).detach()
        self.num_steps += 1

    def read(self, world: World) -> dict[str, float]:
        """Mean of each loss and of "loss", their total, over the steps since the last reading and over the ranks.

        The means are nan if there were no steps. Before the first step there is only "loss".


        Host sync. Every rank calls it.
        """
        means = mean_over_ranks(self.sums / (self.num_steps or math.nan), world).tolist()
        self.sums.zero_()
        self.num_steps = 0
        return dict(zip([*self.names, "loss"], means, strict=True))


def check_finite_weights(model: nn.Module, *, step: int) -> None:
    """Raise TrainingError if a weight or float buffer is not finite after `step` steps. Host sync.

    A finite loss is not enough: the update itself can overflow.
    """
    weights = {name: value for name, value in model.state_dict().items() if value.is_floating_point()}
    is_finite = torch.stack([value.isfinite().all() for value in weights.values()]).tolist()
    broken = [name for name, finite in zip(weights, is_finite, strict=True) if not finite]
    if broken:
        raise TrainingError(
            f"after step {step} the weights are not finite ({len(broken)} tensors, the first is {broken[0]}) and are "
            f"not saved. An earlier checkpoint is unchanged. {CURE}"
        )


class Clock:
    """Training time since the last reading, without evaluations and checkpoints."""

    def __init__(self) -> None:
        self.start = time.perf_counter()
        self.data_seconds = 0.0

    @contextmanager
    def paused(self) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.start += time.perf_counter() - start

    @contextmanager
    def waiting_for_data(self) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.data_seconds += time.perf_counter() - start

    def read(self) -> tuple[float, float]:
        """(seconds of training, seconds of these spent waiting for data) since the last reading."""
        now = time.perf_counter()
        read = now - self.start, self.data_seconds
        self.start, self.data_seconds = now, 0.0
        return read


def memory_mib(device: torch.device) -> float:
    """Peak memory of this process in MiB: GPU memory on a GPU, else resident memory; 0 if unknown."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    try:
        import resource
    except ImportError:  # Windows
        return 0.0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def mean_losses(losses: Sequence[Losses]) -> Losses:
    """Mean of the losses of the accumulated parts of one step."""
    return {name: torch.stack([part[name] for part in losses]).mean().detach() for name in losses[0]}
