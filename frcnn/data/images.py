"""Reading image files of any kind as 8-bit RGB."""

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
"""What is read, by Pillow's names; the others are rare, little tested, or run another program (EPS)."""

ORIENTATION_TAG = 0x0112


class DecodedImage(NamedTuple):
    """An image file as `read_image` gives it, and how it is stored."""

    pixels: Tensor
    """(3, H, W) uint8 RGB, turned by the EXIF orientation."""
    mode: str
    """PIL's name of the stored pixels: RGB, L, P, CMYK, I;16, ..."""
    raw_mode: str
    """How the decoder found them, such as RGB;16B for 16 bits a channel; empty where it does not say."""
    stored_size: tuple[int, int]
    """(height, width) before the turn."""
    orientation: int
    """EXIF's, 1 (upright) to 8; 1 where there is none."""


def read_image(path: Path | str) -> Tensor:
    """Read an image file as a person would see it.

    1. Decode the whole file; a truncated one is an error, never an image that ends in grey.
    2. Turn it by its EXIF orientation.
    3. Bring it to 8-bit RGB: 16-bit grey is scaled by 255 / 65535, palettes and CMYK are converted, an alpha channel
       is dropped (colours are taken as stored, not blended with any ground).

    Returns:
        (3, H, W) uint8, RGB. Not necessarily contiguous: the memory is channels-last, which the resize likes best.

    Raises:
        DataError: names the file; it is missing, empty, broken, truncated, of too many pixels, or holds pixels without
            a known range.
    """
    return decode_image(path).pixels


def decode_image(path: Path | str) -> DecodedImage:
    """`read_image` with what is known of the file besides its pixels."""
    path = Path(path)
    try:
        size_of(path)
        with Image.open(path, formats=_readable_formats()) as image:
            IMAGE_PIXELS.check(image.width * image.height, path, error=DataError)
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
    except FileNotFoundError:
        raise DataError(f"{path}: image file not found") from None
    except UnidentifiedImageError:
        reason = "the file is empty" if path.stat().st_size == 0 else f"no known image format ({', '.join(FORMATS)})"
        raise DataError(f"{path}: cannot read image: {reason}") from None
    except Image.DecompressionBombError as error:
        variable = IMAGE_PIXELS.variable
        raise DataError(f"{path}: cannot read image: {error} If not, set the environment variable {variable}") from None
    except (MemoryError, DataError):
        raise
    except Exception as error:  # PIL's decoders raise OSError, SyntaxError, ValueError, struct.error and more
        raise DataError(f"{path}: cannot read image: {error}") from error


def turn_upright(pixels: Tensor, orientation: int) -> Tensor:
    """(3, H, W) pixels as stored -> as seen by EXIF's orientation 1 to 8; as they are for other numbers."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.transpose(1, 2)
    flipped = [axis for axis, orientations in ((1, (3, 4, 7, 8)), (2, (2, 3, 6, 7))) if orientation in orientations]
    return pixels.flip(flipped) if flipped else pixels


def from_pil(image: Image.Image) -> Tensor:
    """Steps 2 and 3 of `read_image` for an image that is open already; ValueError for pixels without a known range."""
    return _to_tensor(ImageOps.exif_transpose(image))


def _readable_formats() -> list[str]:
    """Those of FORMATS that this Pillow knows; raises Pillow's own limit of pixels where the user has raised ours."""
    Image.init()
    limit = IMAGE_PIXELS.value()
    if limit > IMAGE_PIXELS.default and Image.MAX_IMAGE_PIXELS is not None:
        Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS, limit)
    return [name for name in FORMATS if name in Image.OPEN]


def _raw_mode(image: Image.Image) -> str:
    """The decoder's name of the pixels of an image that is not loaded yet."""
    tiles = getattr(image, "tile", None) or ()
    arguments = tiles[0][3] if tiles else None
    first = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return first if isinstance(first, str) else ""


def _to_tensor(image: Image.Image) -> Tensor:
    pixels = np.array(_to_rgb(image))  # a copy: what PIL lends out is read-only
    return torch.from_numpy(pixels).permute(2, 0, 1)  # (H, W, 3) -> (3, H, W)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return image
    if image.mode == "F":
        raise ValueError("floating-point pixels have no known range; store the image with 8 or 16 bits")
    if image.mode.startswith("I"):
        # PIL's own conversion cuts 16 bits off at 255, which turns most of the image white.
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError("grey values beyond 16 bits have no known range; store the image with 8 or 16 bits")
        scaled = values.astype(np.uint32)  # in place: an image near the limit of pixels would take gigabytes
        scaled *= 255
        scaled += 32767
        scaled //= 65535
        image = Image.fromarray(scaled.astype(np.uint8))
    if "transparency" in image.info:
        image = image.convert("RGBA")  # straight to RGB, PIL warns of the lost transparency
    return image.convert("RGB")
