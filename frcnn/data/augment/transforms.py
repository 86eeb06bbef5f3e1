"""Resizing, flipping and colour jitter; every draw comes from the generator that is handed in."""

from collections.abc import Sequence

import torch
from torch import Generator, Tensor
from torchvision.transforms.v2 import functional as F


def resized_size(height: int, width: int, *, short_side: int, long_side: int) -> tuple[int, int]:
    """Size after the usual resize: the short side becomes `short_side` unless the long one would pass `long_side`.

    scale = min(short_side / short, long_side / long); both sides are rounded to the nearest pixel, halves up, as in
    Detectron2 (torchvision's detector rounds down and so loses a pixel to floating point now and then). At least 1.

    >>> resized_size(480, 640, short_side=600, long_side=1000)
    (600, 800)
    >>> resized_size(100, 400, short_side=600, long_side=1000)
    (250, 1000)
    """
    scale = min(short_side / min(height, width), long_side / max(height, width))
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def resize(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear with antialias, (3, H, W) uint8 -> (3, *size) uint8; the image itself where the size fits already."""
    if tuple(image.shape[-2:]) == tuple(size):
        return image
    return F.resize(image, list(size), interpolation=F.InterpolationMode.BILINEAR, antialias=True)


def resize_boxes(boxes: Tensor, *, old_size: tuple[int, int], new_size: tuple[int, int]) -> Tensor:
    """Scale (n, 4) boxes by the real ratio of each axis, which after rounding is not quite the same for both."""
    y_ratio, x_ratio = new_size[0] / old_size[0], new_size[1] / old_size[1]
    return boxes * boxes.new_tensor([x_ratio, y_ratio, x_ratio, y_ratio])


def flip(image: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Mirror left and right."""
    width = image.shape[-1]
    return image.flip(-1), torch.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], dim=1)


def flip_vertically(image: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Mirror top and bottom."""
    height = image.shape[-2]
    return image.flip(-2), torch.stack([boxes[:, 0], height - boxes[:, 3], boxes[:, 2], height - boxes[:, 1]], dim=1)


class TestTransform:
    """The resize of evaluation and prediction."""

    __test__ = False  # no test case, whatever pytest thinks of the name

    def __init__(self, *, short_side: int, long_side: int) -> None:
        self.short_side = short_side
        self.long_side = long_side

    def __call__(self, image: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """(3, H, W) uint8 and (n, 4) -> (3, h, w) uint8 and (n, 4)."""
        old_size = (image.shape[1], image.shape[2])
        new_size = resized_size(*old_size, short_side=self.short_side, long_side=self.long_side)
        return resize(image, new_size), resize_boxes(boxes, old_size=old_size, new_size=new_size)


class TrainTransform:
    """Resize to a short side drawn from a list, flip, jitter: a pure function of the image and the generator's seed.

    The draws are always the same in number and order, so that switching one change off leaves the others as they were.
    """

    def __init__(
        self,
        *,
        short_sides: Sequence[int],
        long_side: int,
        flip: float = 0.5,
        vertical_flip: float = 0.0,
        brightness: float = 0.0,
        contrast: float = 0.0,
        saturation: float = 0.0,
        hue: float = 0.0,
    ) -> None:
        """
        Args:
            flip, vertical_flip: probability in 0..1.
            brightness, contrast, saturation: x in 0..1; a factor is drawn from [1 - x, 1 + x]. 0 is off.
            hue: x in 0..0.5; a turn of the colour circle is drawn from [-x, x]. 0 is off.
        """
        self.short_sides = tuple(short_sides)
        self.long_side = long_side
        self.flip = flip
        self.vertical_flip = vertical_flip
        self.jitter = (
            (F.adjust_brightness, 1.0, brightness),
            (F.adjust_contrast, 1.0, contrast),
            (F.adjust_saturation, 1.0, saturation),
            (F.adjust_hue, 0.0, hue),
        )

    def __call__(self, image: Tensor, boxes: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
        """(3, H, W) uint8 and (n, 4) -> (3, h, w) uint8 and (n, 4)."""
        short_side = self.short_sides[int(torch.randint(len(self.short_sides), (1,), generator=generator))]
        is_flipped = float(torch.rand(1, generator=generator)) < self.flip
        order = torch.randperm(len(self.jitter), generator=generator).tolist()
        shifts = (torch.rand(len(self.jitter), generator=generator) * 2 - 1).tolist()
        is_upside_down = float(torch.rand(1, generator=generator)) < self.vertical_flip

        image, boxes = TestTransform(short_side=short_side, long_side=self.long_side)(image, boxes)
        if is_flipped:
            image, boxes = flip(image, boxes)
        if is_upside_down:
            image, boxes = flip_vertically(image, boxes)
        for position in order:
            adjust, centre, strength = self.jitter[position]
            if strength > 0:
                image = adjust(image, centre + strength * shifts[position])
        return image, boxes
