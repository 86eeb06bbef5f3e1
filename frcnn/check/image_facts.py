"""Facts about image files, found by decoding them."""

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
"""Side of the gray thumbnail that is used to find similar images."""


class ImageFacts(NamedTuple):
    """Facts about one image file. If there is a fault, the fields after `message` have no meaning."""

    fault: Literal["", "missing", "truncated", "unreadable"]
    message: str = ""
    height: int = 0
    """Height after EXIF rotation."""
    width: int = 0
    stored_size: tuple[int, int] = (0, 0)
    """(height, width) before EXIF rotation."""
    orientation: int = 1
    mode: str = ""
    """PIL mode of the stored pixels."""
    is_16_bit: bool = False
    has_one_colour: bool = False
    pixel_hash: bytes = b""
    """Hash of the decoded pixels and the size."""
    file_hash: bytes = b""
    thumbnail: np.ndarray | None = None
    """(THUMBNAIL ** 2,) uint8 gray."""


def read_facts(paths: Sequence[Path | None], *, workers: int) -> list[ImageFacts | None]:
    """Read the facts of all files in order. The result is None for paths that are None.

    Threads suffice, because decoders and hashes release the GIL.
    """
    with ThreadPoolExecutor(max(1, workers)) as pool:
        found = pool.map(lambda path: None if path is None else inspect_image(path), paths)
        return list(tqdm(found, total=len(paths), desc="reading images", unit="", disable=None, leave=False))


def inspect_image(path: Path) -> ImageFacts:
    """Decode a file and collect its facts."""
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
    """Gray means of a grid over the image, (THUMBNAIL ** 2,) uint8. Each cell averages 3 x 3 sampled pixels."""
    height, width = pixels.shape[1:]
    rows = np.linspace(0, height - 1, 3 * THUMBNAIL).round().astype(int)
    columns = np.linspace(0, width - 1, 3 * THUMBNAIL).round().astype(int)
    grid = pixels.numpy()[:, rows[:, None], columns].astype(np.float32)  # (3, 48, 48)
    grey = np.tensordot(np.array([0.299, 0.587, 0.114], np.float32), grid, axes=1)
    cells = grey.reshape(THUMBNAIL, 3, THUMBNAIL, 3).mean(axis=(1, 3))
    return cells.round().astype(np.uint8).ravel()
