"""The demo dataset: shapes on textured backgrounds, drawn on the fly from a seed, without files or a network."""

from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFilter
from torch import Tensor

from frcnn.annotations import ImageRecord
from frcnn.data.dataset import DetectionDataset
from frcnn.data.formats.raw import RawAnnotation, from_dataset
from frcnn.data.formats.texture import clutter, contrasting_colour, fill, ground
from frcnn.data.problems import ErrorPolicy

CLASS_NAMES = ("circle", "square", "triangle", "star", "cross")

SMALLEST, LARGEST = 16, 160
"""Bounds of the longer side of a shape in pixels, which is also at most LARGEST_SHARE of the image's short side."""
LARGEST_SHARE = 0.625
MIN_VISIBLE = 0.6
"""Minimum share of a shape's pixels that is not hidden by other shapes or the border."""
MAX_SHAPES = 14
EMPTY_SHARE = 0.05
"""Share of images without any object."""


def read_shapes(*, num_images: int, seed: int, height: int, width: int) -> RawAnnotation:
    """The annotations of a `ShapesDataset`."""
    return from_dataset(ShapesDataset(num_images=num_images, seed=seed, height=height, width=width))


class PlacedShape(NamedTuple):
    label: int
    """1..K."""
    outline: np.ndarray
    """(n, 2) float64 corners x, y in pixels of the image; parts may lie outside."""
    window: tuple[slice, slice]
    """Rows and columns of the image that the shape covers."""


class ShapesDataset(DetectionDataset):
    """`num_images` images of five kinds of shapes. Each image is a function of (seed, index) and the image size.

    Classes differ by form only. Colors and fillings are random, as are the background (five kinds of texture), the
    clutter (strokes that are not objects, some of them across objects), sizes, proportions and a rotation of up to 25
    degrees. Shapes hide parts of other shapes and extend beyond the image.

    Boxes are tight around the visible pixels of a shape, and `areas` counts these pixels. Shapes are placed when the
    dataset is created (about 1.5 ms per image) and painted when an image is read.
    """

    def __init__(
        self, *, num_images: int, seed: int, height: int, width: int, problems: ErrorPolicy | None = None
    ) -> None:
        """
        Args:
            seed: >= 0; each seed gives a different set of images.
            height, width: pixels, at least 64.
        """
        self.seed = seed
        self.size = (height, width)
        self.scenes = []
        records = []
        for index in range(num_images):
            scene, owner = place_shapes(np.random.default_rng([seed, index, 1]), height, width)
            self.scenes.append(scene)
            records.append(_record(index, scene, owner))
        super().__init__(
            name=f"shapes seed {seed}",
            class_names=CLASS_NAMES,
            records=records,
            problems=problems,
        )

    def read_image(self, index: int) -> Tensor:
        """Paint image `index`, (3, H, W) uint8 RGB."""
        pixels = paint(np.random.default_rng([self.seed, index, 2]), self.scenes[index], *self.size)
        return torch.from_numpy(pixels).permute(2, 0, 1)  # (H, W, 3) -> (3, H, W)


def _regular(num_corners: int, *, radii: tuple[float, ...] = (1.0,)) -> np.ndarray:
    """Corners around the origin, the first one at the top, at the radii in turn."""
    angles = np.arange(num_corners) * 2 * np.pi / num_corners
    return np.resize(radii, num_corners)[:, None] * np.stack([np.sin(angles), -np.cos(angles)], axis=1)


_ARM = 0.32
OUTLINES = {
    "circle": _regular(40),
    "square": np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]], np.float64),
    "triangle": _regular(3),
    "star": _regular(10, radii=(1.0, 0.42)),
    "cross": np.array(
        [(-_ARM, -1), (_ARM, -1), (_ARM, -_ARM), (1, -_ARM), (1, _ARM), (_ARM, _ARM)]
        + [(_ARM, 1), (-_ARM, 1), (-_ARM, _ARM), (-1, _ARM), (-1, -_ARM), (-_ARM, -_ARM)]
    ),
}


