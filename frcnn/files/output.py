"""Writing what a command found; what the disk refuses becomes one message."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image

from frcnn.errors import UserError
from frcnn.files.writing import replacing


def make_folder(path: Path) -> None:
    """Make the folder of the results; done before the long work begins."""
    with explaining(path):
        path.mkdir(parents=True, exist_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Write strict JSON, whole or not at all."""
    text = json.dumps(content, indent=2, allow_nan=False) + "\n"
    with explaining(path), replacing(path) as file:
        file.write(text.encode())


def save_picture(path: Path, picture: Image.Image) -> None:
    """Write a JPEG, or a PNG where the name says so, whole or not at all."""
    kind = "PNG" if path.suffix.lower() == ".png" else "JPEG"
    with explaining(path), replacing(path) as file:
        picture.save(file, format=kind, quality=92)


@contextmanager
def explaining(path: Path) -> Iterator[None]:
    """Around writing `path`: an OSError becomes a UserError that names it."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"{path}: cannot be written: {reason}; choose another folder by --out") from error
