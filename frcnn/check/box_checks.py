"""Checks of single boxes and of pairs of boxes."""

from typing import NamedTuple

import numpy as np
import torch

from frcnn.check.findings import Example, Finding, Source, about_objects, findings_of
from frcnn.data.formats.columns import clip_boxes
from frcnn.data.formats.raw import RawAnnotation
from frcnn.ops.boxes import iou

NEARLY_EQUAL = 0.9
"""Two boxes of one class with at least this IoU are reported as a pair."""
TINY = 2.0
"""Longest side of a tiny box, in pixels of the original image."""
BORDER_TOLERANCE = 1.0
"""Pixels by which a box may extend beyond the border without a finding. Conventions of pixel counting differ by one."""


class BoxFaults(NamedTuple):
    """Faults of all m objects of a source as (m,) bool arrays. At most one of the first five is true for a box."""

    has_no_numbers: np.ndarray
    is_negative: np.ndarray
    is_flat: np.ndarray
    """A side is 0."""
    is_outside: np.ndarray
    """No area inside the image."""
    is_over_border: np.ndarray
    """Usable, but beyond the border by more than a pixel."""
    is_tiny: np.ndarray
    """Usable, with a side of at most 2 pixels inside the image."""
    repeats: np.ndarray
    """(m,) int64 first object with the same usable box and the same class, or -1."""
    contradicts: np.ndarray
    """(m,) int64 first object with the same usable box and another class, or -1."""
    is_usable: np.ndarray
    """Whether datasets use the box, regardless of its class."""
    clipped: np.ndarray
    """(m, 4) float64 edges inside the image, see `ClippedBoxes`."""


def judge_boxes(raw: RawAnnotation) -> BoxFaults:
    """Find the faults of all boxes as written."""
    objects, clipped = raw.objects, clip_boxes(raw)
    edges, is_usable = clipped.edges, clipped.has_area
    smallest = np.where(clipped.has_numbers, objects.sides.min(axis=1), np.inf)
    beyond = np.abs(objects.boxes - edges).max(axis=1)
    repeats, contradicts = _find_repeats(raw, is_usable & (objects.rows >= 0))
    return BoxFaults(
        has_no_numbers=~clipped.has_numbers,
        is_negative=smallest < 0,
        is_flat=smallest == 0,
        is_outside=clipped.has_numbers & (smallest > 0) & ~is_usable,
        is_over_border=is_usable & (beyond > BORDER_TOLERANCE),
        is_tiny=is_usable & ((edges[:, 2:] - edges[:, :2]).min(axis=1) <= TINY),
        repeats=repeats,
        contradicts=contradicts,
        is_usable=is_usable,
        clipped=edges,
    )


def find_in_boxes(source: Source, faults: BoxFaults) -> list[Finding]:
    """Find faults of single boxes of a source."""
    findings = []
    for kind, mask in (
        ("box-no-numbers", faults.has_no_numbers),
        ("box-negative", faults.is_negative),
        ("box-zero-area", faults.is_flat),
        ("box-outside", faults.is_outside),
        ("box-over-border", faults.is_over_border),
        ("box-tiny", faults.is_tiny & ~source.raw.objects.is_region),
    ):
        numbers = np.flatnonzero(mask & (source.raw.objects.rows >= 0)).tolist()
        notes = {number: f"{source.raw.written(number)}{_image_size(source, number)}" for number in numbers}
        findings += about_objects(kind, source, notes)
    for kind, others in (("box-duplicate", faults.repeats), ("box-two-classes", faults.contradicts)):
        examples = []
        for number in np.flatnonzero(others >= 0).tolist():
            other = int(others[number])
            text = f"{source.subject(number)}: {source.raw.written(number)}, same as {source.short_subject(other)}"
            examples.append(Example(text, int(source.raw.objects.rows[number]), (number, other)))
        findings += findings_of(kind, source.split, examples, source)
    return findings


def find_near_repeats(source: Source, faults: BoxFaults) -> list[Finding]:
    """Find pairs of boxes of one class that are nearly but not exactly equal."""
    objects = source.raw.objects
    is_judged = (
        faults.is_usable & (objects.rows >= 0) & (objects.names >= 0) & ~objects.is_region & (faults.repeats < 0)
    )
    numbers = np.flatnonzero(is_judged)
    numbers = numbers[np.lexsort((objects.names[numbers], objects.rows[numbers]))]
    groups = objects.rows[numbers] * (len(source.raw.names) + 1) + objects.names[numbers]
    starts = np.flatnonzero(np.diff(groups, prepend=-1))
    examples = []
    for start, end in zip(starts.tolist(), [*starts[1:].tolist(), len(numbers)], strict=True):
        if end - start == 1:
            continue
        group = numbers[start:end]
        boxes = torch.from_numpy(faults.clipped[group])
        found = iou(boxes, boxes).triu(diagonal=1)
        for first, second in (found >= NEARLY_EQUAL).nonzero().tolist():
            one, other = sorted((int(group[first]), int(group[second])))
            overlap = f"IoU {float(found[first, second]):.2f} with {source.short_subject(one)}"
            text = f"{source.subject(other)}: {overlap}"
            examples.append(Example(text, int(objects.rows[one]), (one, other)))
    return findings_of("box-nearly-duplicate", source.split, examples, source)


def _image_size(source: Source, number: int) -> str:
    image = source.raw.images[int(source.raw.objects.rows[number])]
    return "" if np.isnan(image.width + image.height) else f" in {image.width:g} x {image.height:g}"


def _find_repeats(raw: RawAnnotation, is_usable: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`BoxFaults.repeats` and `BoxFaults.contradicts`.

    Crowds and difficult objects may overlap ordinary objects, so only objects of the same kind count as equal.
    """
    objects = raw.objects
    repeats = np.full(len(objects.rows), -1, np.int64)
    contradicts = repeats.copy()
    numbers = np.flatnonzero(is_usable)
    if not len(numbers):
        return repeats, contradicts
    place = np.column_stack([objects.rows, objects.boxes, objects.is_region])[numbers]
    order = np.lexsort(place.T[::-1])  # stable: equal boxes keep the order of the file
    is_new = np.ones(len(order), bool)
    is_new[1:] = (place[order][1:] != place[order][:-1]).any(axis=1)
    starts = np.flatnonzero(is_new)
    for start, end in zip(starts.tolist(), [*starts[1:].tolist(), len(order)], strict=True):
        if end - start == 1:
            continue
        first_of_class: dict[int, int] = {}
        group = numbers[order[start:end]].tolist()
        for number in group:
            name = int(objects.names[number])
            if name in first_of_class:
                repeats[number] = first_of_class[name]
            elif first_of_class:
                contradicts[number] = group[0]
            first_of_class.setdefault(name, number)
    return repeats, contradicts
