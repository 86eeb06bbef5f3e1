"""How every command ends: with an exit status and, where the user can mend the cause, one message."""

import sys
from collections.abc import Callable

from frcnn.errors import TrainingError, UserError


def guarded(program: Callable[[], int]) -> int:
    """Run a command and give its exit status.

    The status is what the program returns; 2 where the user gave something unusable, 1 where the work failed, each
    with the message alone on stderr, and 130 after Ctrl-C. Any other exception is a defect and keeps its traceback.
    """
    try:
        return program()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except TrainingError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
