"""Backgrounds, fillings and clutter for the demo dataset. Colors are RGB in 0..255."""

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw

Rng = np.random.Generator


def ground(rng: Rng, height: int, width: int) -> np.ndarray:
    """(H, W, 3) uint8: two similar colors mixed by a gradient, stripes, checkers, blotches or noise."""
    colour = rng.uniform(20, 235, size=3)
    other = (colour + rng.uniform(-70, 70, size=3)).clip(0, 255)
    pattern = _PATTERNS[rng.integers(len(_PATTERNS))]
    return _mix(colour, other, pattern(rng, height, width))


def fill(rng: Rng, colour: np.ndarray, height: int, width: int) -> np.ndarray:
    """(H, W, 3) uint8: a plain color, or the color with a darker or lighter pattern."""
    if rng.random() < 0.6:
        return np.broadcast_to(colour.astype(np.uint8), (height, width, 3))
    shade = (colour * rng.uniform(0.6, 1.0) if rng.random() < 0.5 else colour + rng.uniform(0, 60)).clip(0, 255)
    pattern = _PATTERNS[rng.integers(len(_PATTERNS))]
    return _mix(colour, shade, pattern(rng, height, width))


def contrasting_colour(rng: Rng, under: np.ndarray) -> np.ndarray:
    """A random color (3,) that differs from `under` by at least 150 levels, summed over the channels."""
    while True:
        colour = rng.uniform(0, 255, size=3)
        if np.abs(colour - under).sum() >= 150:
            return colour


def clutter(rng: Rng, canvas: np.ndarray, *, strokes: int, widest: int) -> np.ndarray:
    """Draw unfilled lines, arcs and squiggles; returns a new (H, W, 3) uint8 array."""
    height, width = canvas.shape[:2]
    image = Image.fromarray(canvas)
    draw = ImageDraw.Draw(image)
    for _ in range(strokes):
        colour = tuple(rng.integers(0, 256, size=3).tolist())
        thickness = int(rng.integers(1, widest + 1))
        reach = rng.uniform(15, 90)
        x, y = rng.uniform((0, 0), (width, height)).tolist()
        kind = rng.integers(3)
        if kind == 0:
            dx, dy = rng.uniform(-reach, reach, size=2).tolist()
            draw.line([x, y, x + dx, y + dy], fill=colour, width=thickness)
        elif kind == 1:
            start = float(rng.uniform(0, 360))
            box = [x, y, x + reach, y + reach * rng.uniform(0.5, 1.5)]
            draw.arc(box, start, start + float(rng.uniform(40, 220)), fill=colour, width=thickness)
        else:
            steps = rng.uniform(-reach / 4, reach / 4, size=(int(rng.integers(3, 8)), 2))
            path = np.array([x, y]) + steps.cumsum(axis=0)
            draw.line([tuple(point) for point in path.tolist()], fill=colour, width=thickness)
    return np.array(image)


def _mix(colour: np.ndarray, other: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 between two colors, by a weight (H, W) in 0..255."""
    table = np.linspace(colour, other, 256).astype(np.uint8)
    return table.take(weight, axis=0)


def _gradient(rng: Rng, height: int, width: int) -> np.ndarray:
    ramp = _distance_along(rng, height, width)
    ramp -= ramp.min()
    return (ramp * (255 / max(float(ramp.max()), 1e-6))).astype(np.uint8)


def _stripes(rng: Rng, height: int, width: int) -> np.ndarray:
    period = float(np.exp(rng.uniform(np.log(5), np.log(50))))
    waves = np.sin(_distance_along(rng, height, width) * np.float32(2 * np.pi / period))
    sharpness = float(rng.choice([1, 8]))
    return (127.5 + 127.5 * (waves * sharpness).clip(-1, 1)).astype(np.uint8)


def _checkers(rng: Rng, height: int, width: int) -> np.ndarray:
    side = int(rng.integers(4, 40))
    shift_y, shift_x = rng.integers(0, side, size=2).tolist()
    rows, columns = (np.arange(height) + shift_y) // side, (np.arange(width) + shift_x) // side
    return ((rows[:, None] + columns[None, :]) % 2 * 255).astype(np.uint8)


def _blotches(rng: Rng, height: int, width: int) -> np.ndarray:
    cell = int(rng.integers(12, 60))
    coarse = rng.integers(0, 256, size=(height // cell + 2, width // cell + 2), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def _noise(rng: Rng, height: int, width: int) -> np.ndarray:
    cell = int(rng.integers(1, 5))
    coarse = rng.integers(0, 256, size=(height // cell + 1, width // cell + 1), dtype=np.uint8)
    return coarse.repeat(cell, axis=0).repeat(cell, axis=1)[:height, :width]


def _distance_along(rng: Rng, height: int, width: int) -> np.ndarray:
    """(H, W) float32 pixels along a random direction."""
    angle = rng.uniform(0, 2 * np.pi)
    x, y = np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)
    return np.float32(np.cos(angle)) * x[None, :] + np.float32(np.sin(angle)) * y[:, None]


_PATTERNS: tuple[Callable[[Rng, int, int], np.ndarray], ...] = (_gradient, _stripes, _checkers, _blotches, _noise)
