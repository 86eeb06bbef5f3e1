"""How every command ends: with an exit status and, where the user can mend the cause, one message."""

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from frcnn.config import Config
from frcnn.errors import TrainingError, UserError
from frcnn.training.distributed import World
from frcnn.training.faults.stop import Stopped

WORKER_SIGNALS = {
    "Killed": "as a rule because memory ran out",
    "Bus error": "as a rule because shared memory (/dev/shm) ran out",
    "Segmentation fault": "by a fault in a library, as a rule that which reads images",
    "Aborted": "by a fault in a library, as a rule that which reads images",
    "Terminated": "from outside",
}
"""What ends a process that reads images, by the name PyTorch gives the signal."""


def guarded(program: Callable[[], int]) -> int:
    """Run a command and give its exit status.

    The status is what the program returns; 2 where the user gave something unusable, 1 where the work failed, each
    with the message alone on stderr; 130 after Ctrl-C and 143 after SIGTERM. Any other exception is a defect and keeps
    its traceback; memory that is full, a worker process that was killed and another rank that is gone are none.
    """
    try:
        return program()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except TrainingError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except (RuntimeError, MemoryError) as error:
        message = explain(error)
        if message is None:
            raise
        print(f"error: {message}", file=sys.stderr)
        return 1
    except Stopped as stopped:
        print(stopped, file=sys.stderr)
        return stopped.status
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def explain(error: RuntimeError | MemoryError) -> str | None:
    """What a failure of the machine means to the user; None where it is a defect of the program."""
    text = str(error)
    if is_out_of_memory(error):
        return (
            "out of memory: lower train.batch_size, raise train.accumulate, or set train.precision=bf16; "
            "where it is an evaluation that fails, lower eval.batch_size"
        )
    if text.startswith("DataLoader worker (pid"):
        return explain_worker(text)
    if "gloo" in text or isinstance(error, torch.distributed.DistError):
        return (
            "another process of this training has ended or cannot be reached; what it says comes first. Go on with "
            f"--resume ({text.splitlines()[0]})"
        )
    return None


def is_out_of_memory(error: BaseException) -> bool:
    """True for a GPU that is full, and for a CPU's allocator that was refused."""
    text = str(error)
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "DefaultCPUAllocator" in text


def explain_worker(text: str) -> str:
    """What PyTorch says of a dead loader process, with the cause that is most likely."""
    name = re.search(r"killed by signal: ([\w ]+?)\.", text)
    signal = name[1].strip() if name else ""
    cause = f"was ended by the signal {signal!r}, " if signal else "has ended, "
    cause += WORKER_SIGNALS.get(signal, "as a rule for want of memory or shared memory")
    return (
        f"a process that reads images {cause}: lower data.workers (0 needs no such process) or data.prefetch; the last "
        f"checkpoint is whole, go on with --resume ({text.splitlines()[0].strip()})"
    )


@contextmanager
def memory_explained(config: Config, world: World) -> Iterator[None]:
    """Around a training: memory that is full ends it by a message that names what to lower, with the values now."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise TrainingError(out_of_memory(config, world)) from error


def out_of_memory(config: Config, world: World) -> str:
    """What takes the memory, and what to lower."""
    train, data = config.train, config.data
    at_once = train.batch_size // (world.size * train.accumulate)
    cures = ["lower data.short_side and data.long_side"]
    if at_once > 1:
        factor = next(factor for factor in range(2, at_once + 1) if at_once % factor == 0)
        cures.insert(0, f"set train.accumulate={factor * train.accumulate}, or lower train.batch_size")
    if train.precision == "float32":
        cures.append("set train.precision=bf16")
    if config.eval.batch_size > 1:
        cures.append("where it is an evaluation that fails, lower eval.batch_size")
    return (
        f"out of memory on {world.device} with {at_once} image(s) at a time (train.batch_size={train.batch_size}, "
        f"train.accumulate={train.accumulate}, {world.size} process(es)), data.short_side={data.short_sides}, "
        f"data.long_side={data.long_side}, train.precision={train.precision}, "
        f"eval.batch_size={config.eval.batch_size}: {'; '.join(cures)}. The last checkpoint, if there is one, is whole"
    )
