"""Write files atomically: a crash leaves the old content or the new content, never a part of it."""

import contextlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from PIL import Image

from frcnn.errors import UserError


@contextmanager
def replacing(path: Path, *, keep: Path | None = None) -> Iterator[BinaryIO]:
    """Open a file for writing and replace `path` with it at the end.

    1. Write to a temporary file in the same folder. The folder is created if it does not exist.
    2. Flush and sync the file.
    3. With `keep`, rename the old file to `keep`, which must be in the same folder. A crash right after this step
       leaves no `path`; the old content is then in `keep`.
    4. Rename the temporary file to `path` and sync the folder, so that the rename survives a power failure.

    After an error the temporary file is removed. The old content is kept, in `path` or in `keep`.

    Raises:
        OSError: the file system refuses the write, for example because the disk is full or read-only.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if keep is not None and path.exists():
            os.replace(path, keep)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def make_folder(path: Path) -> None:
    """Create the output folder if it does not exist. Call this before long work begins.

    Raises:
        UserError: the folder cannot be created.
    """
    with explaining(path):
        path.mkdir(parents=True, exist_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Write strict JSON (no NaN or infinity) atomically.

    Raises:
        UserError: the file cannot be written.
    """
    text = json.dumps(content, indent=2, allow_nan=False) + "\n"
    with explaining(path), replacing(path) as file:
        file.write(text.encode())


def save_picture(path: Path, picture: Image.Image) -> None:
    """Write an image atomically: a PNG if the file name ends in .png, otherwise a JPEG.

    Raises:
        UserError: the file cannot be written.
    """
    kind = "PNG" if path.suffix.lower() == ".png" else "JPEG"
    with explaining(path), replacing(path) as file:
        picture.save(file, format=kind, quality=92)


@contextmanager
def explaining(path: Path) -> Iterator[None]:
    """Convert an OSError raised while writing `path` to a UserError that names the file."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"{path}: cannot write: {reason}. Choose another path") from error


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":  # Windows cannot open a folder; the rename is durable there
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
