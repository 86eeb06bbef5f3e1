"""Timing in alternation, as medians and quartiles."""

import os
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

PRESSURE = Path("/proc/pressure/cpu")


class Spread(NamedTuple):
    """A median with the quartiles around it."""

    median: float
    lower: float
    upper: float

    def as_dict(self) -> dict[str, float]:
        return {name: float(f"{value:.6g}") for name, value in self._asdict().items()}


def spread(values: Sequence[float]) -> Spread:
    """Median and quartiles; of a single value all three are that value.

    >>> spread([4.0, 1.0, 2.0, 3.0])
    Spread(median=2.5, lower=1.75, upper=3.25)
    """
    if len(values) == 1:
        return Spread(values[0], values[0], values[0])
    lower, median, upper = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(median, lower, upper)


def alternate(
    steps: Sequence[Callable[[], object]], *, warmup: int, rounds: int, synchronise: Callable[[], None]
) -> list[list[float]]:
    """Seconds of every step in every round.

    All steps are warmed up; then in each round each is run once, in an order that turns round with every round, so
    that what slows the machine down for a while meets all of them.
    """
    for _ in range(warmup):
        for step in steps:
            step()
    synchronise()
    seconds: list[list[float]] = [[] for _ in steps]
    order = list(range(len(steps)))
    for _ in range(rounds):
        for position in order:
            start = time.perf_counter()
            steps[position]()
            synchronise()
            seconds[position].append(time.perf_counter() - start)
        order.reverse()
    return seconds


def synchroniser(device: torch.device) -> Callable[[], None]:
    """Waits for the work that was given to a GPU; nothing on a CPU."""
    return (lambda: torch.cuda.synchronize(device)) if device.type == "cuda" else (lambda: None)


def ratio_of(peer: Sequence[float], ours: Sequence[float]) -> Spread:
    """How many times as fast ours is, from round to round."""
    return spread([theirs / mine for theirs, mine in zip(peer, ours, strict=True)])


def cpu_pressure() -> float | None:
    """Percent of the last ten seconds in which some process waited for a CPU; None where the system does not say."""
    try:
        first = PRESSURE.read_text(encoding="ascii").split("\n")[0]
    except OSError:
        return None
    return float(dict(part.split("=") for part in first.split()[1:])["avg10"])


def describe_machine(device: torch.device) -> dict[str, Any]:
    """What the figures were measured on."""
    import torchvision

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
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else "unknown"
