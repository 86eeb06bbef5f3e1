"""Peak memory of a step, counted exactly."""

from collections.abc import Callable
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.sides import Side

MEMORY_EVENT = "[memory]"


def measure_memory(side: Side, step: Callable[[], object]) -> dict[str, Any]:
    """Bytes held before a step, the most held above that inside it, and their sum.

    Held before: parameters, buffers and the optimiser's state; gradients are none, and images and ground truth, which
    are the same for all sides, do not count. On a CPU the peak is that of all bytes PyTorch's allocator has handed out
    and not taken back, from PyTorch's profiler; what a library takes for itself inside an operator is not seen. On a
    GPU it is that of PyTorch's caching allocator, in blocks that tensors asked for.
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
    """Of parameters, buffers and the optimiser's state, shared storages once."""
    states = [] if side.optimizer is None else side.optimizer.state.values()
    state = [value for values in states for value in values.values() if torch.is_tensor(value)]
    storages = [tensor.untyped_storage() for tensor in (*side.model.parameters(), *side.model.buffers(), *state)]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def cpu_peak(step: Callable[[], object]) -> int:
    """The most bytes that were alive at one time of those allocated inside `step`."""
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
