"""Images with boxes drawn on them: detections, ground truth, findings of the data check."""

import colorsys
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from frcnn.annotations import ImageDetections, ImageRecord
from frcnn.draw.fonts import font_for_image

Colour = tuple[int, int, int]
GREY: Colour = (190, 190, 190)
WHITE: Colour = (255, 255, 255)
SMALLEST_VISIBLE = 10
"""A ringed box with a shorter side than this many pixels gets a circle around it."""
OUTSIDE = 100
"""Pixels beyond the picture at which edges are clipped: wider than any line, and small enough for Pillow's integers."""
_Rectangle = tuple[int, int, int, int]


class Mark(NamedTuple):
    """One box to draw."""

    box: Sequence[float]
    """xyxy in pixels of the picture."""
    colour: Colour
    text: str = ""
    """Label; empty for none."""
    line: Literal["solid", "dashed", "thin"] = "solid"
    """Dashed and thin lines have a black line below, so that they are visible on any background."""
    is_ringed: bool = False
    """Whether a circle around the box makes it visible if it is tiny."""


def draw_detections(
    image: Tensor, detections: ImageDetections, class_names: Sequence[str], *, score_threshold: float = 0.5
) -> Image.Image:
    """Draw boxes, class names and scores on an image.

    Args:
        image: (3, H, W) uint8 RGB.
        detections: boxes in pixels of `image`, best first.
        class_names: K names; label k is class_names[k - 1].
        score_threshold: detections with a lower score are not drawn.

    Each class has its own color, lines and letters grow with the image, and better detections cover worse ones.
    """
    picture = as_picture(image)
    draw_boxes(picture, _detection_marks(detections, class_names, score_threshold))
    return picture


