"""Checks that a weight file does not need far more memory than its size, before and after it is read.

The reader (`torch.load`) allocates any storage that a file declares. A few hundred bytes can declare gigabytes, with a
compressed archive or with a tensor whose shape is larger than its data.
"""

import pickletools
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from frcnn.errors import CheckpointError
from frcnn.files.limits import UNPACKED_BYTES, UNPACKED_RATIO


def check_archive(path: Path) -> None:
    """Refuse a zip file whose unpacked size is far larger than the file.

    Raises:
        CheckpointError: the unpacked size is too large.
        zipfile.BadZipFile: the archive is invalid.
    """
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    _check(sum(entry.file_size for entry in entries), path, "unpacks to")


def check_pickle(path: Path) -> None:
    """Refuse a pickle whose memo table has more entries than the file has bytes; Python's reader allocates it at once.

    Raises:
        CheckpointError: the table is too large.
        ValueError: the pickle is invalid.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        for operation, argument, _ in pickletools.genops(file):
            if operation.name in ("PUT", "BINPUT", "LONG_BINPUT") and int(argument or 0) > size:
                raise CheckpointError(f"{path}: refused: a file of {size} bytes asks for a table of {argument} entries")


def check_tensors(content: Any, path: Path) -> None:
    """Refuse tensors that are far larger than the file."""
    total = 0
    storages: set[int] = set()
    done: set[int] = set()
    waiting = [content]
    while waiting:
        value = waiting.pop()
        if id(value) in done:
            continue
        done.add(id(value))
        if isinstance(value, torch.Tensor):
            own = value.numel() * value.element_size()
            _check(own, path, "holds a tensor of")
            if value.layout == torch.strided and value.device.type != "meta":
                storage = value.untyped_storage()
                if storage.data_ptr() not in storages:
                    storages.add(storage.data_ptr())
                    total += storage.nbytes()
            _check(total, path, "holds tensors of")
        elif isinstance(value, Mapping):
            waiting += value.values()
        elif isinstance(value, list | tuple):
            waiting += value


def _check(amount: int, path: Path, verb: str) -> None:
    size = path.stat().st_size
    if amount > UNPACKED_RATIO * size + UNPACKED_BYTES:
        raise CheckpointError(
            f"{path}: refused: the file has {size:,} bytes and {verb} {amount:,}, more than {UNPACKED_RATIO} times as "
            "many, unlike any weight file"
        )
