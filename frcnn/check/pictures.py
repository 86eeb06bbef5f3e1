"""Pictures of findings: each image with the affected boxes."""

import re
from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image, ImageDraw

from frcnn.check.findings import KINDS, Example, Finding
from frcnn.data.images import read_image
from frcnn.draw.boxes import WHITE, Mark, as_picture, draw_boxes
from frcnn.draw.fonts import load_font
from frcnn.errors import DataError

LONGEST, SHORTEST = 1400, 500
"""Pixels of the longer side of a picture: larger images are shrunk, smaller ones enlarged by a whole factor."""
COLOURS = {"error": (230, 20, 20), "warning": (255, 140, 0), "note": (30, 110, 255)}


def draw_findings(findings: Sequence[Finding], *, most: int) -> Iterator[tuple[str, Image.Image]]:
    """Yield file names (without suffix) and pictures of the first images of each finding.

    Findings that are not about images, and images that cannot be read, are skipped.

    Args:
        most: maximum number of pictures for each finding.
    """
    for finding in findings:
        if finding.source is None:
            continue
        by_row: dict[int, list[Example]] = {}
        for example in finding.examples:
            if example.row >= 0 and (len(by_row) < most or example.row in by_row):
                by_row.setdefault(example.row, []).append(example)
        for number, (row, examples) in enumerate(by_row.items(), start=1):
            picture = draw_cases(finding, row, examples)
            if picture is not None:
                name = re.sub(r"[^\w.-]+", "-", str(finding.source.raw.images[row].image_id))[-60:]
                yield f"{finding.severity}_{finding.kind}_{finding.split}_{number}_{name}", picture


def draw_cases(finding: Finding, row: int, examples: Sequence[Example]) -> Image.Image | None:
    """Draw one image: boxes of the examples in the color of their severity, other boxes thin and white.

    Tiny boxes of the examples are ringed. Boxes that extend beyond the image are drawn on a gray margin, up to its
    edge. Returns None if the image cannot be read.
    """
    source = finding.source
    path = source.raw.images[row].path if source else None
    if source is None or path is None:
        return None
    try:
        image = as_picture(read_image(path))
    except DataError:
        return None
    scale = _scale(max(image.size))
    image = image.resize(
        (max(1, round(image.width * scale)), max(1, round(image.height * scale))),
        Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BILINEAR,
    )
    objects = source.raw.objects
    accused = {number for example in examples for number in example.objects}
    shown = [
        number for number in np.flatnonzero(objects.rows == row).tolist() if np.isfinite(objects.boxes[number]).all()
    ]
    own = [_ordered(objects.boxes[number] * scale) for number in shown if number in accused]
    others = [_ordered(objects.boxes[number] * scale) for number in shown if accused and number not in accused]
    margin = _margin(own, image.size)
    picture = Image.new("RGB", (image.width + 2 * margin, image.height + 2 * margin), (60, 60, 60))
    picture.paste(image, (margin, margin))
    colour = COLOURS[finding.severity]
    marks = [Mark([edge + margin for edge in box], WHITE, line="thin") for box in others]
    marks += [Mark([edge + margin for edge in box], colour, is_ringed=True) for box in own]
    draw_boxes(picture, marks, width=max(2, min(image.size) // 250))
    return _under_caption(picture, finding, examples)


def _scale(longest: int) -> float:
    if longest > LONGEST:
        return LONGEST / longest
    return float(max(1, -(-SHORTEST // longest)))


def _ordered(box: np.ndarray) -> list[float]:
    """Sort the corners, because a box of negative size has them reversed."""
    x1, y1, x2, y2 = box.tolist()
    return [min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)]


def _margin(boxes: Sequence[list[float]], size: tuple[int, int]) -> int:
    """Width of the margin for boxes that extend beyond the image, at most a quarter of its longer side."""
    over = [max(-box[0], -box[1], box[2] - size[0], box[3] - size[1]) for box in boxes]
    reach = max(over, default=0)
    return 0 if reach <= 0 else int(min(reach + 10, max(size) / 4))


def _under_caption(picture: Image.Image, finding: Finding, examples: Sequence[Example]) -> Image.Image:
    """Put the picture below a caption that describes the finding."""
    font = load_font(14)
    lines = [f"{finding.severity}: {KINDS[finding.kind].text}", *(example.text for example in examples[:3])]
    if len(examples) > 3:
        lines.append(f"... and {len(examples) - 3} more in this image")
    pen = ImageDraw.Draw(picture)
    width = max(picture.width, *(int(pen.textlength(text, font=font)) + 12 for text in lines))
    strip = 20 * len(lines) + 8
    whole = Image.new("RGB", (min(width, 2 * LONGEST), picture.height + strip), "white")
    whole.paste(picture, (0, strip))
    pen = ImageDraw.Draw(whole)
    for number, text in enumerate(lines):
        pen.text((6, 6 + 20 * number), text, fill=COLOURS[finding.severity] if number == 0 else "black", font=font)
    return whole
