"""Writing a file whole or not at all."""

import contextlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def replacing(path: Path, *, keep: Path | None = None) -> Iterator[BinaryIO]:
    """Open a file to be written so that a crash at any moment leaves the old content or the new, never a part.

    1. Write under a temporary name in the same folder, which is made where it is missing.
    2. Flush and sync the file.
    3. With `keep`, rename the old file to that name in the same folder. A crash right after this leaves no `path`,
       but the old content under `keep`.
    4. Rename the new file over `path`, and sync the folder, so that the new name too outlives a power cut.

    On any error the temporary file is removed and the old content stays, under `path` or `keep`.

    Raises:
        OSError: whatever the file system says: full, read-only, no folder.
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


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":  # a folder cannot be opened there, and the rename is durable by itself
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
