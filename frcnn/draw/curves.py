"""The plot of a learning-rate range test."""

from collections.abc import Sequence

from PIL import Image

from frcnn.draw.axes import Panels, plot

WIDTH, HEIGHT = 960, 600
"""Size of the plot in pixels."""
RAW, SMOOTHED, SUGGESTED, DIVERGED = "#b8b8b8", "#1565c0", "#2e7d32", "#c62828"


def draw_range_test(
    rates: Sequence[float],
    losses: Sequence[float],
    smoothed: Sequence[float],
    *,
    suggested: float,
    diverged: float | None,
    title: str,
) -> Image.Image:
    """Plot the loss over the learning rate, raw and smoothed, and mark the suggested rate.

    Args:
        rates: ascending and positive, at least two; drawn on a logarithmic axis.
        losses, smoothed: finite, one for each rate. The range of the axis follows the smoothed losses; raw losses
            outside it are cut off.
        suggested: the rate to mark.
        diverged: the rate at which the loss diverged, which is marked too; None if the loss did not diverge.
    """

    def draw(panels: Panels) -> None:
        axes = panels[0]
        axes.plot(rates, losses, color=RAW, linewidth=1, label="loss")
        axes.plot(rates, smoothed, color=SMOOTHED, linewidth=2.5, label="smoothed")
        axes.axvline(suggested, color=SUGGESTED, linewidth=2, label=f"suggested {suggested:.2g}")
        if diverged is not None:
            axes.axvline(diverged, color=DIVERGED, linewidth=2, label=f"diverged at {diverged:.2g}")
        axes.set(xscale="log", xlabel="learning rate", ylabel="loss", ylim=_loss_range(losses, smoothed))
        axes.legend()

    return plot(draw, width=WIDTH, height=HEIGHT, title=title)


def _loss_range(losses: Sequence[float], smoothed: Sequence[float]) -> tuple[float, float]:
    """Lowest and highest loss on the axis.

    The axis ends at twice the initial loss, because a loss that diverges would flatten the rest of the curve.
    """
    low, high = min(smoothed), max(smoothed[0], min(max(smoothed), 2 * smoothed[0]))
    margin = max(0.2 * (high - low), 1e-6 * max(1.0, abs(high)))
    return max(min([*losses, *smoothed]) - margin / 4, low - margin), high + margin
