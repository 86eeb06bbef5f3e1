"""Timing in alternation, as medians and quartiles."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torchvision
from torch.utils.benchmark import timer

PRESSURE = Path("/proc/pressure/cpu")


class Spread(NamedTuple):
    """A median and the quartiles around it."""

    median: float
    lower: float
    upper: float

    def as_dict(self) -> dict[str, float]:
        return {name: float(f"{value:.6g}") for name, value in self._asdict().items()}


class Timings(NamedTuple):
    """Seconds of each side in each round, and the conditions under which they were measured."""

    seconds: dict[str, list[float]]
    conditions: dict[str, Any]
    """rounds, cpu_pressure (before and after) and machine."""

    def ratio(self, peer: str, ours: str) -> dict[str, float]:
        """Speedup of `ours` over `peer`: median and quartiles of the ratios of all rounds."""
        pairs = zip(self.seconds[peer], self.seconds[ours], strict=True)
        return spread([theirs / mine for theirs, mine in pairs]).as_dict()


def spread(values: Sequence[float]) -> Spread:
    """Median and quartiles of at least one value.

    >>> spread([4.0, 1.0, 2.0, 3.0])
    Spread(median=2.5, lower=1.75, upper=3.25)
    """
    lower, median, upper = np.quantile(values, (0.25, 0.5, 0.75)).tolist()
    return Spread(median, lower, upper)


def alternate(
    steps: Mapping[str, Callable[[], object]], *, warmup: int, rounds: int, device: torch.device | None = None
) -> Timings:
    """Time each step once in every round, after `warmup` calls of each.

    The order is reversed after every round, so that a temporary slowdown of the machine affects all steps. The timer
    waits for the work of the current GPU.

    Args:
        steps: name of each side -> the function to time.
        device: the device that the steps run on, for the record only; None is the CPU.
    """
    for _ in range(warmup):
        for step in steps.values():
            step()
    pressure = cpu_pressure()
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    order = list(steps)
    for _ in range(rounds):
        for name in order:
            start = timer()
            steps[name]()
            seconds[name].append(timer() - start)
        order.reverse()
    machine = describe_machine(device or torch.device("cpu"))
    return Timings(seconds, {"rounds": rounds, "cpu_pressure": [pressure, cpu_pressure()], "machine": machine})


def cpu_pressure() -> float | None:
    """Percentage of the last ten seconds in which some process waited for a CPU; None if it is not available."""
    try:
        first = PRESSURE.read_text(encoding="ascii").split("\n")[0]
    except OSError:
        return None
    return float(dict(part.split("=") for part in first.split()[1:])["avg10"])


def describe_machine(device: torch.device) -> dict[str, Any]:
    """Describe the hardware and the software versions."""
    return {
        "cpu": _cpu_name(),
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
    }


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return "unknown"
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
