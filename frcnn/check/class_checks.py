"""Checks of class names."""

import re
from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np

from frcnn.check.box_checks import BoxFaults
from frcnn.check.findings import Example, Finding, Source, about_objects, findings_of
from frcnn.data.dataset import did_you_mean, unused_ids
from frcnn.data.formats.columns import labels_of

RARE = 10
"""A class with fewer objects is rare."""
LONG_NAME = 5
"""Minimum length of names that are similar if they differ in one letter."""


class ClassCounts(NamedTuple):
    """Number of usable boxes of each of the K classes in a split."""

    objects: np.ndarray
    """(K,) int64 objects, including crowds and difficult objects."""
    images: np.ndarray
    """(K,) int64 images with the class."""


def count_classes(sources: Sequence[tuple[Source, BoxFaults]], class_names: Sequence[str]) -> ClassCounts:
    """Count objects and images of each class over the sources of a split."""
    objects, images = np.zeros(len(class_names), np.int64), np.zeros(len(class_names), np.int64)
    for source, faults in sources:
        labels = labels_of(source.raw, class_names)
        is_counted = faults.is_usable & (labels > 0) & (source.raw.objects.rows >= 0)
        objects += np.bincount(labels[is_counted] - 1, minlength=len(class_names))
        pairs = np.unique(np.column_stack([source.raw.objects.rows, labels])[is_counted], axis=0)
        images += np.bincount(pairs[:, 1] - 1, minlength=len(class_names))
    return ClassCounts(objects, images)


def find_other_classes(source: Source, class_names: Sequence[str], *, is_filter: bool) -> list[Finding]:
    """Find objects of classes that are not in `class_names`.

    Args:
        is_filter: whether `class_names` is a filter (data.classes). If so, other classes become a note with their
            counts, and only objects without a class and names similar to a listed name are errors.
    """
    objects, names = source.raw.objects, source.raw.names
    numbers = np.flatnonzero((labels_of(source.raw, class_names) == 0) & (objects.rows >= 0))
    hints, filtered = {}, []
    for index in np.unique(objects.names[numbers]).tolist():
        close = [name for name in class_names if index >= 0 and likeness(names[index], name)]
        hints[index] = f"; did you mean {close[0]}?" if close else ""
        if is_filter and index >= 0 and names[index] and not close:
            filtered.append(index)
    examples = [Example(f"{names[index]}: {np.sum(objects.names[numbers] == index)} object(s)") for index in filtered]
    numbers = numbers[~np.isin(objects.names[numbers], filtered)]
    known = ", ".join(class_names[:8]) + (", ..." if len(class_names) > 8 else "")
    notes = {number: f"not one of {known}{hints[int(objects.names[number])]}" for number in numbers.tolist()}
    return [
        *findings_of("class-filtered", source.split, examples, source),
        *about_objects("class-unknown", source, notes),
    ]


def find_in_classes(
    class_names: Sequence[str], train: ClassCounts, val: ClassCounts, *, other_names: Sequence[str] = ()
) -> list[Finding]:
    """Find classes that are missing or rare.

    Args:
        other_names: classes of the annotations that are not in `class_names`, suggested for unused ones.
    """
    findings = []
    for kind, split, mask in (
        ("class-unused", "train", (train.objects == 0) & (val.objects == 0)),
        ("class-only-in-val", "train", (train.objects == 0) & (val.objects > 0)),
        ("class-not-in-val", "val", (val.objects == 0) & (train.objects > 0)),
        ("class-rare", "train", (train.objects > 0) & (train.objects < RARE)),
    ):
        examples = [
            Example(
                f"{name}: {train.objects[place]} in train, {val.objects[place]} in val"
                + (did_you_mean(name, other_names) if kind == "class-unused" else "")
            )
            for place, name in enumerate(class_names)
            if mask[place] and not unused_ids([name])
        ]
        findings += findings_of(kind, split, examples)
    return findings


def find_alike(names: Sequence[str], counts: Sequence[int]) -> list[Finding]:
    """Find pairs of names so similar that they may mean the same class.

    Args:
        counts: objects of each name over all splits.
    """
    examples = []
    for first, second in combinations(range(len(names)), 2):
        if why := likeness(names[first], names[second]):
            both = f"{names[first]!r} ({counts[first]} objects) and {names[second]!r} ({counts[second]} objects)"
            examples.append(Example(f"{both}: {why}"))
    return findings_of("classes-alike", "train and val", examples)


def find_category_gaps(source: Source) -> list[Finding]:
    """Find unused category ids between the smallest and the largest id."""
    ids = sorted(source.raw.category_ids)
    missing = [
        str(each) for low, high in zip(ids, ids[1:], strict=False) for each in range(low + 1, min(high, low + 99))
    ]
    if not missing:
        return []
    named = ", ".join(missing[:20]) + (", ..." if len(missing) > 20 else "")
    example = Example(f"{source.raw.name}: ids {ids[0]} to {ids[-1]} without {named}")
    return [Finding("category-gaps", source.split, [example], source)]


def likeness(first: str, second: str) -> str:
    """The reason why two names may mean the same class; empty if they are not similar.

    Names that differ only in numbers (class_1, class_2) are not similar.

    >>> likeness("Traffic light", "traffic_light"), likeness("dog", "dogs"), likeness("person", "persom")
    ('they differ in case or spaces', 'one may be the plural of the other', 'they differ in one letter')
    >>> likeness("cat", "car"), likeness("level 1", "level 2")
    ('', '')
    """
    one, other = plain(first), plain(second)
    if one == other:
        return "they differ in case or spaces"
    short, long = sorted((one, other), key=len)
    if len(short) > 1 and long in (f"{short}s", f"{short}es", f"{short.removesuffix('y')}ies"):
        return "one may be the plural of the other"
    if re.sub(r"\d", "", one) == re.sub(r"\d", "", other):
        return ""
    if len(short) >= LONG_NAME and edit_distance(one, other) == 1:
        return "they differ in one letter"
    return ""


def plain(name: str) -> str:
    """A name in lower case without spaces and punctuation, or the name itself if nothing remains."""
    return re.sub(r"[\W_]+", "", name.casefold()) or name


def edit_distance(first: str, second: str) -> int:
    """Number of insertions, deletions, substitutions and swaps of neighbors that turn one word into the other.

    >>> edit_distance("giraffe", "girafe"), edit_distance("horse", "hosre"), edit_distance("cat", "dog")
    (1, 1, 3)
    """
    before: list[int] = []
    row = list(range(len(second) + 1))
    for i, one in enumerate(first, start=1):
        last, row, before = before, [i], row
        for j, other in enumerate(second, start=1):
            best = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (one != other))
            if i > 1 and j > 1 and one == second[j - 2] and first[i - 2] == other:
                best = min(best, last[j - 2] + 1)
            row.append(best)
    return row[-1]
