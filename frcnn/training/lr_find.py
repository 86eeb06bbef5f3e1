"""A learning-rate range test (Smith 2017, Cyclical Learning Rates, section 3.3), which suggests a value of train.lr."""

import copy
import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from frcnn.draw.curves import draw_range_test
from frcnn.errors import TrainingError
from frcnn.files.writing import replacing
from frcnn.structures import total_loss
from frcnn.training.batches import train_loader
from frcnn.training.build_experiment import Experiment
from frcnn.training.distributed import mean_over_ranks
from frcnn.training.metrics import Clock
from frcnn.training.randomness import kept_random_state, set_seed
from frcnn.training.run_folder import writing
from frcnn.training.step import prepared, train_step

FIRST_LR, LAST_LR = 1e-6, 1.0
NUM_STEPS = 120
"""Twenty steps per decade of the learning rate."""
SMOOTHING = 0.9
"""Weight of the earlier steps in the smoothed loss."""
DIVERGED = 4.0
"""The test stops when the smoothed loss is this many times its lowest value so far."""


class RangeTest(NamedTuple):
    """The loss at each learning rate."""

    rates: list[float]
    losses: list[float]
    smoothed: list[float]
    diverged: float | None
    """The rate at which the loss diverged; None if it did not diverge."""


def find_lr(experiment: Experiment, folder: Path) -> list[str]:
    """Try learning rates and write lr_find.png and lr_find.json to a folder. Every rank calls it.

    The state of model, optimizer and random generators is restored at the end.

    Returns:
        lines for the log on rank 0; [] on other ranks.

    Raises:
        TrainingError: the loss diverged too early for a suggestion, or the folder cannot be written.
    """
    with kept_state(experiment), kept_random_state():
        test = range_test(experiment)
    suggested, reason = suggest(test)
    if not experiment.world.is_main:
        return []
    train = experiment.config.train
    setting = suggested * train.lr / train.peak_lr  # undo the scaling by train.lr_per_images
    title = f"{experiment.train_set.name}, batches of {train.batch_size} images, {train.optimizer}"
    picture = draw_range_test(*test[:3], suggested=suggested, diverged=test.diverged, title=title)
    content = {"suggested": suggested, "reason": reason, "batch_size": train.batch_size, **test._asdict()}
    with writing(folder):
        with replacing(folder / "lr_find.json") as file:
            file.write((json.dumps(content, indent=2) + "\n").encode())
        with replacing(folder / "lr_find.png") as file:
            picture.save(file, format="PNG")
    end = "did not diverge" if test.diverged is None else f"diverged at lr {test.diverged:.2g}"
    return [
        f"tried  {len(test.rates)} learning rates from {test.rates[0]:.0e} to {test.rates[-1]:.2g}; the loss {end}",
        f"lr     {suggested:.2g} for batches of {train.batch_size} images: {reason}",
        f"       set train.lr={setting:.2g}; the current value is {train.lr:g}",
        f"done: {folder / 'lr_find.png'} and lr_find.json; nothing was trained",
    ]


def range_test(experiment: Experiment) -> RangeTest:
    """Do optimizer steps on the first batches of the run, with a learning rate that grows by a constant factor.

    1. The rate grows from 1e-6 to 1 in 120 steps. Clipping, accumulation and precision are as in training. The
       schedule and its warm-up are not used.
    2. The loss is smoothed with an exponential mean, corrected for its start.
    3. The test stops when the smoothed loss is 4 times its lowest value, or when the loss is not finite.
    """
    e = experiment
    model = prepared(e)
    model.train()
    batches = iter(train_loader(e, start_step=0))
    set_seed(e.config.train.seed, e.world.rank)
    clock = Clock()
    rates: list[float] = []
    losses: list[float] = []
    smoothed: list[float] = []
    mean = 0.0
    for step in range(NUM_STEPS + 1):
        rate = FIRST_LR * (LAST_LR / FIRST_LR) ** (step / NUM_STEPS)
        found, _ = train_step(model, batches, e, lr=rate, clock=clock)
        loss = float(mean_over_ranks(total_loss(found), e.world))  # host sync; equal on every rank
        mean = SMOOTHING * mean + (1 - SMOOTHING) * loss
        corrected = mean / (1 - SMOOTHING ** (step + 1))
        if not math.isfinite(loss) or corrected > DIVERGED * min(smoothed, default=math.inf):
            return RangeTest(rates, losses, smoothed, diverged=rate)
        rates.append(rate)
        losses.append(loss)
        smoothed.append(corrected)
    return RangeTest(rates, losses, smoothed, diverged=None)


def suggest(test: RangeTest) -> tuple[float, str]:
    """Suggest a learning rate; returns the rate and the rule that gave it.

    1. The rate at which the smoothed loss falls fastest over the logarithm of the rate. The first ten steps are not
       considered, because the mean covers only a few losses there.
    2. At most a tenth of the rate at which the loss diverged: a rate can work for one step and fail for thousands.

    Raises:
        TrainingError: the loss diverged at one of the first 20 rates, or never falls.
    """
    if len(test.rates) < 20:
        raise TrainingError(
            f"the loss diverged after {len(test.rates)} steps of the range test, at a learning rate of "
            f"{test.diverged:.1e}. Check the data and the initial weights"
        )
    slopes = _slopes(test.smoothed)
    steepest = min(range(10, len(slopes)), key=slopes.__getitem__)
    if slopes[steepest] >= 0:
        raise TrainingError("the loss does not fall at any learning rate. Check the data and train.bias_lr_factor")
    rate = test.rates[steepest]
    if test.diverged is not None and rate > test.diverged / 10:
        return test.diverged / 10, "a tenth of the rate at which the loss diverged"
    return rate, "where the smoothed loss falls steepest"


def _slopes(values: Sequence[float]) -> list[float]:
    """Slope at each value: the difference over ten steps (half a decade) around it, fewer at the ends."""
    last = len(values) - 1
    pairs = [(max(0, position - 5), min(last, position + 5)) for position in range(len(values))]
    return [(values[end] - values[start]) / (end - start) for start, end in pairs]


@contextmanager
def kept_state(experiment: Experiment) -> Iterator[None]:
    """Restore weights, optimizer, scaler and modes at the end."""
    parts = (experiment.model, experiment.optimizer, experiment.scaler)
    states = [copy.deepcopy(part.state_dict()) for part in parts]
    modes = [(module, module.training) for module in experiment.model.modules()]
    try:
        yield
    finally:
        for part, state in zip(parts, states, strict=True):
            part.load_state_dict(state)
        for module, mode in modes:
            module.training = mode
