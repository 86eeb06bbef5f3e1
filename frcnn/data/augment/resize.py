"""Resizing images and boxes."""

from collections.abc import Sequence

import torch
from torch import Generator, Tensor
from torchvision.transforms.v2 import functional as F

from frcnn.data.batching import Sample


def resized_size(height: int, width: int, *, short_side: int, long_side: int) -> tuple[int, int]:
    """The size after scaling the short side to `short_side`, or the long side to `long_side` if that is smaller.

    scale = min(short_side / short, long_side / long). Both sides are rounded to the nearest pixel, halves up, as in
    Detectron2, and are at least 1. (The detector of torchvision rounds down and sometimes loses a pixel to
    floating-point error.)

    >>> resized_size(480, 640, short_side=600, long_side=1000)
    (600, 800)
    >>> resized_size(100, 400, short_side=600, long_side=1000)
    (250, 1000)
    """
    scale = min(short_side / min(height, width), long_side / max(height, width))
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def resize(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear resize with antialiasing, (3, H, W) uint8 -> (3, *size) uint8. No effect on an image of that size."""
    if tuple(image.shape[-2:]) == tuple(size):
        return image
    return F.resize(image, list(size), interpolation=F.InterpolationMode.BILINEAR, antialias=True)


def resize_boxes(boxes: Tensor, *, old_size: tuple[int, int], new_size: tuple[int, int]) -> Tensor:
    """Scale (n, 4) boxes by the exact ratio of each axis. After rounding, the two ratios differ slightly."""
    y_ratio, x_ratio = new_size[0] / old_size[0], new_size[1] / old_size[1]
    return boxes * boxes.new_tensor([x_ratio, y_ratio, x_ratio, y_ratio])


def resize_sample(sample: Sample, *, short_side: int, long_side: int) -> Sample:
    """Resize an image and its boxes to `resized_size`: the preprocessing of training, evaluation and prediction."""
    old_size = (sample.image.shape[1], sample.image.shape[2])
    new_size = resized_size(*old_size, short_side=short_side, long_side=long_side)
    boxes = resize_boxes(sample.boxes, old_size=old_size, new_size=new_size)
    return sample._replace(image=resize(sample.image, new_size), boxes=boxes)


class RandomResize:
    """Resize to a short side drawn from a list."""

    def __init__(self, *, short_sides: Sequence[int], long_side: int) -> None:
        """Both arguments are in pixels, see `resized_size`."""
        self.short_sides = tuple(short_sides)
        self.long_side = long_side

    def __call__(self, sample: Sample, generator: Generator) -> Sample:
        short_side = self.short_sides[int(torch.randint(len(self.short_sides), (1,), generator=generator))]
        return resize_sample(sample, short_side=short_side, long_side=self.long_side)
