"""The time of a step by stage and by kind of operator, from one profiled step."""

import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.autograd import DeviceType  # pyright: ignore[reportPrivateImportUsage]
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile, record_function

from benchmarks.sides import Side
from benchmarks.stages import PREFIX, labelled
from frcnn.analyze.stages import STAGES

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # otherwise PyTorch's profiler logs its start and stop

CONVOLUTION = re.compile(r"aten::.*conv(olution|_|\d)")
PRODUCT = re.compile(r"aten::(addmm|mm|bmm|baddbmm|addbmm|linear|matmul|mv|addmv|mkldnn_linear\w*|_scaled_mm)$")
BACKWARD = "autograd::engine::evaluate_function"
POOLING = "roi pooling"
STEP = "benchmarked step"


def profile_step(side: Side, step: Callable[[], object]) -> dict[str, Any]:
    """Profile a step: seconds of each stage, forward and backward, and shares of kinds of operators.

    An operator of the backward pass belongs to the stage of the forward operator whose gradient it computes. On a GPU
    the seconds are the time of kernels, and the rest of the step is idle. On a CPU they are the time of operators and
    of the Python code between them. The profiler itself takes time, so only shares are meaningful.

    Returns:
        stages: {name: {"forward", "backward"}} in seconds, `profiled_seconds` of the whole step, and shares of it:
        convolutions, products (matrix products), pooling (all operators of that stage), outside (everything else).
    """
    is_cuda = side.device.type == "cuda"
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * is_cuda
    with labelled(side), profile(activities=activities) as profiler, record_function(STEP):
        step()
        if is_cuda:
            torch.cuda.synchronize(side.device)
    return read_events(profiler.events() or [], is_cuda=is_cuda)


def read_events(events: Iterable[FunctionEvent], *, is_cuda: bool) -> dict[str, Any]:
    """Compute the result of `profile_step` from the profiler's events."""
    # A range of `record_function` has a second event on the GPU, from its first kernel to its last.
    events = [event for event in events if not event.is_async and event.device_type == DeviceType.CPU]
    whole = next(event for event in events if event.name == STEP)
    stage_of_sequence = _stages_by_sequence(events)
    seconds: dict[str, dict[str, float]] = {stage: {"forward": 0.0, "backward": 0.0} for stage in STAGES}
    kinds: dict[str, float] = defaultdict(float)
    for event in events:
        own = (_kernel_time(event) if is_cuda else event.self_cpu_time_total) / 1e6
        node = _ancestor(event, BACKWARD)
        if node is not None:
            stage, direction = stage_of_sequence.get(node.sequence_nr, "other"), "backward"
        elif _ancestor(event, STEP) is not None:
            stage, direction = _stage(event), "forward"
        else:
            continue
        seconds[stage][direction] += own
        if stage == POOLING:
            kinds["pooling"] += own
        elif CONVOLUTION.match(event.name):
            kinds["convolutions"] += own
        elif PRODUCT.match(event.name):
            kinds["products"] += own
    total = whole.cpu_time_total / 1e6
    shares = {kind: kinds[kind] / total for kind in ("convolutions", "products", "pooling")}
    shares["outside"] = 1 - sum(shares.values())
    busy = sum(sum(both.values()) for both in seconds.values())
    stages = {name: both for name, both in seconds.items() if any(both.values())}
    result: dict[str, Any] = {"profiled_seconds": total, "stages": stages}
    if is_cuda:
        result["idle"] = 1 - busy / total
    return result | {"shares": shares}


def _kernel_time(event: FunctionEvent) -> float:
    """Microseconds of the kernels that an operator itself launched.

    The kernels of a range may include its own span on the GPU, which has the name of the range.
    """
    return sum(kernel.duration for kernel in event.kernels if kernel.name != event.name)


def _stages_by_sequence(events: Iterable[FunctionEvent]) -> dict[int, str]:
    """Map the sequence number of each autograd node to the stage of the forward operator that created it.

    An operator records the number of the next node, and the last operator to start with that number creates the node.
    """
    latest: dict[int, FunctionEvent] = {}
    for event in events:
        number = event.sequence_nr
        if number < 0 or _ancestor(event, BACKWARD) is not None:
            continue
        if number not in latest or event.time_range.start >= latest[number].time_range.start:
            latest[number] = event
    return {number: _stage(event) for number, event in latest.items()}


def _ancestor(event: FunctionEvent, name: str) -> FunctionEvent | None:
    """The event itself or its nearest ancestor whose name starts with `name`."""
    current: FunctionEvent | None = event
    while current is not None and not current.name.startswith(name):
        current = current.cpu_parent
    return current


def _stage(event: FunctionEvent) -> str:
    label = _ancestor(event, PREFIX)
    return "other" if label is None else label.name.removeprefix(PREFIX)
