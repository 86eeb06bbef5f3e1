"""When a training ends before its length because it no longer gets better."""

from typing import NamedTuple


class Standstill(NamedTuple):
    """For how many evaluations the metric has not risen."""

    reference: float | None = None
    """The metric of the last evaluation that was a rise; None before the first evaluation."""
    evaluations: int = 0
    """Evaluations since then."""

    def after(self, metric: float, *, min_delta: float) -> "Standstill":
        """The state after one more evaluation.

        It is a rise where the metric is more than `min_delta` above the reference, so that many small rises still
        count once they add up to one.

        Args:
            metric: higher is better; -inf where there was nothing to measure by.

        >>> state = Standstill()
        >>> for metric in (0.10, 0.30, 0.305, 0.32, 0.2):
        ...     state = state.after(metric, min_delta=0.01)
        ...     print(state.reference, state.evaluations)
        0.1 0
        0.3 0
        0.3 1
        0.32 0
        0.32 1
        """
        if self.reference is None or metric > self.reference + min_delta:
            return Standstill(metric, 0)
        return Standstill(self.reference, self.evaluations + 1)
