"""The plot of a sweep: time and memory of a step over the value that was varied."""

from typing import Any

from PIL import Image

from frcnn.draw.axes import Panels, plot

WIDTH, HEIGHT = 1280, 560
"""Size of the plot in pixels."""
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
        result: the result of `sweep`.
    """
    points = result["points"]
    values = [point["value"] for point in points]

    def draw(panels: Panels) -> None:
        time, memory = panels
        for name, line in zip(points[0]["sides"], ("-", "--"), strict=False):  # equal lines stay visible
            sides = [point["sides"][name] for point in points]
            seconds = [side["seconds"] for side in sides]
            median = [each["median"] for each in seconds]
            below = [each["median"] - each["lower"] for each in seconds]
            above = [each["upper"] - each["median"] for each in seconds]
            time.errorbar(values, median, yerr=[below, above], linestyle=line, marker="o", capsize=4, label=name)
            peak = [side["memory"]["peak"] / MIB for side in sides]
            memory.plot(values, peak, linestyle=line, marker="o", label=name)
        for axes, label in ((time, "seconds per step"), (memory, "peak memory in MiB")):
            axes.set(xlabel=LABELS[result["axis"]], ylabel=label, ylim=(0, 1.1 * axes.dataLim.y1))
            axes.legend()

    return plot(draw, width=WIDTH, height=HEIGHT, title=title, num_panels=2)
