"""Decoding the usual JPEG files by torchvision, with the pixels of Pillow in two thirds of its time.

Both call libjpeg-turbo with the same settings; what Pillow takes longer for are its copies, to four bytes a pixel and
back to three. torchvision means to remove its decoders (`torchvision.io.decode_jpeg` warns of it since 0.29, the
operator below it does not); where they are gone, Pillow reads all.
"""

from pathlib import Path

import numpy as np
import torch
import torchvision  # noqa: F401 - brings the operator
from torch import Tensor

SEQUENTIAL = (0xC0, 0xC1)
"""Frames of 8-bit Huffman coding in one go; others, progressive ones (0xC2) above all, are left to Pillow."""
RGB = 3
"""torchvision.io.ImageReadMode.RGB."""
FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
START_OF_SCAN = 0xDA
OTHER_BYTES = 2**20
"""What a file may hold beside its pixels: previews, colour profiles."""


def decode_sequential(path: Path, *, height: int, width: int) -> Tensor | None:
    """The pixels of a JPEG file that Pillow has found to be `height` x `width`; None where they are left to Pillow.

    1. Read the file, if it is no larger than an image of that size can well be.
    2. Walk through its header: one grey or three-colour frame of 8 bits, of that very size, and nothing that decoders
       might read in two ways. So nothing larger is decoded than was allowed.
    3. Decode. Whatever is refused there is left to Pillow too, whose message the user shall read.

    Returns:
        (3, H, W) uint8 RGB, channels-last in memory, not turned by its orientation.
    """
    most = 4 * height * width + OTHER_BYTES
    data = np.fromfile(path, dtype=np.uint8, count=most + 1)
    if len(data) > most or frame_size(data.data) != (height, width):
        return None
    try:
        pixels = torch.ops.image.decode_jpeg(torch.from_numpy(data), RGB, False)
    except (RuntimeError, AttributeError):  # a broken file; torchvision without libjpeg, or without decoders
        return None
    return pixels if pixels.shape == (3, height, width) else None


def frame_size(data: memoryview) -> tuple[int, int] | None:
    """(height, width) of a file whose header has one sequential frame of 8 bits and 1 or 3 colours; None for others.

    A header is a chain of segments: 0xFF, a kind, two bytes of length, content. Bytes between them are against the
    standard, and programs differ in what they make of them.
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
