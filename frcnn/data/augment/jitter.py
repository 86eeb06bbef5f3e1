"""Photometric jitter."""

from typing import NamedTuple

import torch
from torch import Generator
from torchvision.transforms.v2 import functional as F

from frcnn.data.batching import Sample


class JitterDraw(NamedTuple):
    """The random numbers of one image."""

    order: list[int]
    """Permutation of the four changes."""
    shifts: list[float]
    """One number in -1..1 per change."""


class ColorJitter:
    """Change brightness, contrast, saturation and hue, in random order."""

    def __init__(
        self, *, brightness: float = 0.0, contrast: float = 0.0, saturation: float = 0.0, hue: float = 0.0
    ) -> None:
        """
        Args:
            brightness, contrast, saturation: x in 0..1; a factor is drawn from [1 - x, 1 + x]. 0 turns it off.
            hue: x in 0..0.5; a shift on the color circle is drawn from [-x, x]. 0 turns it off.
        """
        self.changes = (
            (F.adjust_brightness, 1.0, brightness),
            (F.adjust_contrast, 1.0, contrast),
            (F.adjust_saturation, 1.0, saturation),
            (F.adjust_hue, 0.0, hue),
        )

    def __call__(self, sample: Sample, generator: Generator) -> Sample:
        return self.apply(sample, self.draw(generator))

    def draw(self, generator: Generator) -> JitterDraw:
        """Draw the random numbers of one image, also for changes that are turned off."""
        order = torch.randperm(len(self.changes), generator=generator).tolist()
        return JitterDraw(order, (torch.rand(len(self.changes), generator=generator) * 2 - 1).tolist())

    def apply(self, sample: Sample, draw: JitterDraw) -> Sample:
        """Apply the changes of a draw."""
        image = sample.image
        for position in draw.order:
            adjust, center, strength = self.changes[position]
            if strength > 0:
                image = adjust(image, center + strength * draw.shifts[position])
        return sample._replace(image=image)
