"""Run a command, and convert its errors to an exit status and, if the user can fix the cause, one message."""

import sys
from collections.abc import Callable

from frcnn.errors import TrainingError, UserError
from frcnn.runs.failures import explain
from frcnn.training.faults.stop import Stopped


def guarded(program: Callable[[], int]) -> int:
    """Run a command and return its exit status.

    Returns:
        the result of the program; 2 after a UserError, or an OSError that names a file; 1 after a TrainingError or a
        failure of the machine (full memory, a data loading worker or another rank that ended); 130 after Ctrl-C; 143
        after SIGTERM. The message is printed to stderr without a traceback. Any other exception is a bug and is raised.
    """
    try:
        return program()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:  # for example a path that is too long, or a folder that must not be searched
        if error.filename is None:
            raise
        print(f"error: {error.filename}: {error.strerror}", file=sys.stderr)
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
