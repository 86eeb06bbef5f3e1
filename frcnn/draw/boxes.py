"""Pictures of detections, alone or beside the ground truth."""

import colorsys
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from frcnn.annotations import ImageDetections, ImageRecord

Colour = tuple[int, int, int]
GREY: Colour = (190, 190, 190)
_Place = tuple[int, int, int, int]


class _Mark(NamedTuple):
    """One box to draw."""

    box: list[float]
    text: str
    colour: Colour
    is_dashed: bool = False


def draw_detections(
    image: Tensor, detections: ImageDetections, class_names: Sequence[str], *, score_threshold: float = 0.5
) -> Image.Image:
    """The image with boxes, class names and scores.

    Args:
        image: (3, H, W) uint8 RGB.
        detections: in pixels of `image`, best first.
        class_names: K names; label k is class_names[k - 1].
        score_threshold: detections below are not drawn.

    Each class has a colour of its own, lines and letters grow with the image, and better detections lie over worse.
    """
    return _draw(image, _detection_marks(detections, class_names, score_threshold))


def draw_comparison(
    image: Tensor,
    detections: ImageDetections,
    record: ImageRecord,
    class_names: Sequence[str],
    *,
    score_threshold: float = 0.5,
) -> Image.Image:
    """Ground truth at the left, detections at the right, under a line that says so; see `draw_detections`.

    Ignore regions are grey and dashed.
    """
    sides = [
        (_truth_marks(record, class_names), "ground truth"),
        (_detection_marks(detections, class_names, score_threshold), f"detections from score {score_threshold:g}"),
    ]
    height, width = image.shape[1:]
    font = _font(height, width)
    strip, gap = 2 * int(font.size), max(4, width // 100)
    picture = Image.new("RGB", (2 * width + gap, height + strip), "white")
    pen = ImageDraw.Draw(picture)
    for (marks, title), left in zip(sides, (0, width + gap), strict=True):
        picture.paste(_draw(image, marks), (left, strip))
        pen.text((left + gap, strip / 2), f"{title}: {len(marks)}", fill="black", font=font, anchor="lm")
    return picture


def class_colour(label: int) -> Colour:
    """A strong colour for each label 1, 2, ...; neighbours lie far apart on the colour circle (the golden angle)."""
    turn = (label - 1) * 0.618034
    hue, saturation, value = turn % 1, (0.95, 0.65)[(label - 1) // 8 % 2], (1.0, 0.75)[(label - 1) // 4 % 2]
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
    return round(255 * red), round(255 * green), round(255 * blue)


def _detection_marks(detections: ImageDetections, class_names: Sequence[str], score_threshold: float) -> list[_Mark]:
    """The worst first, so that the best is drawn last and on top."""
    columns = zip(detections.boxes.tolist(), detections.scores.tolist(), detections.labels.tolist(), strict=True)
    marks = [
        _Mark(box, f"{class_names[label - 1]} {score:.2f}", class_colour(label))
        for box, score, label in columns
        if score >= score_threshold
    ]
    return marks[::-1]


def _truth_marks(record: ImageRecord, class_names: Sequence[str]) -> list[_Mark]:
    is_region = (record.is_crowd | record.is_difficult | record.is_ignored).tolist()
    columns = zip(record.boxes.tolist(), record.labels.tolist(), is_region, strict=True)
    return [
        _Mark(box, f"{class_names[label - 1]} (ignored)", GREY, is_dashed=True)
        if ignored
        else _Mark(box, str(class_names[label - 1]), class_colour(label))
        for box, label, ignored in columns
    ]


def _draw(image: Tensor, marks: Sequence[_Mark]) -> Image.Image:
    """All boxes, then all labels over them."""
    picture = Image.fromarray(np.ascontiguousarray(image.permute(1, 2, 0).cpu().numpy()))  # (3, H, W) -> (H, W, 3)
    pen = ImageDraw.Draw(picture)
    font = _font(picture.height, picture.width)
    line = max(1, round(min(picture.size) / 250))
    for mark in marks:
        if mark.is_dashed:
            _draw_dashed(pen, mark.box, mark.colour, line)
        else:
            pen.rectangle(_covered_pixels(mark.box), outline=mark.colour, width=line)
    places = _place_labels(pen, marks, font, picture.size)
    for mark, (left, top, right, bottom) in zip(marks, places, strict=True):
        pen.rectangle((left, top, right - 1, bottom - 1), fill=mark.colour)
        brightness = 0.299 * mark.colour[0] + 0.587 * mark.colour[1] + 0.114 * mark.colour[2]
        margin = _margin(font)
        ink = "black" if brightness > 120 else "white"
        pen.text((left + margin, top + margin), mark.text, fill=ink, font=font, anchor="lt")
    return picture


def _place_labels(
    pen: ImageDraw.ImageDraw, marks: Sequence[_Mark], font: ImageFont.FreeTypeFont, size: tuple[int, int]
) -> list[_Place]:
    """Where each label goes: above its box, inside at the top, below, or inside at the bottom, the first still free.

    Of a low box the inside comes after the place below. The last mark, the best, chooses first. Where nothing is free
    a label goes to its first place, over or under others.
    """
    taken: list[_Place] = []
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


def _overlap(place: _Place, other: _Place) -> bool:
    return place[0] < other[2] and other[0] < place[2] and place[1] < other[3] and other[1] < place[3]


def _draw_dashed(pen: ImageDraw.ImageDraw, box: list[float], colour: Colour, line: int) -> None:
    """Dashes over a dark line, so that they are seen on any ground."""
    x1, y1, x2, y2 = _covered_pixels(box)
    pen.rectangle((x1, y1, x2, y2), outline="black", width=line)
    dash = 4 * line + 2
    for start in range(x1, x2, 2 * dash):
        end = min(start + dash, x2)
        pen.rectangle((start, y1, end, y1 + line - 1), fill=colour)
        pen.rectangle((start, max(y1, y2 - line + 1), end, y2), fill=colour)
    for start in range(y1, y2, 2 * dash):
        end = min(start + dash, y2)
        pen.rectangle((x1, start, x1 + line - 1, end), fill=colour)
        pen.rectangle((max(x1, x2 - line + 1), start, x2, end), fill=colour)


def _covered_pixels(box: list[float]) -> _Place:
    """The outermost pixels a box covers: its right and lower edges lie on the far side of these."""
    x1, y1, x2, y2 = (round(edge) for edge in box)
    return x1, y1, max(x1, x2 - 1), max(y1, y2 - 1)


def _font(height: int, width: int) -> ImageFont.FreeTypeFont:
    """Letters of a size that can be read in this image: 1/40 of the short side, at least 11 pixels."""
    return ImageFont.load_default(size=max(11, min(height, width) // 40))  # type: ignore[return-value]


def _margin(font: ImageFont.FreeTypeFont) -> int:
    """Pixels between the letters and the edge of a label."""
    return max(1, int(font.size) // 8)