def draw_comparison(
    image: Tensor,
    detections: ImageDetections,
    record: ImageRecord,
    class_names: Sequence[str],
    *,
    score_threshold: float = 0.5,
) -> Image.Image:
    """Draw the ground truth on the left and the detections on the right, each below a title; see `draw_detections`.

    Ignore regions are gray and dashed.
    """
    sides = [
        (_truth_marks(record, class_names), "ground truth"),
        (_detection_marks(detections, class_names, score_threshold), f"detections with score >= {score_threshold:g}"),
    ]
    height, width = image.shape[1:]
    font = font_for_image(height, width)
    strip, gap = 2 * int(font.size), max(4, width // 100)
    whole = Image.new("RGB", (2 * width + gap, height + strip), "white")
    pen = ImageDraw.Draw(whole)
    for (marks, title), left in zip(sides, (0, width + gap), strict=True):
        picture = as_picture(image)
        draw_boxes(picture, marks)
        whole.paste(picture, (left, strip))
        pen.text((left + gap, strip / 2), f"{title}: {len(marks)}", fill="black", font=font, anchor="lm")
    return whole


def draw_boxes(picture: Image.Image, marks: Sequence[Mark], *, width: int | None = None) -> None:
    """Draw boxes on a picture, in place: all boxes in the given order, then all labels.

    Args:
        marks: the last is drawn on top, and its label has the first choice of a place.
        width: width of solid and dashed lines in pixels; None uses 1/250 of the shorter side.
    """
    pen = ImageDraw.Draw(picture)
    width = width or max(1, round(min(picture.size) / 250))
    for mark in marks:
        _draw_box(pen, mark, picture.size, width)
    font = font_for_image(picture.height, picture.width)
    labelled = [mark for mark in marks if mark.text]
    places = _place_labels(pen, labelled, font, picture.size)
    for mark, (left, top, right, bottom) in zip(labelled, places, strict=True):
        pen.rectangle((left, top, right - 1, bottom - 1), fill=mark.colour)
        brightness = 0.299 * mark.colour[0] + 0.587 * mark.colour[1] + 0.114 * mark.colour[2]
        margin = _margin(font)
        ink = "black" if brightness > 120 else "white"
        pen.text((left + margin, top + margin), mark.text, fill=ink, font=font, anchor="lt")


def as_picture(image: Tensor) -> Image.Image:
    """A (3, H, W) uint8 RGB tensor as a Pillow image."""
    return Image.fromarray(np.ascontiguousarray(image.permute(1, 2, 0).cpu().numpy()))  # (3, H, W) -> (H, W, 3)


def class_colour(label: int) -> Colour:
    """A saturated color for each label 1, 2, ...; successive labels are a golden angle apart on the color circle."""
    turn = (label - 1) * 0.618034
    hue, saturation, value = turn % 1, (0.95, 0.65)[(label - 1) // 8 % 2], (1.0, 0.75)[(label - 1) // 4 % 2]
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
    return round(255 * red), round(255 * green), round(255 * blue)


def _detection_marks(detections: ImageDetections, class_names: Sequence[str], score_threshold: float) -> list[Mark]:
    """The worst first, so that the best is drawn last and on top."""
    columns = zip(detections.boxes.tolist(), detections.scores.tolist(), detections.labels.tolist(), strict=True)
    marks = [
        Mark(box, class_colour(label), f"{class_names[label - 1]} {score:.2f}")
        for box, score, label in columns
        if score >= score_threshold
    ]
    return marks[::-1]


def _truth_marks(record: ImageRecord, class_names: Sequence[str]) -> list[Mark]:
    is_region = (record.is_crowd | record.is_difficult | record.is_ignored).tolist()
    columns = zip(record.boxes.tolist(), record.labels.tolist(), is_region, strict=True)
    return [
        Mark(box, GREY, f"{class_names[label - 1]} (ignored)", line="dashed")
        if ignored
        else Mark(box, class_colour(label), str(class_names[label - 1]))
        for box, label, ignored in columns
    ]


def _draw_box(pen: ImageDraw.ImageDraw, mark: Mark, size: tuple[int, int], width: int) -> None:
    rectangle = x1, y1, x2, y2 = _covered_pixels(mark.box, size)
    if mark.line == "dashed":
        _draw_dashed(pen, rectangle, mark.colour, width)
    elif mark.line == "thin":
        pen.rectangle(rectangle, outline="black", width=2)
        pen.rectangle(rectangle, outline=mark.colour, width=1)
    else:
        pen.rectangle(rectangle, outline=mark.colour, width=width)
    if mark.is_ringed and min(x2 - x1, y2 - y1) < SMALLEST_VISIBLE:
        radius = 2 * SMALLEST_VISIBLE
        pen.ellipse((x1 - radius, y1 - radius, x2 + radius, y2 + radius), outline=mark.colour, width=width)


def _draw_dashed(pen: ImageDraw.ImageDraw, rectangle: _Rectangle, colour: Colour, width: int) -> None:
    x1, y1, x2, y2 = rectangle
    pen.rectangle(rectangle, outline="black", width=width)
    dash = 4 * width + 2
    for start in range(x1, x2, 2 * dash):
        end = min(start + dash, x2)
        pen.rectangle((start, y1, end, y1 + width - 1), fill=colour)
        pen.rectangle((start, max(y1, y2 - width + 1), end, y2), fill=colour)
    for start in range(y1, y2, 2 * dash):
        end = min(start + dash, y2)
        pen.rectangle((x1, start, x1 + width - 1, end), fill=colour)
        pen.rectangle((max(x1, x2 - width + 1), start, x2, end), fill=colour)


def _covered_pixels(box: Sequence[float], size: tuple[int, int]) -> _Rectangle:
    """The outermost pixels that a box covers. The right and lower edges of the box are the far edges of its pixels."""
    limits = [each + OUTSIDE for each in (*size, *size)]
    x1, y1, x2, y2 = (round(min(max(edge, -OUTSIDE), limit)) for edge, limit in zip(box, limits, strict=True))
    return x1, y1, max(x1, x2 - 1), max(y1, y2 - 1)


def _place_labels(
    pen: ImageDraw.ImageDraw, marks: Sequence[Mark], font: ImageFont.FreeTypeFont, size: tuple[int, int]
) -> list[_Rectangle]:
    """Choose a place for each label: the first free one of above the box, inside its top, below, inside its bottom.

    For a low box, below comes before inside. The last mark, the best, chooses first. A label without a free place
    takes its first choice and overlaps others.
    """
    taken: list[_Rectangle] = []
    for mark in reversed(marks):
        _, _, right, bottom = pen.textbbox((0, 0), mark.text, font=font, anchor="lt")
        width, height = round(right) + 2 * _margin(font), round(bottom) + 2 * _margin(font)
        left = max(0, min(round(mark.box[0]), size[0] - width))
        y1, y2 = round(mark.box[1]), round(mark.box[3])
        wanted = (y1 - height, y1, y2, y2 - height) if y2 - y1 > 3 * height else (y1 - height, y2, y1, y2 - height)
        tops = [top for top in wanted if 0 <= top <= size[1] - height] or [0]
        places = [(left, top, left + width, top + height) for top in tops]
        free = [place for place in places if not any(_overlap(place, other) for other in taken)]
        taken.append((free or places)[0])
    return taken[::-1]


def _overlap(place: _Rectangle, other: _Rectangle) -> bool:
    return place[0] < other[2] and other[0] < place[2] and place[1] < other[3] and other[1] < place[3]


def _margin(font: ImageFont.FreeTypeFont) -> int:
    """Pixels between the letters and the edge of a label."""
    return max(1, int(font.size) // 8)
