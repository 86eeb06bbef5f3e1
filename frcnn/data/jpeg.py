"""Decoding plain JPEG files with torchvision: the same pixels as Pillow in two thirds of the time.

Both call libjpeg-turbo with the same settings. Pillow spends the additional time on copies, to four bytes per pixel and
back to three. torchvision plans to remove its decoders (`torchvision.io.decode_jpeg` warns since 0.29, the operator
below it does not). Without them, Pillow reads all files.
"""

from pathlib import Path

import numpy as np
import torch
import torchvision  # noqa: F401 - registers the operator
from torch import Tensor

SEQUENTIAL = (0xC0, 0xC1)
"""Sequential frames with 8-bit Huffman coding. Pillow reads all others, mainly progressive ones (0xC2)."""
RGB = 3
"""torchvision.io.ImageReadMode.RGB."""
FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
START_OF_SCAN = 0xDA
OTHER_BYTES = 2**20
"""Maximum size of the other contents of a file: previews, color profiles."""


def decode_sequential(path: Path, *, height: int, width: int) -> Tensor | None:
    """The pixels of a JPEG file that has `height` x `width` pixels according to Pillow; None if Pillow must decode it.

    1. Read the file unless it is larger than an image of that size can plausibly be.
    2. Check its header: one frame of 8 bits with 1 or 3 colors and exactly that size, and nothing that decoders could
       interpret in two ways. So no image above the pixel limit is decoded.
    3. Decode. Pillow also gets the files that fail here, because its error messages are better.

    Returns:
        (3, H, W) uint8 RGB, channels-last in memory, before the EXIF orientation is applied.
    """
    most = 4 * height * width + OTHER_BYTES
    data = np.fromfile(path, dtype=np.uint8, count=most + 1)
    if len(data) > most or frame_size(data.data) != (height, width):
        return None
    try:
        pixels = torch.ops.image.decode_jpeg(torch.from_numpy(data), RGB, False)
    except (RuntimeError, AttributeError):  # a broken file, or torchvision without libjpeg or without decoders
        return None
    return pixels if pixels.shape == (3, height, width) else None


def frame_size(data: memoryview) -> tuple[int, int] | None:
    """(height, width) of a file whose header has one sequential frame of 8 bits with 1 or 3 colors; None for others.

    A header is a sequence of segments: 0xFF, a kind, two bytes of length, content. Bytes between segments violate the
    standard, and programs differ in how they treat them.
    """
    size = None
    if bytes(data[:2]) != b"\xff\xd8":
        return None
    start = 2
    while start + 4 <= len(data) and data[start] == 0xFF:
        kind, length = data[start + 1], int.from_bytes(data[start + 2 : start + 4], "big")
        if kind == START_OF_SCAN:
            return size
        if kind < 0xC0 or 0xD0 <= kind <= 0xD9 or kind == 0xFF or length < 2:
            return None
        if kind in FRAMES:
            frame = bytes(data[start + 4 : start + 10])
            if kind not in SEQUENTIAL or size is not None or len(frame) < 6 or frame[0] != 8 or frame[5] not in (1, 3):
                return None
            size = int.from_bytes(frame[1:3], "big"), int.from_bytes(frame[3:5], "big")
        start += 2 + length
    return None
