"""Read files from untrusted sources: within size limits, and within the folder that they belong to."""

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
    """Read a regular file after checking its size.

    Raises:
        error: the file is larger than the limit.
        OSError: the file cannot be read, or is not a regular file.
    """
    limit.check(size_of(path), path, error=error)
    with path.open("rb") as file:
        content = file.read(limit.value() + 1)  # the file may grow meanwhile, or not report its size
    limit.check(len(content), path, error=error)
    return content


def size_of(path: Path) -> int:
    """Size of a regular file in bytes; OSError for a pipe or a device, which may block or never end."""
    status = path.stat()
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):  # opening a folder raises its own error
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return status.st_size


def read_text(path: Path, limit: Limit, *, error: type[UserError]) -> str:
    """`read_bytes` decoded as UTF-8, without a byte-order mark. Invalid UTF-8 raises ValueError."""
    return read_bytes(path, limit, error=error).decode("utf-8-sig")


def read_json(path: Path, *, error: type[UserError] = DataError) -> Any:
    """Read and parse a JSON file.

    Raises:
        error: the file is larger than the limit, or not valid JSON.
        OSError: the file cannot be read.
    """
    content = read_bytes(path, JSON_BYTES, error=error)
    try:
        return json.loads(content)
    except RecursionError:
        raise error(f"{path}: not a JSON file: it is nested too deeply") from None
    except ValueError as reason:  # invalid JSON, invalid UTF-8, a number of more than 4300 digits
        raise error(f"{path}: not a JSON file: {reason}") from None


def path_inside(folder: Path, name: str) -> Path | None:
    """`folder / name`, or None if `name` is absolute or its `..` leads out of the folder.

    Symbolic links are followed: someone who can create links in the folder can read other files anyway.
    """
    relative = os.path.normpath(name)
    leaves = os.path.isabs(relative) or os.path.splitdrive(relative)[0] or relative.split(os.sep)[0] == ".."
    return None if leaves else folder / name


def shown(value: object) -> str:
    """The repr of a value from a file, for messages; long or deep values are shortened."""
    try:
        return _SHORT.repr(value)
    except ValueError:  # an integer with more digits than Python prints
        return f"a {type(value).__name__}"
