"""The plot of a sweep: time and memory of a step over the value that was varied."""

from collections.abc import Sequence
from typing import Any

from PIL import Image

from frcnn.draw.axes import plot

WIDTH, HEIGHT = 1280, 560
"""Of the plot, in pixels."""
MIB = 2**20
LABELS = {
    "size": "shorter side of the image in pixels",
    "batch": "images per step",
    "objects": "objects per image",
    "classes": "foreground classes",
}


def draw_sweep(result: dict[str, Any], *, title: str) -> Image.Image:
    """Plot seconds with their quartiles on the left and peak memory on the right, one line for each side.

    Args:
        result: of `sweep`.
    """
    points = result["points"]
    values = [point["value"] for point in points]

    def draw(panels: Sequence) -> None:
        time, memory = panels
        for name in points[0]["sides"]:
            sides = [point["sides"][name] for point in points]
            seconds = [side["seconds"] for side in sides]
            median = [each["median"] for each in seconds]
            below = [each["median"] - each["lower"] for each in seconds]
            above = [each["upper"] - each["median"] for each in seconds]
            time.errorbar(values, median, yerr=[below, above], marker="o", capsize=4, label=name)
            memory.plot(values, [side["memory"]["peak"] / MIB for side in sides], marker="o", label=name)
        for axes, label in ((time, "seconds per step"), (memory, "peak memory in MiB")):
            axes.set(xlabel=LABELS[result["axis"]], ylabel=label)
            axes.set_ylim(bottom=0)
            axes.legend()

    return plot(draw, width=WIDTH, height=HEIGHT, title=title, num_panels=2)
