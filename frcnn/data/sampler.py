"""Which images make up which batch: a pure function of (seed, step)."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Generator

from frcnn.errors import ConfigError, DataError

Key = tuple[int, int]
"""(epoch, index): all that the random changes of one image may depend on, besides the seed."""


def seeded_generator(*key: int) -> Generator:
    """A generator whose stream is a function of the key's non-negative integers; neighbouring keys are unrelated."""
    state = np.random.SeedSequence(key).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))


def order_generator(*, seed: int, epoch: int) -> Generator:
    """Draws the order of an epoch."""
    return seeded_generator(1, seed, epoch)


def image_generator(*, seed: int, epoch: int, index: int) -> Generator:
    """Draws the flip, scale and jitter of an image in an epoch."""
    return seeded_generator(2, seed, epoch, index)


def steps_per_epoch(num_images: int, batch_size: int) -> int:
    """Whole batches in one pass; the incomplete rest is dropped, other images each epoch."""
    return num_images // batch_size


def epoch_batches(
    num_images: int, *, batch_size: int, seed: int, epoch: int, is_wide: Sequence[bool] | None = None
) -> list[list[int]]:
    """The batches of an epoch, each of `batch_size` indices.

    1. Shuffle the images.
    2. With `is_wide`: deal wide and tall images into batches of their own and shuffle these batches. The leftovers
       of both groups make at most one mixed batch, the last.
    3. Drop what fills no batch.
    """
    generator = order_generator(seed=seed, epoch=epoch)
    order = torch.randperm(num_images, generator=generator).tolist()
    if is_wide is None:
        return _whole_batches(order, batch_size)
    groups = [index for index in order if is_wide[index]], [index for index in order if not is_wide[index]]
    batches = [batch for group in groups for batch in _whole_batches(group, batch_size)]
    leftovers = [index for group in groups for index in group[len(group) // batch_size * batch_size :]]
    shuffled = [batches[position] for position in torch.randperm(len(batches), generator=generator).tolist()]
    return shuffled + _whole_batches(leftovers, batch_size)


def _whole_batches(order: list[int], batch_size: int) -> list[list[int]]:
    return [order[start : start + batch_size] for start in range(0, len(order) - batch_size + 1, batch_size)]


class TrainSampler:
    """Endless micro-batches of one rank, from any step on.

    The global batch of step s is batch s % steps_per_epoch of epoch s // steps_per_epoch. Rank r takes the r-th of
    its `world_size` equal slices and yields it in `accumulate` parts. Starting in the middle costs one epoch's order.
    """

    def __init__(
        self,
        num_images: int,
        *,
        batch_size: int,
        seed: int,
        start_step: int = 0,
        accumulate: int = 1,
        rank: int = 0,
        world_size: int = 1,
        is_wide: Sequence[bool] | None = None,
    ) -> None:
        """
        Args:
            batch_size: images of an optimiser step over all ranks and parts.
            is_wide: one flag an image; None leaves the groups out.

        Raises:
            ConfigError: batch_size is no multiple of world_size * accumulate.
            DataError: batch_size is larger than the data set.
        """
        if batch_size % (world_size * accumulate):
            raise ConfigError(
                f"train.batch_size {batch_size} is not divisible by {world_size} process(es) x train.accumulate "
                f"{accumulate}; choose a multiple of {world_size * accumulate}"
            )
        if batch_size > num_images:
            raise DataError(
                f"train.batch_size {batch_size} is larger than the training set of {num_images} images; "
                f"lower train.batch_size to at most {num_images}"
            )
        self.num_images = num_images
        self.batch_size = batch_size
        self.seed = seed
        self.start_step = start_step
        self.accumulate = accumulate
        self.rank = rank
        self.world_size = world_size
        self.is_wide = is_wide

    def __iter__(self) -> Iterator[list[Key]]:
        """Yields (epoch, index) keys of one micro-batch after the other."""
        epoch, position = divmod(self.start_step, steps_per_epoch(self.num_images, self.batch_size))
        share = self.batch_size // self.world_size
        part = share // self.accumulate
        while True:
            batches = epoch_batches(
                self.num_images, batch_size=self.batch_size, seed=self.seed, epoch=epoch, is_wide=self.is_wide
            )
            for batch in batches[position:]:
                own = batch[self.rank * share : (self.rank + 1) * share]
                for start in range(0, share, part):
                    yield [(epoch, index) for index in own[start : start + part]]
            epoch, position = epoch + 1, 0


class EvalSampler:
    """Every image once, in order, those of rank r being r, r + world_size, ..."""

    def __init__(self, num_images: int, *, batch_size: int, rank: int = 0, world_size: int = 1) -> None:
        own = range(num_images)[rank::world_size]
        self.batches = [list(own[start : start + batch_size]) for start in range(0, len(own), batch_size)]

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[Key]]:
        for batch in self.batches:
            yield [(0, index) for index in batch]
