"""Measure how the cost of a step grows with image size, batch size, ground truth or classes."""

import gc
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.build_sides import Sides
from benchmarks.compare import compare

VALUES: dict[str, tuple[int, ...]] = {
    "size": (256, 384, 512, 640, 800),
    "batch": (1, 2, 4, 8),
    "objects": (1, 8, 32, 128, 512),
    "classes": (1, 20, 90, 365, 1200),
}
"""Default values. A size is the shorter side of an image with the aspect ratio 3:4."""


def sweep(
    build: Callable[..., Sides],
    what: str,
    axis: str,
    values: Sequence[int],
    *,
    rounds: int,
    warmup: int,
    on_point: Callable[[dict[str, Any]], None] = lambda point: None,
) -> dict[str, Any]:
    """Run one comparison for each value.

    Args:
        build: builds both sides; takes the setting of the axis: size=(height, width), batch=, objects= or classes=.
        what: "train" or "detect".
        axis: a key of `VALUES`.
        on_point: called with each comparison when it is done.

    Returns:
        Plain data: what, axis, and points, the results of `compare` with their value.
    """
    points = []
    for value in values:
        setting = (value, round(value * 4 / 3)) if axis == "size" else value
        sides = build(**{axis: setting})
        point = {"value": value} | compare(sides, what, rounds=rounds, warmup=warmup, is_profiled=False)
        del sides
        gc.collect()
        points.append(point)
        on_point(point)
    return {"what": what, "axis": axis, "points": points}
