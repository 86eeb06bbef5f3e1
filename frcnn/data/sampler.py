"""The images of each batch, as a pure function of (seed, step)."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Generator

from frcnn.errors import ConfigError, DataError

Key = tuple[int, int]
"""(epoch, index): apart from the seed, the random changes of an image depend on these only. If an image can occur
several times in an epoch, the first number counts its occurrences, see `with_visits`."""

UNIT = 2**32
"""Fractions of a draw are counted in integer units of 1 / UNIT, so that their sum is exact in any order."""


def mixed_seed(*key: int) -> int:
    """Mix non-negative integers to a number in 0..2**63 - 1. Neighboring keys give unrelated numbers."""
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> np.uint64(1))


def seeded_generator(*key: int) -> Generator:
    """A generator seeded by `mixed_seed`."""
    return torch.Generator().manual_seed(mixed_seed(*key))


def order_generator(*, seed: int, epoch: int) -> Generator:
    """The generator that draws the order of an epoch."""
    return seeded_generator(1, seed, epoch)


def image_generator(*, seed: int, epoch: int, index: int) -> Generator:
    """The generator of the augmentations of an image in an epoch."""
    return seeded_generator(2, seed, epoch, index)


def image_seed(*, seed: int, epoch: int, index: int) -> int:
    """`Batch.seed` of an image in an epoch, from which its training anchors and regions are sampled."""
    return mixed_seed(3, seed, epoch, index)


def epoch_size(num_images: int, factors: Sequence[float] | None = None) -> int:
    """Number of draws in an epoch: one per image, or the sum of `factors`, rounded down."""
    return num_images if factors is None else math.floor(math.fsum(factors) + 1e-6)  # 1e-6: n / 3 three times is n


def steps_per_epoch(num_draws: int, batch_size: int) -> int:
    """Number of full batches in an epoch. The incomplete rest is dropped; it has other images in each epoch."""
    return num_draws // batch_size


def draw_epoch(factors: Sequence[float], generator: Generator) -> list[int]:
    """Draw the images of one epoch in random order: image i factors[i] times on average, `epoch_size` in total.

    1. Lay the factors end to end on a line, in random order.
    2. Place marks at distance 1 on the line, from a random start. The marks on an image are its draws. This rounds each
       factor up or down at random (systematic sampling), and the total varies by at most one.
    3. Shuffle the draws. If the total was rounded up, drop the last draw.
    """
    size = epoch_size(len(factors), factors)
    units = (torch.tensor(factors, dtype=torch.float64) * UNIT).round().long()
    units[units.argmax()] += max(0, size * UNIT - int(units.sum()))  # what rounding to units has lost
    images = torch.randperm(len(factors), generator=generator)
    start = int(torch.randint(UNIT, (1,), generator=generator))
    ends = (units[images].cumsum(0) + start) // UNIT
    times = ends.diff(prepend=ends.new_zeros(1))
    draws = images.repeat_interleave(times)
    return draws[torch.randperm(len(draws), generator=generator)][:size].tolist()


def epoch_batches(
    num_images: int,
    *,
    batch_size: int,
    seed: int,
    epoch: int,
    is_wide: Sequence[bool] | None = None,
    factors: Sequence[float] | None = None,
) -> list[list[int]]:
    """The batches of an epoch, each of `batch_size` indices.

    1. Shuffle the images. With `factors`, draw them instead, see `draw_epoch`.
    2. With `is_wide`, form separate batches of wide and of tall images and shuffle these batches. The leftovers of both
       groups form at most one mixed batch, the last.
    3. Drop the images that do not fill a batch.
    """
    generator = order_generator(seed=seed, epoch=epoch)
    if factors is None:
        order = torch.randperm(num_images, generator=generator).tolist()
    else:
        order = draw_epoch(factors, generator)
    if is_wide is None:
        return _whole_batches(order, batch_size)
    groups = [index for index in order if is_wide[index]], [index for index in order if not is_wide[index]]
    batches = [batch for group in groups for batch in _whole_batches(group, batch_size)]
    leftovers = [index for group in groups for index in group[len(group) // batch_size * batch_size :]]
    shuffled = [batches[position] for position in torch.randperm(len(batches), generator=generator).tolist()]
    return shuffled + _whole_batches(leftovers, batch_size)


def _whole_batches(order: list[int], batch_size: int) -> list[list[int]]:
    return [order[start : start + batch_size] for start in range(0, len(order) - batch_size + 1, batch_size)]


def with_visits(batches: Sequence[Sequence[int]], *, epoch: int, most_draws: int) -> list[list[Key]]:
    """The key of each index in the batches of an epoch: (epoch * most_draws + previous draws in this epoch, index).

    An image that is drawn again thus gets new augmentations. If each image is drawn once, the key is (epoch, index).

    >>> with_visits([[4, 7], [7, 5]], epoch=10, most_draws=3)
    [[(30, 4), (30, 7)], [(31, 7), (30, 5)]]
    """
    drawn: Counter[int] = Counter()
    keys = []
    for batch in batches:
        keys.append([])
        for index in batch:
            keys[-1].append((epoch * most_draws + drawn[index], index))
            drawn[index] += 1
    return keys


class TrainSampler:
    """Endless micro-batches of one rank, starting at any step.

    The global batch of step s is batch s % steps_per_epoch of epoch s // steps_per_epoch. Rank r takes slice r of
    `world_size` equal slices and yields it in `accumulate` parts. A start in the middle of an epoch computes the order
    of that epoch only.
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
        factors: Sequence[float] | None = None,
    ) -> None:
        """
        Args:
            batch_size: images per optimizer step over all ranks and parts.
            is_wide: one flag per image; None does not group images.
            factors: average number of draws of each image in an epoch; None means one.

        Raises:
            ConfigError: batch_size is not a multiple of world_size * accumulate.
            DataError: batch_size is larger than an epoch.
        """
        if batch_size % (world_size * accumulate):
            raise ConfigError(
                f"train.batch_size {batch_size} is not divisible by {world_size} process(es) x train.accumulate "
                f"{accumulate}; choose a multiple of {world_size * accumulate}"
            )
        if batch_size > epoch_size(num_images, factors):
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
        self.factors = factors
        self.steps_per_epoch = steps_per_epoch(epoch_size(num_images, factors), batch_size)
        self.most_draws = 1 if factors is None else math.ceil(max(factors)) + 1

    def __iter__(self) -> Iterator[list[Key]]:
        """Yield the keys of one micro-batch after the other."""
        epoch, position = divmod(self.start_step, self.steps_per_epoch)
        share = self.batch_size // self.world_size
        part = share // self.accumulate
        while True:
            batches = epoch_batches(
                self.num_images,
                batch_size=self.batch_size,
                seed=self.seed,
                epoch=epoch,
                is_wide=self.is_wide,
                factors=self.factors,
            )
            for batch in with_visits(batches, epoch=epoch, most_draws=self.most_draws)[position:]:
                own = batch[self.rank * share : (self.rank + 1) * share]
                for start in range(0, share, part):
                    yield own[start : start + part]
            epoch, position = epoch + 1, 0


class EvalSampler:
    """Every image once, in order. Rank r takes the images r, r + world_size, ..."""

    def __init__(self, num_images: int, *, batch_size: int, rank: int = 0, world_size: int = 1) -> None:
        own = range(num_images)[rank::world_size]
        self.batches = [list(own[start : start + batch_size]) for start in range(0, len(own), batch_size)]

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[Key]]:
        for batch in self.batches:
            yield [(0, index) for index in batch]
