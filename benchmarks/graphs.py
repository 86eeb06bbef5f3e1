"""Obstacles for a compiler and a GPU: graph breaks and host syncs."""

import copy
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch

from benchmarks.sides import Ours, Side

SYNC_WARNING = "called a synchronizing CUDA operation"


def count_graph_breaks(side: Side, what: str) -> dict[str, Any]:
    """Count graphs and graph breaks of a side's forward pass under `torch.compile`.

    Args:
        what: "train" or "detect".

    Returns:
        graphs, breaks and the first reasons; also `error` if the compiler failed.
    """
    twin = _uncompiled_copy(side)  # `explain` changes the model
    twin.set_mode(is_training=what == "train")
    torch._dynamo.reset()
    with ExitStack() as stack:
        if what == "detect":
            stack.enter_context(torch.no_grad())
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        try:
            explained = torch._dynamo.explain(twin.losses if what == "train" else twin.forward_detect)()
        except Exception as error:  # the compiler may fail in any way, and the failure is the result
            return {"graphs": None, "breaks": None, "reasons": [], "error": str(error).splitlines()[0]}
        finally:
            torch._dynamo.reset()
    reasons = list(dict.fromkeys(each.reason.splitlines()[0] for each in explained.break_reasons))
    return {"graphs": explained.graph_count, "breaks": explained.graph_break_count, "reasons": reasons[:5]}


def _uncompiled_copy(side: Side) -> Side:
    """A copy of the side with its own eager model."""
    twin = copy.copy(side)
    twin.model = copy.deepcopy(side.model)
    if isinstance(twin, Ours):
        twin.compiled = None
    return twin


def count_host_syncs(step: Callable[[], object], device: torch.device) -> int | None:
    """Count how often a step waits for the GPU; None on a CPU.

    PyTorch warns about each operation that waits for the device, such as `.item()`, but not about
    `torch.cuda.synchronize`.
    """
    if device.type != "cuda":
        return None
    mode = torch.cuda.get_sync_debug_mode()
    torch.cuda.synchronize(device)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            step()
        finally:
            torch.cuda.set_sync_debug_mode(mode)
    return sum(SYNC_WARNING in str(each.message) for each in caught)
