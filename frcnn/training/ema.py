"""An average of the weights over the last steps, which detects better than the weights of any one of them."""

import copy

import torch
from torch.optim.swa_utils import get_ema_multi_avg_fn

from frcnn.model.detector import FasterRCNN


class WeightAverage:
    """Exponential moving average of a detector's weights: average = decay * average + (1 - decay) * weights.

    Parameters and floating-point buffers are averaged alike, the statistics of batch norm among them, so that they
    are those of the averaged weights' time (as timm and Ultralytics do); buffers that count are copied. A frozen
    parameter stays as it is, to the bit. The average is float32 on the device of the model; its own detector is
    always in evaluation mode.
    """

    def __init__(self, model: FasterRCNN, *, decay: float) -> None:
        """
        Args:
            model: what to average; its weights of now are the average.
            decay: in (0, 1); the average looks back over about 1 / (1 - decay) steps.
        """
        self.decay = decay
        self.model = copy.deepcopy(model).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, model: FasterRCNN, *, step: int) -> None:
        """Take in the weights after optimiser step `step` (from 1); no host sync.

        A pure function of average, weights and step, so that a resumed run goes on to the bit.
        """
        average_in_place = get_ema_multi_avg_fn(decay_after(step, decay=self.decay))
        averages = [*self.model.parameters(), *self.model.buffers()]
        values = [*model.parameters(), *model.buffers()]
        pairs = list(zip(averages, values, strict=True))
        averaged = [pair for pair in pairs if pair[0].is_floating_point()]
        average_in_place([average for average, _ in averaged], [value for _, value in averaged], step)
        for average, value in pairs:
            if not average.is_floating_point():
                average.copy_(value)


def decay_after(step: int, *, decay: float) -> float:
    """The decay with which the weights after optimiser step `step` are taken in: min(decay, (step - 1) / (step + 8)).

    At the start, when the weights change most, the average looks back over a part of the steps done. This is
    TensorFlow's (1 + n) / (10 + n) begun one step later: the first step's weights replace what was there.

    >>> [round(decay_after(step, decay=0.99), 3) for step in (1, 2, 3, 100, 10_000)]
    [0.0, 0.1, 0.182, 0.917, 0.99]
    """
    return min(decay, max(0, step - 1) / (step + 8))
