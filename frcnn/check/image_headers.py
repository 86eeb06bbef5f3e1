"""What image files are made of, found by decoding every one of them."""

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from torch import Tensor
from tqdm import tqdm

from frcnn.data.images import decode_image
from frcnn.errors import DataError

THUMBNAIL = 16
"""Side of the small grey picture by which images that look alike are found."""


class ImageFacts(NamedTuple):
    """One image file. What follows `message` means nothing where there is a fault."""

    fault: Literal["", "missing", "truncated", "unreadable"]
    message: str = ""
    height: int = 0
    """After the EXIF rotation."""
    width: int = 0
    stored_size: tuple[int, int] = (0, 0)
    """(height, width) before it."""
    orientation: int = 1
    mode: str = ""
    """PIL's name of the stored pixels."""
    is_16_bit: bool = False
    has_one_colour: bool = False
    pixel_hash: bytes = b""
    """Of the decoded pixels with their size."""
    file_hash: bytes = b""
    thumbnail: np.ndarray | None = None
    """(THUMBNAIL ** 2,) uint8 grey."""


def read_facts(paths: Sequence[Path | None], *, workers: int) -> list[ImageFacts | None]:
    """Facts of each file in order; None for None.

    Threads are enough: decoders and hashes let go of Python's lock.
    """
    with ThreadPoolExecutor(max(1, workers)) as pool:
        found = pool.map(lambda path: None if path is None else inspect_image(path), paths)
        return list(tqdm(found, total=len(paths), desc="reading images", unit="", disable=None, leave=False))


def inspect_image(path: Path) -> ImageFacts:
    """Decode a file and note what it is."""
    if not path.is_file():
        return ImageFacts("missing", f"{path}: image file not found")
    try:
        decoded = decode_image(path)
        file_hash = hashlib.blake2b(path.read_bytes(), digest_size=16).digest()
    except DataError as error:
        return ImageFacts("truncated" if "truncated" in str(error) else "unreadable", str(error))
    except OSError as error:
        return ImageFacts("unreadable", f"{path}: cannot read image: {error.strerror}")
    pixels = np.ascontiguousarray(decoded.pixels.permute(1, 2, 0).numpy())  # (3, H, W) -> (H, W, 3)
    height, width = pixels.shape[:2]
    return ImageFacts(
        fault="",
        height=height,
        width=width,
        stored_size=decoded.stored_size,
        orientation=decoded.orientation,
        mode=decoded.mode,
        is_16_bit=decoded.mode.startswith("I") or "16" in decoded.raw_mode,
        has_one_colour=bool((pixels == pixels[0, 0]).all()),
        pixel_hash=hashlib.blake2b(pixels.tobytes() + f"{height}x{width}".encode(), digest_size=16).digest(),
        file_hash=file_hash,
        thumbnail=_thumbnail(decoded.pixels),
    )


def _thumbnail(pixels: Tensor) -> np.ndarray:
    """Means of the pixels in a grid over the image, grey: every pixel counts up to a few of each cell."""
    height, width = pixels.shape[1:]
    rows = np.linspace(0, height - 1, 3 * THUMBNAIL).round().astype(int)
    columns = np.linspace(0, width - 1, 3 * THUMBNAIL).round().astype(int)
    grid = pixels.numpy()[:, rows[:, None], columns].astype(np.float32)  # (3, 48, 48)
    grey = np.tensordot(np.array([0.299, 0.587, 0.114], np.float32), grid, axes=1)
    cells = grey.reshape(THUMBNAIL, 3, THUMBNAIL, 3).mean(axis=(1, 3))
    return cells.round().astype(np.uint8).ravel()
