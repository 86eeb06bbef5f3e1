"""What can be wrong with a box."""

from typing import NamedTuple

import numpy as np
import torch

from frcnn.check.findings import Example, Finding, Source, about_objects
from frcnn.data.formats.raw import RawAnnotation
from frcnn.ops.boxes import iou

NEARLY_EQUAL = 0.9
"""IoU from which on two boxes of one class are told as a pair."""
TINY = 2.0
"""A side of at most so many pixels of the original image is tiny."""
BORDER_TOLERANCE = 1.0
"""Pixels a box may reach over the border before it is told: that much is a matter of how pixels are counted."""


class BoxFaults(NamedTuple):
    """Masks over all m objects; of the first five at most one holds for a box."""

    has_no_numbers: np.ndarray
    is_negative: np.ndarray
    is_flat: np.ndarray
    """A side of 0."""
    is_outside: np.ndarray
    """No area inside the image."""
    is_over_border: np.ndarray
    """By more than a pixel, and partly inside."""
    is_tiny: np.ndarray
    """Usable, with a side of at most 2 pixels inside the image."""
    repeats: np.ndarray
    """(m,) int64 the first object with the same usable box and the same class, -1 where there is none."""
    contradicts: np.ndarray
    """(m,) int64 the first object with the same usable box and another class, -1 where there is none."""
    clipped: np.ndarray
    """(m, 4) float64 edges inside the image; those of an image without a size are as they were."""

    @property
    def is_usable(self) -> np.ndarray:
        """Whether the reader takes it, the class apart."""
        return ~(self.has_no_numbers | self.is_negative | self.is_flat | self.is_outside)


def judge_boxes(raw: RawAnnotation) -> BoxFaults:
    """Look at every box as it is written."""
    objects = raw.objects
    sides = np.array([(image.width, image.height) for image in raw.images], np.float64).reshape(-1, 2)
    bounds = np.full((len(objects.rows), 2), np.inf)
    if len(sides):
        known = sides[objects.rows.clip(0)]
        bounds = np.where((objects.rows >= 0)[:, None] & np.isfinite(known), known, np.inf)
    boxes = objects.boxes
    has_no_numbers = np.count_nonzero(np.isfinite(boxes), axis=1) < 4
    smallest = np.where(has_no_numbers, 1.0, objects.sides.min(axis=1, initial=np.inf))
    is_negative = smallest < 0
    is_flat = (smallest == 0) & ~is_negative
    clipped = np.concatenate([boxes[:, :2].clip(0), np.minimum(boxes[:, 2:], bounds)], axis=1)
    inside = (clipped[:, 2:] - clipped[:, :2]).min(axis=1, initial=np.inf)
    is_sound = ~(has_no_numbers | is_negative | is_flat)
    is_outside = is_sound & (inside <= 0)
    over = np.maximum(-boxes[:, :2], boxes[:, 2:] - bounds).max(axis=1, initial=-np.inf)
    is_usable = is_sound & ~is_outside
    repeats, contradicts = _find_repeats(raw, is_usable & (objects.rows >= 0))
    return BoxFaults(
        has_no_numbers=has_no_numbers,
        is_negative=is_negative,
        is_flat=is_flat,
        is_outside=is_outside,
        is_over_border=is_usable & (over > BORDER_TOLERANCE),
        is_tiny=is_usable & (inside <= TINY),
        repeats=repeats,
        contradicts=contradicts,
        clipped=clipped,
    )


def find_in_boxes(source: Source, faults: BoxFaults) -> list[Finding]:
    """Findings about single boxes of a source."""
    findings = []
    for kind, mask in (
        ("box-no-numbers", faults.has_no_numbers),
        ("box-negative", faults.is_negative),
        ("box-zero-area", faults.is_flat),
        ("box-outside", faults.is_outside),
        ("box-over-border", faults.is_over_border),
        ("box-tiny", faults.is_tiny & ~source.raw.objects.is_region),
    ):
        numbers = np.flatnonzero(mask & (source.raw.objects.rows >= 0))
        notes = [f"{source.written(each)}{_image_size(source, each)}" for each in numbers.tolist()]
        findings += about_objects(kind, source, numbers, notes=notes)
    for kind, others in (("box-duplicate", faults.repeats), ("box-two-classes", faults.contradicts)):
        examples = []
        for number in np.flatnonzero(others >= 0).tolist():
            other = int(others[number])
            text = f"{source.subject(number)}: {source.written(number)}, as {_short_subject(source, other)}"
            examples.append(Example(text, int(source.raw.objects.rows[number]), (number, other)))
        findings += [Finding(kind, source.split, examples, source)] if examples else []
    return findings


def find_near_repeats(source: Source, faults: BoxFaults) -> list[Finding]:
    """Pairs of boxes of one class that cover nearly the same, but not exactly."""
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
            overlap = f"IoU {float(found[first, second]):.2f} with {_short_subject(source, one)}"
            text = f"{source.subject(other)}: {overlap}"
            examples.append(Example(text, int(objects.rows[one]), (one, other)))
    return [Finding("box-nearly-duplicate", source.split, examples, source)] if examples else []


def _short_subject(source: Source, number: int) -> str:
    """An object without the name of its image."""
    return source.subject(number).split(": ", 1)[-1]


def _image_size(source: Source, number: int) -> str:
    image = source.raw.images[int(source.raw.objects.rows[number])]
    return "" if np.isnan(image.width + image.height) else f" in {image.width:g} x {image.height:g}"


def _find_repeats(raw: RawAnnotation, is_usable: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each object the first with the same box in the same image: of its class, and of another one.

    Crowds and difficult objects may lie over ordinary ones, so a repetition must agree in that too.
    """
    objects = raw.objects
    repeats = np.full(len(objects.rows), -1, np.int64)
    contradicts = repeats.copy()
    numbers = np.flatnonzero(is_usable)
    if not len(numbers):
        return repeats, contradicts
    place = np.column_stack([objects.rows, objects.boxes, objects.is_region])[numbers]
    order = np.lexsort(place.T[::-1])  # stable: within equal boxes the first written comes first
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
