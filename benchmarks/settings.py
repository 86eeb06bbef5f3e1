"""The settings under which the sides run.

On a GPU the peer gets the settings under which it runs best. On a CPU it runs as shipped. Our side is placed as `train`
and `predict` place it, and compiled on request.
"""

import torch
from torch import nn
from torch.utils.benchmark import Timer

from benchmarks.sides import Ours, Side
from frcnn.model.speed.compiled import Compile, CompiledDetector, compiled_detector

TRIES = 5


def settle_peer(side: Side, what: str) -> None:
    """Choose the peer's settings on a GPU: channels-last, and a compiled backbone if that works and is faster.

    The choice is recorded in the side's notes. Only the backbone is compiled, because the shapes after it depend on
    the data and break the graph.
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
    except Exception as error:  # the compiler may fail in any way: the peer then runs eagerly
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
    """Whether a part of the side runs as a compiled graph. Labels around its parts would cause a recompilation."""
    is_whole = isinstance(side, Ours) and side.compiled is not None
    return is_whole or any(module._compiled_call_impl is not None for module in side.model.modules())


def _seconds(side: Side, what: str) -> float:
    """Mean of a few steps after a warm-up."""
    step = side.step(what)
    return Timer("step()", globals={"step": step}, num_threads=torch.get_num_threads()).timeit(TRIES).median


def _forget_compiled(module: nn.Module) -> None:
    module._compiled_call_impl = None
