"""Mirroring images and boxes."""

import torch
from torch import Generator

from frcnn.data.batching import Sample


def flip(sample: Sample) -> Sample:
    """Mirror left and right."""
    width, boxes = sample.image.shape[-1], sample.boxes
    mirrored = torch.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], dim=1)
    return sample._replace(image=sample.image.flip(-1), boxes=mirrored)


def flip_vertically(sample: Sample) -> Sample:
    """Mirror top and bottom."""
    height, boxes = sample.image.shape[-2], sample.boxes
    mirrored = torch.stack([boxes[:, 0], height - boxes[:, 3], boxes[:, 2], height - boxes[:, 1]], dim=1)
    return sample._replace(image=sample.image.flip(-2), boxes=mirrored)


class RandomFlip:
    """Mirror left and right with a probability in 0..1."""

    def __init__(self, probability: float) -> None:
        self.probability = probability

    def __call__(self, sample: Sample, generator: Generator) -> Sample:
        return flip(sample) if float(torch.rand(1, generator=generator)) < self.probability else sample


class RandomVerticalFlip:
    """Mirror top and bottom with a probability in 0..1."""

    def __init__(self, probability: float) -> None:
        self.probability = probability

    def __call__(self, sample: Sample, generator: Generator) -> Sample:
        return flip_vertically(sample) if float(torch.rand(1, generator=generator)) < self.probability else sample
