"""The augmentations of training in their order.

An augmentation is a function of a sample and a generator that returns a sample. It changes labels and ignore flags
together with the boxes, and takes every random number from the generator.
"""

from collections.abc import Callable, Sequence

from torch import Generator

from frcnn.data.augment.flip import RandomFlip, RandomVerticalFlip
from frcnn.data.augment.jitter import ColorJitter
from frcnn.data.augment.resize import RandomResize
from frcnn.data.batching import Sample

Augmentation = Callable[[Sample, Generator], Sample]


class TrainTransform:
    """Apply the augmentations one after the other: a function of the sample and the state of the generator.

    Each augmentation draws the same number of values for any strength, so that turning one off does not change the
    others.
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
        custom: Sequence[Augmentation] = (),
    ) -> None:
        """
        Args:
            short_sides, long_side: see `RandomResize`.
            flip, vertical_flip: probability in 0..1.
            brightness, contrast, saturation, hue: see `ColorJitter`.
            custom: applied last.
        """
        jitter = ColorJitter(brightness=brightness, contrast=contrast, saturation=saturation, hue=hue)
        self.augmentations: tuple[Augmentation, ...] = (
            RandomResize(short_sides=short_sides, long_side=long_side),
            RandomFlip(flip),
            FlipThenJitter(RandomVerticalFlip(vertical_flip), jitter),
            *custom,
        )

    def __call__(self, sample: Sample, generator: Generator) -> Sample:
        for augmentation in self.augmentations:
            sample = augmentation(sample, generator)
        return sample


class FlipThenJitter:
    """The vertical flip before the jitter, but with the draws of the jitter first.

    The draws have this order because the flip was added later, and runs must stay repeatable. The flip is applied
    first because the mean in the contrast of a mirrored image may differ in the last bit.
    """

    def __init__(self, flip: RandomVerticalFlip, jitter: ColorJitter) -> None:
        self.flip = flip
        self.jitter = jitter

    def __call__(self, sample: Sample, generator: Generator) -> Sample:
        draw = self.jitter.draw(generator)
        return self.jitter.apply(self.flip(sample, generator), draw)
