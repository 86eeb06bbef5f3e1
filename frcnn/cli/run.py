"""How every command ends: with an exit status and, where the user can mend the cause, one message."""

import sys
from collections.abc import Callable

import torch

from frcnn.errors import TrainingError, UserError


def guarded(program: Callable[[], int]) -> int:
    """Run a command and give its exit status.

    The status is what the program returns; 2 where the user gave something unusable, 1 where the work failed, each
    with the message alone on stderr, and 130 after Ctrl-C. Any other exception is a defect and keeps its traceback;
    a GPU that is full and a worker process that was killed are none.
    """
    try:
        return program()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except TrainingError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except RuntimeError as error:
        message = explain(error)
        if message is None:
            raise
        print(f"error: {message}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def explain(error: RuntimeError) -> str | None:
    """What a failure of the machine means to the user; None where it is a defect of the program."""
    if isinstance(error, torch.OutOfMemoryError):
        return (
            "out of memory: lower train.batch_size, raise train.accumulate, or set train.precision=bf16; "
            "where it is an evaluation that fails, lower eval.batch_size"
        )
    if str(error).startswith("DataLoader worker (pid"):
        return (
            "a process that reads images was ended from outside, as a rule for want of memory or shared memory: "
            f"lower data.workers (0 needs no such process) or data.prefetch ({error})"
        )
    return None
