"""An estimate of whether coordinates count from 0 or 1, from boxes that touch a border."""

import numpy as np

from frcnn.check.box_checks import BoxFaults
from frcnn.check.findings import Example, Finding, Source
from frcnn.data.formats.columns import image_sizes

ENOUGH = 8
"""Minimum number of boxes at a border for an estimate."""
CLEAR = 0.9
"""Minimum share of them that must agree."""


def guess_coordinates(source: Source, faults: BoxFaults) -> list[Finding]:
    """Find out whether the written coordinates contradict the convention of their format.

    The box of an object cut by the border ends at the border. Whether such boxes start at 0 or 1, and end at the width
    or one pixel before it, shows the convention. An estimate requires at least 8 boxes at these two positions, of which
    90% agree.

    VOC is read as 1-based and inclusive: 1 to width. COCO's x, y, w, h are edges: 0 to width.
    """
    if source.raw.format not in ("voc", "coco"):
        return []
    near, far = _border_counts(source, faults)
    first, last = _winner(near, (0, 1)), _winner(far, (-1, 0))
    evidence = (
        f"at the upper and left borders, {near[0]} boxes start at 0 and {near[1]} at 1; at the lower and right "
        f"borders, {far[-1]} end at the image side minus 1 and {far[0]} at the image side"
    )
    claim = _voc_claim(first, last) if source.raw.format == "voc" else _coco_claim(first, last)
    if not claim:
        return []
    return [Finding("coordinates", source.split, [Example(f"{source.raw.name}: {claim} ({evidence})")], source)]


def _voc_claim(first: int | None, last: int | None) -> str:
    if first == 0 and last == -1:
        return "coordinates seem to start at 0; add 1 to all four, otherwise boxes lie a pixel too far up and left"
    if first == 0 and last == 0:
        return (
            "coordinates seem to be edges from 0 to the width; add 1 to xmin and ymin, otherwise boxes are a pixel too "
            "large"
        )
    if first == 0:
        return "coordinates seem to start at 0, but VOC starts at 1; boxes may lie a pixel too far up and left"
    return ""


def _coco_claim(first: int | None, last: int | None) -> str:
    if first == 1:
        return "coordinates seem to start at 1, but COCO starts at 0; subtract 1 from x and y"
    if last == -1 and first == 0:
        return "w and h seem to be differences of whole pixels; add 1 to both, otherwise boxes are a pixel too small"
    return ""


def _border_counts(source: Source, faults: BoxFaults) -> tuple[dict[int, int], dict[int, int]]:
    """Count boxes by the coordinate at which they start (0, 1) and the distance of their end from the side (-1, 0)."""
    raw = source.raw
    usable = np.flatnonzero(faults.is_usable & (raw.objects.rows >= 0))
    sizes = image_sizes(raw)[raw.objects.rows[usable]]
    begin = raw.objects.written[usable, :2]
    end = raw.objects.written[usable, 2:] + (begin if raw.format == "coco" else 0)
    near = {value: int((begin == value).sum()) for value in (0, 1)}
    far = {value: int((end - sizes == value).sum()) for value in (-1, 0)}
    return near, far


def _winner(counts: dict[int, int], values: tuple[int, int]) -> int | None:
    """The value of nearly all boxes. None if there are too few boxes or they disagree."""
    total = sum(counts[value] for value in values)
    for value in values:
        if total >= ENOUGH and counts[value] >= CLEAR * total:
            return value
    return None
