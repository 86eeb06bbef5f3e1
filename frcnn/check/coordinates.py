"""A guess at whether coordinates count from 0 or from 1, from the boxes that touch a border."""

import numpy as np

from frcnn.check.box_checks import BoxFaults
from frcnn.check.findings import Example, Finding, Source

ENOUGH = 8
"""Boxes at a border from which on anything is said."""
CLEAR = 0.9
"""Share of them that must agree."""


def guess_coordinates(source: Source, faults: BoxFaults) -> list[Finding]:
    """Say so where the written numbers contradict the convention of their format.

    An object cut by the border has a box that ends with the image. Where such boxes begin at 0 or 1, and end at the
    width or one before it, tells the convention; nothing is said unless at least 8 boxes end at either of the two
    places and 9 of 10 agree.

    VOC is read as 1-based and inclusive: 1 to width. COCO's x, y, w, h are edges: 0 to width.
    """
    if source.raw.format not in ("voc", "coco"):
        return []
    near, far = _border_counts(source, faults)
    first, last = _winner(near, (0, 1)), _winner(far, (-1, 0))
    evidence = (
        f"of the boxes at the upper or left border {near[0]} begin at 0 and {near[1]} at 1; at the lower or right "
        f"{far[-1]} end a pixel before the size of the image and {far[0]} at it"
    )
    claim = _voc_claim(first, last) if source.raw.format == "voc" else _coco_claim(first, last)
    if not claim:
        return []
    return [
        Finding("coordinates", source.split, [Example(f"{source.raw.name}: a guess: {claim} ({evidence})")], source)
    ]


def _voc_claim(first: int | None, last: int | None) -> str:
    if first == 0 and last == -1:
        return "pixels are counted from 0; add 1 to all four coordinates, else boxes lie a pixel too far up and left"
    if first == 0 and last == 0:
        return "boxes are edges from 0 to the width; add 1 to xmin and ymin, else they are a pixel too large"
    if first == 0:
        return "pixels are counted from 0, where VOC counts from 1; boxes would lie a pixel too far up and left"
    return ""


def _coco_claim(first: int | None, last: int | None) -> str:
    if first == 1:
        return "pixels are counted from 1, where COCO counts from 0; take 1 from x and y"
    if last == -1 and first == 0:
        return "w and h are xmax - xmin of whole pixels; add 1 to both, else boxes are a pixel too small"
    return ""


def _border_counts(source: Source, faults: BoxFaults) -> tuple[dict[int, int], dict[int, int]]:
    """How many boxes begin at 0 and at 1, and how many end a pixel before the size of their image and at it."""
    raw = source.raw
    usable = np.flatnonzero(faults.is_usable & (raw.objects.rows >= 0))
    sizes = np.array([(image.width, image.height) for image in raw.images], np.float64).reshape(-1, 2)
    sizes = sizes[raw.objects.rows[usable]]
    begin = raw.objects.written[usable, :2]
    end = raw.objects.written[usable, 2:] + (begin if raw.format == "coco" else 0)
    near = {value: int((begin == value).sum()) for value in (0, 1)}
    far = {value: int((end - sizes == value).sum()) for value in (-1, 0)}
    return near, far


def _winner(counts: dict[int, int], values: tuple[int, int]) -> int | None:
    """The value that clearly more boxes have; None where there are few or they disagree."""
    total = sum(counts[value] for value in values)
    for value in values:
        if total >= ENOUGH and counts[value] >= CLEAR * total:
            return value
    return None
