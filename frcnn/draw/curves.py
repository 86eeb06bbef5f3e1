"""The picture of a learning-rate range test."""

import math
from collections.abc import Callable, Iterator, Sequence

from PIL import Image, ImageDraw, ImageFont

WIDTH, HEIGHT = 960, 600
LEFT, RIGHT, TOP, BOTTOM = 100, 930, 70, 510
"""Edges of the plot, in pixels; outside are title, numbers and labels."""
INK, GRID, RAW, SMOOTH, MARK, LIMIT = "black", "#dddddd", "#b8b8b8", "#1565c0", "#2e7d32", "#c62828"


def draw_curve(
    rates: Sequence[float],
    losses: Sequence[float],
    smoothed: Sequence[float],
    *,
    suggested: float,
    diverged: float | None,
    title: str,
) -> Image.Image:
    """Loss over learning rate on a logarithmic axis, raw and smoothed, with the suggestion marked.

    Args:
        rates: ascending, above 0, of two points or more.
        losses, smoothed: finite, one for each rate. The axis is made for the smoothed ones; raw ones beyond it are
            drawn at its edge.
        suggested: the rate to mark.
        diverged: the rate at which the loss diverged, marked too; None where it did not.
    """
    low, high = _loss_range(losses, smoothed)
    largest = max(rates[-1], diverged or 0)
    first, last = math.log10(rates[0]), math.log10(largest)

    def x(rate: float) -> float:
        return LEFT + (math.log10(rate) - first) / (last - first) * (RIGHT - LEFT)

    def y(loss: float) -> float:
        return BOTTOM - (min(max(loss, low), high) - low) / (high - low) * (BOTTOM - TOP)

    picture = Image.new("RGB", (WIDTH, HEIGHT), "white")
    pen = ImageDraw.Draw(picture)
    _draw_axes(pen, x, y, rates=(rates[0], largest), losses=(low, high))
    pen.text(((LEFT + RIGHT) / 2, 24), title, fill=INK, font=_font(20), anchor="mm")
    for rate, colour in ((suggested, MARK), (diverged, LIMIT)):
        if rate is not None:
            pen.line([(x(rate), TOP), (x(rate), BOTTOM)], fill=colour, width=2)
    for values, colour, width in ((losses, RAW, 1), (smoothed, SMOOTH, 3)):
        pen.line([(x(rate), y(loss)) for rate, loss in zip(rates, values, strict=True)], fill=colour, width=width)
    legend = [(RAW, "loss"), (SMOOTH, "smoothed"), (MARK, f"suggested {suggested:.2g}")]
    _draw_legend(pen, legend + ([(LIMIT, f"diverged at {diverged:.2g}")] if diverged is not None else []))
    return picture


def _loss_range(losses: Sequence[float], smoothed: Sequence[float]) -> tuple[float, float]:
    """Lowest and highest loss of the axis, cut at twice the start, lest the end press the rest flat."""
    low, high = min(smoothed), max(smoothed[0], min(max(smoothed), 2 * smoothed[0]))
    margin = max(0.2 * (high - low), 1e-6 * max(1.0, abs(high)))
    return max(min([*losses, *smoothed]) - margin / 4, low - margin), high + margin


def _draw_axes(
    pen: ImageDraw.ImageDraw,
    x: Callable[[float], float],
    y: Callable[[float], float],
    *,
    rates: tuple[float, float],
    losses: tuple[float, float],
) -> None:
    """Frame, grid, numbers and labels."""
    font = _font(16)
    for exponent in range(math.floor(math.log10(rates[0])), math.ceil(math.log10(rates[1])) + 1):
        for digit in range(1, 10):
            rate = digit * 10.0**exponent
            if not rates[0] * 0.999 <= rate <= rates[1] * 1.001:
                continue
            is_decade = digit == 1
            if is_decade:
                pen.line([(x(rate), TOP), (x(rate), BOTTOM)], fill=GRID)
                pen.text((x(rate), BOTTOM + 12), f"{rate:.0e}", fill=INK, font=font, anchor="mt")
            pen.line([(x(rate), BOTTOM), (x(rate), BOTTOM + (8 if is_decade else 4))], fill=INK)
    for loss in round_numbers(*losses):
        pen.line([(LEFT, y(loss)), (RIGHT, y(loss))], fill=GRID)
        pen.line([(LEFT - 6, y(loss)), (LEFT, y(loss))], fill=INK)
        pen.text((LEFT - 12, y(loss)), f"{loss:g}", fill=INK, font=font, anchor="rm")
    pen.rectangle((LEFT, TOP, RIGHT, BOTTOM), outline=INK)
    pen.text(((LEFT + RIGHT) / 2, BOTTOM + 54), "learning rate", fill=INK, font=_font(18), anchor="mm")
    pen.text((LEFT, TOP - 16), "loss", fill=INK, font=_font(18), anchor="mm")


def _draw_legend(pen: ImageDraw.ImageDraw, entries: Sequence[tuple[str, str]]) -> None:
    """Colours and what they stand for, in one line above the plot at the right."""
    font, right = _font(16), float(RIGHT)
    for colour, text in reversed(entries):
        width = pen.textlength(text, font=font)
        pen.text((right - width, TOP - 16), text, fill=INK, font=font, anchor="lm")
        pen.line([(right - width - 36, TOP - 16), (right - width - 8, TOP - 16)], fill=colour, width=4)
        right -= width + 60


def round_numbers(low: float, high: float) -> Iterator[float]:
    """About five to ten multiples of 1, 2 or 5 times a power of ten between both.

    >>> list(round_numbers(0.3, 2.4))
    [0.5, 1.0, 1.5, 2.0]
    """
    step = 10.0 ** math.floor(math.log10((high - low) / 4))
    step *= max(factor for factor in (1, 2, 5) if factor * step <= (high - low) / 4)
    for multiple in range(math.ceil(low / step), math.floor(high / step) + 1):
        yield round(multiple * step, 12)


def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(size=size)  # type: ignore[return-value]
