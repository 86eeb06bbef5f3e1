"""Training in several processes, started by torchrun: one per GPU, or several on CPUs.

Without torchrun all functions work for a single process, without communication.
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
"""Maximum time that a rank waits for another rank. The other ranks wait while rank 0 evaluates, which can take minutes.
A rank that ends is detected within seconds, by its closed connection or by torchrun."""


class World(NamedTuple):
    """This process among the processes that train together."""

    rank: int
    size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """True on the one process that writes files and prints."""
        return self.rank == 0


def own_device(name: str) -> torch.device:
    """The device of this process: train.device, or the GPU of the local rank if that does not name one GPU.

    Raises:
        ConfigError: there is no such device, or there are fewer GPUs than processes.
    """
    if name not in ("auto", "cuda") or not torch.cuda.is_available():
        return find_device(name, setting="train.device")
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    if local_rank >= torch.cuda.device_count():
        raise ConfigError(
            f"process {local_rank + 1} of this machine has no GPU: there are {torch.cuda.device_count()}. Start one "
            "process per GPU, or set train.device=cpu"
        )
    # Tested with its number: a test of "cuda" would start CUDA on GPU 0 in every process.
    return find_device(f"cuda:{local_rank}", setting="train.device")


@contextmanager
def join_world(device_name: str) -> Iterator[World]:
    """Join the process group of torchrun (gloo on CPUs, nccl on GPUs), and leave it at the end.

    Python objects are sent with gloo, on GPUs too. After an error the process leaves the group without waiting for the
    other ranks; torchrun ends them.
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
    """Collect one object of every rank on rank 0, in rank order; other ranks get an empty list."""
    if world.size == 1:
        return [value]
    gathered = [None] * world.size if world.is_main else None
    dist.gather_object(value, gathered)
    return gathered or []


def broadcast(value: Any, world: World) -> Any:
    """Send the value of rank 0 to every rank."""
    if world.size == 1:
        return value
    values = [value if world.is_main else None]
    dist.broadcast_object_list(values)
    return values[0]


def done_by_main(work: Callable[[], Result], world: World) -> Result:
    """Call a function on rank 0 only, and return its result on every rank.

    A UserError on rank 0 ends every rank: rank 0 raises the error, the other ranks exit silently with status 2.
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
    """The mean over the ranks of a tensor that every rank has, on every rank."""
    if world.size == 1:
        return value
    value = value.clone()
    dist.all_reduce(value)
    return value / world.size


def mean_count(count: Tensor, world: World) -> Tensor:
    """The mean over the ranks of the count that losses are divided by, see `model.losses`. No host sync.

    Without gradients the count is that of this rank alone, because the ranks may then have different batches or none.
    """
    return mean_over_ranks(count, world) if torch.is_grad_enabled() else count


def share_buffers(model: nn.Module, world: World) -> None:
    """Copy the buffers of rank 0 to every rank: statistics of trainable batch norm differ between ranks."""
    if world.size > 1:
        for buffer in model.buffers():
            dist.broadcast(buffer, src=0)
