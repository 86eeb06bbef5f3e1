"""The plot of the range test, and the figures that all plots share."""

import math
import subprocess
import sys

import matplotlib
import numpy as np
import pytest

from frcnn.draw.axes import plot
from frcnn.draw.curves import DIVERGED, SUGGESTED, draw_range_test

RATES = [10 ** (-6 + step / 20) for step in range(101)]
"""From 1e-6 to 0.1."""
LOSSES = [1.5 - math.tanh(2 * math.log10(rate / 1e-3)) / 2 for rate in RATES]


def has_colour(picture, colour):
    """Whether some pixels have the color, given as #rrggbb."""
    return (np.asarray(picture) == list(bytes.fromhex(colour[1:]))).all(axis=2).any()


@pytest.mark.parametrize("diverged", [None, 0.2])
def test_the_range_test_marks_the_suggested_rate_and_divergence(diverged):
    picture = draw_range_test(RATES, LOSSES, LOSSES, suggested=1e-3, diverged=diverged, title="title")
    assert picture.size == (960, 600) and picture.mode == "RGB"
    assert has_colour(picture, SUGGESTED)
    assert has_colour(picture, DIVERGED) == (diverged is not None)


def test_a_constant_loss_is_drawn():
    flat = [1.0] * len(RATES)
    assert has_colour(draw_range_test(RATES, flat, flat, suggested=1e-3, diverged=None, title="flat"), SUGGESTED)


def test_plots_do_not_depend_on_the_users_settings():
    def draw(panels):
        for axes in panels:
            axes.plot([1, 2], [3, 4])

    def pixels():
        return np.asarray(plot(draw, width=300, height=200, title="title", num_panels=2))

    first = pixels()
    with matplotlib.rc_context({"lines.linewidth": 20, "axes.facecolor": "black"}):
        assert np.array_equal(pixels(), first)
        assert matplotlib.rcParams["lines.linewidth"] == 20, "the user's own settings are kept"
    assert first.shape == (200, 300, 3)


def test_a_title_is_not_parsed_as_mathematics():
    """It contains the name of a dataset, which may be a path with any characters."""
    plot(lambda panels: None, width=300, height=200, title=r"data/$\frac{$")


def test_matplotlib_is_imported_on_first_use():
    code = "import sys, frcnn.training.lr_find, benchmarks.main; print('matplotlib' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"


def test_plots_do_not_change_pyplot():
    code = (
        "import sys; from frcnn.draw.axes import plot; plot(lambda panels: None, width=100, height=100, title='');"
        "print('matplotlib.pyplot' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"
