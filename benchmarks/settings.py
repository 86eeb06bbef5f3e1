"""The settings under which the sides run.

On a GPU the peer is given those under which it runs best there. On a CPU it runs as it is shipped: nothing is tried.
Ours is laid out as `train` and `predict` do it, and compiled where that is asked for.
"""

import statistics
import time

import torch
from torch import nn

from benchmarks.sides import Ours, Side
from benchmarks.timing import synchroniser
from frcnn.model.speed.compiled import Compile, CompiledDetector, compiled_detector

TRIES = 5


def settle_peer(side: Side, what: str) -> None:
    """On a GPU: channels-last, and a compiled backbone where that works and is faster. On a CPU nothing.

    What was chosen goes into the side's notes. The backbone is what PyTorch compiles as one graph; between it and the
    end, the peers' shapes depend on the data.
    """
    if side.device.type != "cuda":
        return
    side.model.to(memory_format=torch.channels_last)
    side.notes.append("channels-last")
    backbone = side.model.get_submodule("backbone")
    eager = _seconds(side, what)
    try:
        backbone.compile()
        compiled = _seconds(side, what)
    except Exception as error:  # whatever the compiler cannot do: the peer runs without it
        _forget_compiled(backbone)
        side.notes.append(f"eager: its backbone does not compile ({str(error).splitlines()[0]})")
        return
    if compiled < eager:
        side.notes.append(f"compiled backbone: {compiled:.4f} s against {eager:.4f} s eager")
    else:
        _forget_compiled(backbone)
        side.notes.append(f"eager: {eager:.4f} s against {compiled:.4f} s with a compiled backbone")


def compile_ours(ours: Ours) -> None:
    """Compile our forward passes, on a GPU with CUDA graphs.

    Raises:
        ConfigError: this machine has no compiler.
    """
    choice: Compile = "reduce-overhead" if ours.device.type == "cuda" else True
    compiled = compiled_detector(ours.model, choice, device=ours.device, setting="--compile", tell=ours.notes.append)
    assert isinstance(compiled, CompiledDetector)
    ours.compiled = compiled


def is_compiled(side: Side) -> bool:
    """Whether a part of it runs as a compiled graph: names put around its parts would have it compiled anew."""
    is_whole = isinstance(side, Ours) and side.compiled is not None
    return is_whole or any(module._compiled_call_impl is not None for module in side.model.modules())


def _seconds(side: Side, what: str) -> float:
    """Median of a few steps after two that warm up."""
    step, synchronise = side.step(what), synchroniser(side.device)
    times = []
    for _ in range(TRIES + 2):
        start = time.perf_counter()
        step()
        synchronise()
        times.append(time.perf_counter() - start)
    return statistics.median(times[2:])


def _forget_compiled(module: nn.Module) -> None:
    module._compiled_call_impl = None
