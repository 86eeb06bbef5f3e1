"""An exponential moving average of the weights, which often detects better than the weights of any single step."""

import copy

import torch
from torch.optim.swa_utils import get_ema_multi_avg_fn

from frcnn.model.detector import FasterRCNN


class WeightAverage:
    """Exponential moving average of a detector's weights: average = decay * average + (1 - decay) * weights.

    Parameters and floating-point buffers are averaged, so the statistics of batch norm match the averaged weights (as
    in timm and Ultralytics). Integer buffers are copied. A frozen parameter does not change by a single bit. The
    average is float32, on the device of the model. Its detector is always in evaluation mode.
    """

    def __init__(self, model: FasterRCNN, *, decay: float) -> None:
        """
        Args:
            model: the detector to average; the average starts with its current weights.
            decay: in (0, 1); the average covers about 1 / (1 - decay) steps.
        """
        self.decay = decay
        self.model = copy.deepcopy(model).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, model: FasterRCNN, *, step: int) -> None:
        """Add the weights after optimizer step `step` (from 1). No host sync.

        The result depends on the average, the weights and the step only, so a resumed run continues bit-identically.
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
    """The decay for the weights after optimizer step `step`: min(decay, (step - 1) / (step + 8)).

    At the start, when the weights change most, the average covers a fraction of the steps done. This is TensorFlow's
    (1 + n) / (10 + n), one step later: the weights of the first step replace the initial weights.

    >>> [round(decay_after(step, decay=0.99), 3) for step in (1, 2, 3, 100, 10_000)]
    [0.0, 0.1, 0.182, 0.917, 0.99]
    """
    return min(decay, max(0, step - 1) / (step + 8))
