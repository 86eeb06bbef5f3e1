"""Reading files that somebody else has written: within limits, and within the folder they belong to."""

import errno
import json
import os
import reprlib
import stat
from pathlib import Path
from typing import Any

from frcnn.errors import DataError, UserError
from frcnn.files.limits import JSON_BYTES, Limit

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 80
_SHORT.maxdict = _SHORT.maxlist = 8
_SHORT.maxlevel = 3


def read_bytes(path: Path, limit: Limit, *, error: type[UserError]) -> bytes:
    """The content of a regular file, whose size is looked at first.

    Raises:
        error: the file is larger than the limit.
        OSError: it cannot be read, or is no regular file.
    """
    limit.check(size_of(path), path, error=error)
    with path.open("rb") as file:
        content = file.read(limit.value() + 1)  # of a file that grows meanwhile, or whose size is not told
    limit.check(len(content), path, error=error)
    return content


def size_of(path: Path) -> int:
    """Bytes of a regular file; OSError for a pipe or device, which may have no end and be waited on for ever."""
    status = path.stat()
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):  # opening a folder fails in its own words
        raise OSError(errno.EINVAL, "it is no regular file", str(path))
    return status.st_size


def read_text(path: Path, limit: Limit, *, error: type[UserError]) -> str:
    """`read_bytes` as text; a mark of UTF-8 at the start is dropped. Broken UTF-8 is a ValueError."""
    return read_bytes(path, limit, error=error).decode("utf-8-sig")


def read_json(path: Path, *, error: type[UserError] = DataError) -> Any:
    """What a JSON file holds.

    Raises:
        error: the file is larger than the limit, or no JSON.
        OSError: it cannot be read.
    """
    content = read_bytes(path, JSON_BYTES, error=error)
    try:
        return json.loads(content)
    except RecursionError:
        raise error(f"{path}: not a JSON file that can be read: it is nested too deeply") from None
    except ValueError as reason:  # broken JSON, broken UTF-8, a number of more than 4300 digits
        raise error(f"{path}: not a JSON file: {reason}") from None


def path_inside(folder: Path, name: str) -> Path | None:
    """`folder / name`, or None where `name` is absolute or leads out of the folder by its `..`.

    Links are followed: who can make them in the folder need not write names into an annotation.
    """
    relative = os.path.normpath(name)
    leaves = os.path.isabs(relative) or os.path.splitdrive(relative)[0] or relative.split(os.sep)[0] == ".."
    return None if leaves else folder / name


def shown(value: object) -> str:
    """A value of a file for a message: its repr, with what is long or deep cut out."""
    try:
        return _SHORT.repr(value)
    except ValueError:  # a number of more digits than Python prints
        return f"a {type(value).__name__}"
