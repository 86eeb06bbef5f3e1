"""Messages for failures of the machine: full memory, a worker process or another rank that ended."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from frcnn.config import Config
from frcnn.errors import TrainingError
from frcnn.training.distributed import World

WORKER_SIGNALS = {
    "Killed": "usually because memory ran out",
    "Bus error": "usually because shared memory (/dev/shm) ran out",
    "Segmentation fault": "usually because of a bug in a library that decodes images",
    "Aborted": "usually because of a bug in a library that decodes images",
    "Terminated": "by another process",
}
"""Likely causes of the end of a data loading worker, by PyTorch's name of the signal."""


def explain(error: RuntimeError | MemoryError) -> str | None:
    """Explain a failure of the machine to the user; None if the error is a bug in the program."""
    text = str(error)
    if is_out_of_memory(error):
        return (
            "out of memory: lower the batch size (eval.batch_size, --batch-size) or the size of the images "
            "(data.test_short_side, data.test_long_side, --size)"
        )
    if text.startswith("DataLoader worker (pid"):
        return explain_worker(text)
    if "gloo" in text or isinstance(error, torch.distributed.DistError):
        return (
            "another process of this training run has ended or cannot be reached; see its message above. Continue with "
            f"--resume ({text.splitlines()[0]})"
        )
    return None


def is_out_of_memory(error: BaseException) -> bool:
    """True if a GPU is full, or the CPU's allocator failed."""
    text = str(error)
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "DefaultCPUAllocator" in text


def explain_worker(text: str) -> str:
    """Explain PyTorch's message about a worker that ended, with the most likely cause."""
    name = re.search(r"killed by signal: ([\w ]+?)\.", text)
    signal = name[1].strip() if name else ""
    cause = f"was ended by the signal {signal!r}, " if signal else "has ended, "
    cause += WORKER_SIGNALS.get(signal, "usually because memory or shared memory ran out")
    return (
        f"a data loading worker {cause}. Lower data.workers (0 needs no worker) or data.prefetch. The last checkpoint "
        f"is complete; continue with --resume ({text.splitlines()[0].strip()})"
    )


@contextmanager
def memory_explained(config: Config, world: World) -> Iterator[None]:
    """Convert an out-of-memory error during training to a TrainingError that says what to lower."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise TrainingError(out_of_memory(config, world)) from error


def out_of_memory(config: Config, world: World) -> str:
    """The settings that determine the memory use, with their values, and what to lower."""
    train, data = config.train, config.data
    at_once = train.batch_size // (world.size * train.accumulate)
    cures = ["lower data.short_side and data.long_side"]
    if at_once > 1:
        factor = next(factor for factor in range(2, at_once + 1) if at_once % factor == 0)
        cures.insert(0, f"set train.accumulate={factor * train.accumulate}, or lower train.batch_size")
    if train.precision == "float32":
        cures.append("set train.precision=bf16")
    if config.eval.batch_size > 1:
        cures.append("if an evaluation failed, lower eval.batch_size")
    return (
        f"out of memory on {world.device} with {at_once} image(s) at a time (train.batch_size={train.batch_size}, "
        f"train.accumulate={train.accumulate}, {world.size} process(es)), data.short_side={data.short_sides}, "
        f"data.long_side={data.long_side}, train.precision={train.precision}, "
        f"eval.batch_size={config.eval.batch_size}: {'; '.join(cures)}. If there is a checkpoint, it is complete"
    )
