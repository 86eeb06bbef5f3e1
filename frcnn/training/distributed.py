"""Training in several processes: one for each GPU, or several on CPUs, started by torchrun.

Without torchrun everything here works for a world of one and talks to nobody.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, NamedTuple, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from frcnn.errors import ConfigError, UserError
from frcnn.model.speed.device import find_device

Result = TypeVar("Result")

TIMEOUT = timedelta(minutes=30)
"""How long a rank waits for one that hangs; rank 0 may measure a large evaluation while the others wait. A rank that
ends is noticed in seconds, by its closed connection or by torchrun."""


class World(NamedTuple):
    """This process among those that train together."""

    rank: int
    size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """True on the one process that writes files and speaks."""
        return self.rank == 0


def own_device(name: str) -> torch.device:
    """The device of this process: what train.device names; of several GPUs that of the local rank.

    Raises:
        ConfigError: no such device here, or fewer GPUs than processes.
    """
    device = find_device(name, setting="train.device")
    if device.type != "cuda" or device.index is not None:
        return device
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    if local_rank >= torch.cuda.device_count():
        raise ConfigError(
            f"process {local_rank + 1} of this machine has no GPU, there are {torch.cuda.device_count()}; start as "
            "many processes as there are GPUs, or set train.device=cpu"
        )
    return torch.device("cuda", local_rank)


@contextmanager
def join_world(device_name: str) -> Iterator[World]:
    """Join the processes that torchrun started (gloo on the CPU, nccl on GPUs), and leave them at the end.

    Objects travel by gloo on GPUs too. On an error the group is left at once, without waiting for the others;
    torchrun ends them.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    rank = int(os.environ.get("RANK", "0"))
    device = own_device(device_name)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if size == 1:
        yield World(rank=0, size=1, device=device)
        return
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=TIMEOUT)
    try:
        yield World(rank=rank, size=size, device=device)
    finally:
        dist.destroy_process_group()


def gather(value: Any, world: World) -> list[Any]:
    """Collect one object of every rank on rank 0, in rank order; the other ranks get an empty list."""
    if world.size == 1:
        return [value]
    gathered = [None] * world.size if world.is_main else None
    dist.gather_object(value, gathered)
    return gathered or []


def broadcast(value: Any, world: World) -> Any:
    """What rank 0 passes, on every rank."""
    if world.size == 1:
        return value
    values = [value if world.is_main else None]
    dist.broadcast_object_list(values)
    return values[0]


def done_by_main(work: Callable[[], Result], world: World) -> Result:
    """Let rank 0 do something for all, and give every rank what came of it.

    A UserError of rank 0 ends every rank: rank 0 by that error, the others, which have nothing to add, by their exit
    status alone.
    """
    result, error = None, None
    if world.is_main:
        try:
            result = work()
        except UserError as caught:
            error = caught
    result, has_failed = broadcast((result, error is not None), world)
    if error is not None:
        raise error
    if has_failed:
        raise SystemExit(2)
    return result


def mean_over_ranks(value: Tensor, world: World) -> Tensor:
    """The mean of a tensor that every rank has, on every rank."""
    if world.size == 1:
        return value
    value = value.clone()
    dist.all_reduce(value)
    return value / world.size


def mean_count(count: Tensor, world: World) -> Tensor:
    """The mean over the ranks of what their losses are divided by, see `model.losses`. No host sync.

    Where no gradient is taken none is averaged either, and ranks may be at different batches or have none left: the
    count is then that of this rank alone.
    """
    return mean_over_ranks(count, world) if torch.is_grad_enabled() else count


def share_buffers(model: nn.Module, world: World) -> None:
    """Give every rank the buffers of rank 0: statistics of trainable batch norm differ from rank to rank."""
    if world.size > 1:
        for buffer in model.buffers():
            dist.broadcast(buffer, src=0)
