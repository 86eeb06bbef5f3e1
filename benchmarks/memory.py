"""Peak memory of a step, counted exactly."""

from collections.abc import Callable
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.sides import Side

MEMORY_EVENT = "[memory]"


def measure_memory(side: Side, step: Callable[[], object]) -> dict[str, Any]:
    """Measure the bytes held before a step, the peak above that during the step, and their sum.

    Parameters, buffers and optimizer state are held. Images and ground truth are the same on all sides and do not
    count. On a CPU the peak counts the bytes that PyTorch's allocator has handed out, according to PyTorch's profiler;
    memory that a library allocates inside an operator is not included. On a GPU it is the peak of PyTorch's caching
    allocator.
    """
    held = bytes_held(side)
    if side.device.type == "cuda":
        torch.cuda.synchronize(side.device)
        before = torch.cuda.memory_allocated(side.device)
        torch.cuda.reset_peak_memory_stats(side.device)
        step()
        torch.cuda.synchronize(side.device)
        peak = torch.cuda.max_memory_allocated(side.device) - before
    else:
        peak = cpu_peak(step)
    return {"held": held, "step": peak, "peak": held + peak}


def bytes_held(side: Side) -> int:
    """Bytes of parameters, buffers and optimizer state. Shared storages count once."""
    states = [] if side.optimizer is None else side.optimizer.state.values()
    state = [value for values in states for value in values.values() if torch.is_tensor(value)]
    storages = [tensor.untyped_storage() for tensor in (*side.model.parameters(), *side.model.buffers(), *state)]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def cpu_peak(step: Callable[[], object]) -> int:
    """The largest number of bytes allocated during `step` that are alive at the same time."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    assert profiler.profiler is not None and profiler.profiler.kineto_results is not None
    events: Any = profiler.profiler.kineto_results.events()
    changes = sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == MEMORY_EVENT)
    live = peak = 0
    for _, size in changes:
        live += size
        peak = max(peak, live)
    return peak