def place_shapes(rng: np.random.Generator, height: int, width: int) -> tuple[list[PlacedShape], np.ndarray]:
    """Place shapes from back to front.

    Each shape gets one random place. It is skipped if less than MIN_VISIBLE of its pixels, or of a shape that it
    covers, would be visible.

    Returns:
        The shapes, and owner (H, W) uint8: k where shape k - 1 is visible, 0 for the background.
    """
    owner = np.zeros((height, width), np.uint8)
    shapes: list[PlacedShape] = []
    whole_areas: list[int] = []
    visible = np.zeros(MAX_SHAPES + 1, np.int64)  # visible pixels of shape k - 1; entry 0, the background, is unused
    if rng.random() < EMPTY_SHARE:
        return shapes, owner
    largest = min(LARGEST, LARGEST_SHARE * min(height, width))
    for _ in range(int(rng.integers(3, MAX_SHAPES + 1))):
        label = int(rng.integers(1, len(CLASS_NAMES) + 1))
        size = rng.uniform(SMALLEST, largest)
        centre = rng.uniform((0, 0), (width, height))
        outline = _random_outline(rng, CLASS_NAMES[label - 1], size) + centre
        mask, window, whole_area = rasterise(outline, height, width)
        under = owner[window]
        still_visible = visible - np.bincount(under[mask], minlength=MAX_SHAPES + 1)
        hides_another = any(
            seen < MIN_VISIBLE * whole for seen, whole in zip(still_visible[1:].tolist(), whole_areas, strict=False)
        )
        num_seen = int(np.count_nonzero(mask))
        if hides_another or num_seen < MIN_VISIBLE * whole_area:
            continue
        shapes.append(PlacedShape(label, outline, window))
        whole_areas.append(whole_area)
        visible = still_visible
        visible[len(shapes)] = num_seen
        under[mask] = len(shapes)
    return shapes, owner


def _random_outline(rng: np.random.Generator, name: str, size: float) -> np.ndarray:
    """A stretched and rotated shape around the origin. Its longer side has `size` pixels."""
    angle = np.deg2rad(rng.uniform(-25, 25))
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    outline = (OUTLINES[name] * rng.uniform(0.75, 1.0, size=2)) @ turn
    return outline * (size / np.ptp(outline, axis=0).max())


def rasterise(outline: np.ndarray, height: int, width: int) -> tuple[np.ndarray, tuple[slice, slice], int]:
    """The pixels of a polygon inside the image: a mask over a window, the window, and its total pixel count."""
    left, top = np.floor(outline.min(axis=0)).astype(int)
    right, bottom = np.floor(outline.max(axis=0)).astype(int) + 1
    canvas = Image.new("1", (int(right - left), int(bottom - top)))
    ImageDraw.Draw(canvas).polygon([(x - left, y - top) for x, y in outline.tolist()], fill=1)
    mask = np.asarray(canvas)
    rows, columns = slice(max(top, 0), min(bottom, height)), slice(max(left, 0), min(right, width))
    inside = mask[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
    return inside, (rows, columns), int(np.count_nonzero(mask))


def paint(rng: np.random.Generator, shapes: list[PlacedShape], height: int, width: int) -> np.ndarray:
    """(H, W, 3) uint8: background, clutter, shapes from back to front, a few thin strokes on top, blur and grain."""
    canvas = clutter(rng, ground(rng, height, width), strokes=int(rng.integers(0, 9)), widest=4)
    for shape in shapes:
        mask, window, _ = rasterise(shape.outline, height, width)
        under = canvas[window]
        colour = contrasting_colour(rng, under[mask].mean(axis=0))
        under[mask] = fill(rng, colour, *mask.shape)[mask]
    canvas = clutter(rng, canvas, strokes=int(rng.integers(0, 4)), widest=2)
    blurred = Image.fromarray(canvas).filter(ImageFilter.BoxBlur(float(rng.uniform(0.0, 0.7))))
    roughness = int(rng.integers(1, 13))
    grain = rng.integers(-roughness, roughness + 1, size=(height, width, 1), dtype=np.int16)
    return (np.asarray(blurred) + grain).clip(0, 255).astype(np.uint8)


def _record(index: int, shapes: list[PlacedShape], owner: np.ndarray) -> ImageRecord:
    boxes = np.zeros((len(shapes), 4), np.float32)
    areas = np.zeros(len(shapes), np.float64)
    for row, shape in enumerate(shapes):
        rows, columns = shape.window
        seen = owner[shape.window] == row + 1
        ys, xs = np.flatnonzero(seen.any(axis=1)) + rows.start, np.flatnonzero(seen.any(axis=0)) + columns.start
        boxes[row] = xs[0], ys[0], xs[-1] + 1, ys[-1] + 1
        areas[row] = seen.sum()
    none = np.zeros(len(shapes), bool)
    return ImageRecord(
        image_id=index + 1,
        path=None,
        height=owner.shape[0],
        width=owner.shape[1],
        boxes=boxes,
        labels=np.array([shape.label for shape in shapes], np.int64),
        areas=areas,
        is_crowd=none,
        is_difficult=none,
        is_ignored=none,
    )
