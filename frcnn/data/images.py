"""Reading image files of any kind as 8-bit RGB."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from frcnn.errors import DataError


def read_image(path: Path | str) -> Tensor:
    """Read an image file as a person would see it.

    1. Decode the whole file; a truncated one is an error, never an image that ends in grey.
    2. Turn it by its EXIF orientation.
    3. Bring it to 8-bit RGB: 16-bit grey is scaled by 255 / 65535, palettes and CMYK are converted, an alpha channel
       is dropped (colours are taken as stored, not blended with any ground).

    Returns:
        (3, H, W) uint8, RGB. Not necessarily contiguous: the memory is channels-last, which the resize likes best.

    Raises:
        DataError: names the file; it is missing, empty, broken, truncated, or holds pixels without a known range.
    """
    path = Path(path)
    try:
        with Image.open(path) as image:
            image.load()
            ImageOps.exif_transpose(image, in_place=True)
            return _to_tensor(image)
    except FileNotFoundError:
        raise DataError(f"{path}: image file not found") from None
    except UnidentifiedImageError:
        reason = "the file is empty" if path.stat().st_size == 0 else "no known image format"
        raise DataError(f"{path}: cannot read image: {reason}") from None
    except MemoryError:
        raise
    except Exception as error:  # PIL's decoders raise OSError, SyntaxError, ValueError, struct.error and more
        raise DataError(f"{path}: cannot read image: {error}") from error


def from_pil(image: Image.Image) -> Tensor:
    """Steps 2 and 3 of `read_image` for an image that is open already; ValueError for pixels without a known range."""
    return _to_tensor(ImageOps.exif_transpose(image))


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
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError("grey values beyond 16 bits have no known range; store the image with 8 or 16 bits")
        image = Image.fromarray(((values * 255 + 32767) // 65535).astype(np.uint8))
    if "transparency" in image.info:
        image = image.convert("RGBA")  # straight to RGB, PIL warns of the lost transparency
    return image.convert("RGB")
