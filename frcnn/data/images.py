"""Reading image files of any kind as 8-bit RGB."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from frcnn.data.jpeg import decode_sequential
from frcnn.errors import DataError
from frcnn.files.limits import IMAGE_PIXELS
from frcnn.files.reading import size_of

FORMATS = ("JPEG", "MPO", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "JPEG2000", "AVIF")
"""The supported formats by their Pillow names. The others are rare, little tested, or run another program (EPS)."""

ORIENTATION_TAG = 0x0112
TURNED = (5, 6, 7, 8)
"""The EXIF orientations that exchange height and width."""


class DecodedImage(NamedTuple):
    """An image file as `read_image` returns it, and how it is stored."""

    pixels: Tensor
    """(3, H, W) uint8 RGB, upright according to the EXIF orientation."""
    mode: str
    """Pillow's name of the stored pixel format: RGB, L, P, CMYK, I;16, ..."""
    raw_mode: str
    """The decoder's name of the pixel format, such as RGB;16B for 16 bits per channel; empty if it has none."""
    stored_size: tuple[int, int]
    """(height, width) before the rotation."""
    orientation: int
    """The EXIF orientation, 1 (upright) to 8; 1 if there is none."""


def read_image(path: Path | str) -> Tensor:
    """Read an image file as viewers display it.

    1. Decode the whole file. A truncated file is an error.
    2. Rotate it according to its EXIF orientation.
    3. Convert it to 8-bit RGB: 16-bit gray is scaled by 255 / 65535, palettes and CMYK are converted, and an alpha
       channel is dropped (colors are used as stored, not blended with a background).

    Returns:
        (3, H, W) uint8, RGB. Not necessarily contiguous: the memory is channels-last, which is fastest to resize.

    Raises:
        DataError: the file is missing, empty, broken, truncated or has too many pixels, or its pixel format has no
            known range.
    """
    return decode_image(path).pixels


def decode_image(path: Path | str) -> DecodedImage:
    """`read_image` with information about the file."""
    path = Path(path)
    with _opened(path) as image:
        mode, raw_mode, stored_size = image.mode, _raw_mode(image), (image.height, image.width)
        pixels = None
        if image.format == "JPEG" and mode in ("RGB", "L"):
            pixels = decode_sequential(path, height=image.height, width=image.width)
        if pixels is None:
            image.load()
        orientation = image.getexif().get(ORIENTATION_TAG, 1)
        if pixels is None:
            ImageOps.exif_transpose(image, in_place=True)
            pixels = _to_tensor(image)
        else:
            pixels = turn_upright(pixels, orientation)
        return DecodedImage(pixels, mode, raw_mode, stored_size, orientation)


def image_size(path: Path | str) -> tuple[int, int]:
    """(height, width) of the pixels that `read_image` returns, from the header of the file if possible.

    Pillow decodes TIFF files, and PNG files with texts or EXIF after the pixels, where the orientation may be.

    Raises:
        DataError: the file is missing, is not an image, or has too many pixels.
    """
    with _opened(Path(path)) as image:
        if image.format == "TIFF":
            image.load()  # turns the pixels
        is_in_header = image.format == "PNG" and not _has_late_metadata(Path(path))
        exif = Image.Image.getexif(image) if is_in_header else image.getexif()  # PNG files' own method decodes them
        orientation = exif.get(ORIENTATION_TAG, 1)
        return (image.width, image.height) if orientation in TURNED else (image.height, image.width)


def _has_late_metadata(path: Path) -> bool:
    """Whether a PNG file has a text or EXIF after its first pixels."""
    is_late = False
    with path.open("rb") as file:
        file.seek(8)  # the signature
        while len(head := file.read(8)) == 8:
            kind = head[4:]
            is_late |= kind == b"IDAT"
            if is_late and kind in (b"eXIf", b"tEXt", b"zTXt", b"iTXt"):
                return True
            file.seek(int.from_bytes(head[:4], "big") + 4, os.SEEK_CUR)  # the content and its checksum
    return False


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """Open an image whose header is within the limits. Errors while it is read become a DataError."""
    try:
        size_of(path)
        with Image.open(path, formats=_readable_formats()) as image:
            IMAGE_PIXELS.check(image.width * image.height, path, error=DataError)
            yield image
    except FileNotFoundError:
        raise DataError(f"{path}: image file not found") from None
    except UnidentifiedImageError:
        reason = (
            "the file is empty" if path.stat().st_size == 0 else f"not a supported image format ({', '.join(FORMATS)})"
        )
        raise DataError(f"{path}: cannot read image: {reason}") from None
    except Image.DecompressionBombError as error:
        variable = IMAGE_PIXELS.variable
        raise DataError(f"{path}: cannot read image: {error} If not, set the environment variable {variable}") from None
    except (MemoryError, DataError):
        raise
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error and others
        raise DataError(f"{path}: cannot read image: {error}") from error


def turn_upright(pixels: Tensor, orientation: int) -> Tensor:
    """Rotate and mirror stored (3, H, W) pixels by EXIF orientation 1 to 8. Other numbers have no effect."""
    if orientation in TURNED:
        pixels = pixels.transpose(1, 2)
    flipped = [axis for axis, orientations in ((1, (3, 4, 7, 8)), (2, (2, 3, 6, 7))) if orientation in orientations]
    return pixels.flip(flipped) if flipped else pixels


def from_pil(image: Image.Image) -> Tensor:
    """Steps 2 and 3 of `read_image` for an open image. Pixels without a known range raise ValueError."""
    return _to_tensor(ImageOps.exif_transpose(image))


def _readable_formats() -> list[str]:
    """The FORMATS that this Pillow supports. Raises the pixel limit of Pillow if the user has raised ours."""
    Image.init()
    limit = IMAGE_PIXELS.value()
    if limit > IMAGE_PIXELS.default and Image.MAX_IMAGE_PIXELS is not None:
        Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS, limit)
    return [name for name in FORMATS if name in Image.OPEN]


def _raw_mode(image: Image.Image) -> str:
    """The decoder's name of the pixel format of an image that is not loaded yet."""
    tiles = getattr(image, "tile", None) or ()
    arguments = tiles[0][3] if tiles else None
    first = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return first if isinstance(first, str) else ""


def _to_tensor(image: Image.Image) -> Tensor:
    pixels = np.array(_to_rgb(image))  # a copy, because the array of Pillow is read-only
    return torch.from_numpy(pixels).permute(2, 0, 1)  # (H, W, 3) -> (3, H, W)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return image
    if image.mode == "F":
        raise ValueError("floating-point pixels have no known range; save the image with 8 or 16 bits")
    if image.mode.startswith("I"):
        # Pillow's own conversion clips 16 bits at 255, which turns most of the image white.
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError("gray values of more than 16 bits have no known range; save the image with 8 or 16 bits")
        scaled = values.astype(np.uint32)  # in place, because an image near the pixel limit would take gigabytes
        scaled *= 255
        scaled += 32767
        scaled //= 65535
        image = Image.fromarray(scaled.astype(np.uint8))
    if "transparency" in image.info:
        image = image.convert("RGBA")  # Pillow warns about the lost transparency if it converts to RGB directly
    return image.convert("RGB")
