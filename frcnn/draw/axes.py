"""Matplotlib figures as images."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:  # importing Matplotlib takes about a second, so it is imported on first use
    from matplotlib.axes import Axes

DPI = 100
Panels = Sequence["Axes"]


def plot(draw: Callable[[Panels], None], *, width: int, height: int, title: str, num_panels: int = 1) -> Image.Image:
    """Draw a figure and return it as an RGB image.

    Args:
        draw: draws the panels, which are given from left to right.
        width, height: size of the image in pixels.
        title: text above all panels.
        num_panels: number of axes, side by side.

    The figure needs no display, does not change the state of `pyplot` and ignores the user's matplotlibrc: the same
    data give the same pixels.
    """
    import matplotlib.style
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.style.context(["default", {"axes.grid": True, "grid.color": "#dddddd", "axes.axisbelow": True}]):
        figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, layout="constrained")
        canvas = FigureCanvasAgg(figure)
        figure.suptitle(title, parse_math=False)
        draw(figure.subplots(ncols=num_panels, squeeze=False)[0])
        canvas.draw()
        return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
