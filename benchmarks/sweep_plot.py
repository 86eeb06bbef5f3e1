"""The picture of a sweep: time and memory of a step over what was changed."""

from collections.abc import Callable, Sequence
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from frcnn.draw.curves import round_numbers

WIDTH, HEIGHT = 1280, 560
PANELS = ((90, 610), (730, 1250))
"""Left and right edge of the two plots, in pixels."""
TOP, BOTTOM = 80, 470
INK, GRID = "black", "#dddddd"
COLOURS = ("#1565c0", "#c62828", "#2e7d32")
MIB = 2**20
AXES = {
    "size": "short side of the image, pixels",
    "batch": "images of a step",
    "objects": "objects of an image",
    "classes": "foreground classes",
}

Curve = list[tuple[float, float, float, float]]
"""Value, median, lower and upper quartile of each point."""


def draw_sweep(result: dict[str, Any], *, title: str) -> Image.Image:
    """Seconds with their quartiles at the left, peak memory at the right, one line a side."""
    picture = Image.new("RGB", (WIDTH, HEIGHT), "white")
    pen = ImageDraw.Draw(picture)
    names = list(result["points"][0]["sides"])
    pen.text((WIDTH / 2, 22), title, fill=INK, font=_font(20), anchor="mm")
    times = {name: _curve(result["points"], name, _seconds) for name in names}
    memory = {name: _curve(result["points"], name, _memory) for name in names}
    for panel, curves, label in zip(PANELS, (times, memory), ("seconds a step", "peak memory, MiB"), strict=True):
        _draw_panel(pen, panel, curves, label=label, axis=AXES[result["axis"]])
    return picture


def _curve(points: Sequence[dict[str, Any]], name: str, read: Callable[[dict[str, Any]], tuple]) -> Curve:
    return [(point["value"], *read(point["sides"][name])) for point in points]


def _seconds(side: dict[str, Any]) -> tuple[float, float, float]:
    return side["seconds"]["median"], side["seconds"]["lower"], side["seconds"]["upper"]


def _memory(side: dict[str, Any]) -> tuple[float, float, float]:
    return (side["memory"]["peak"] / MIB,) * 3


def _draw_panel(
    pen: ImageDraw.ImageDraw, panel: tuple[int, int], curves: dict[str, Curve], *, label: str, axis: str
) -> None:
    left, right = panel
    points = [point for curve in curves.values() for point in curve]
    first, last = min(point[0] for point in points), max(point[0] for point in points)
    last = last if last > first else first + 1
    top = 1.05 * max(point[3] for point in points) or 1.0

    def x(value: float) -> float:
        return left + (value - first) / (last - first) * (right - left)

    def y(value: float) -> float:
        return BOTTOM - value / top * (BOTTOM - TOP)

    for number in round_numbers(0, top):
        pen.line([(left, y(number)), (right, y(number))], fill=GRID)
        pen.text((left - 8, y(number)), f"{number:g}", fill=INK, font=_font(15), anchor="rm")
    pen.rectangle((left, TOP, right, BOTTOM), outline=INK)
    previous = -1e9
    for value in sorted({point[0] for point in points}):
        pen.line([(x(value), BOTTOM), (x(value), BOTTOM + 6)], fill=INK)
        if x(value) - previous > 40:  # else the numbers would run into each other
            pen.text((x(value), BOTTOM + 10), f"{value:g}", fill=INK, font=_font(15), anchor="mt")
            previous = x(value)
    pen.text(((left + right) / 2, BOTTOM + 46), axis, fill=INK, font=_font(17), anchor="mm")
    pen.text((left, TOP - 16), label, fill=INK, font=_font(17), anchor="lm")
    for curve, colour in zip(curves.values(), COLOURS, strict=False):
        pen.line([(x(value), y(median)) for value, median, _, _ in curve], fill=colour, width=3)
        for value, median, lower, upper in curve:
            pen.line([(x(value), y(lower)), (x(value), y(upper))], fill=colour, width=2)
            pen.ellipse((x(value) - 4, y(median) - 4, x(value) + 4, y(median) + 4), fill=colour)
    _draw_legend(pen, right, list(curves))


def _draw_legend(pen: ImageDraw.ImageDraw, right: float, names: Sequence[str]) -> None:
    """Colours and sides, in one line above the plot at the right."""
    for name, colour in reversed(list(zip(names, COLOURS, strict=False))):
        pen.text((right, TOP - 16), name, fill=INK, font=_font(16), anchor="rm")
        right -= pen.textlength(name, font=_font(16)) + 8
        pen.line([(right - 26, TOP - 16), (right, TOP - 16)], fill=colour, width=4)
        right -= 46


def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(size=size)  # type: ignore[return-value]
