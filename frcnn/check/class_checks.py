"""What can be wrong with the names of classes."""

import re
from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np

from frcnn.check.box_checks import BoxFaults
from frcnn.check.findings import Example, Finding, Source, about_objects
from frcnn.data.dataset import did_you_mean

RARE = 10
"""A class of fewer objects is called rare."""
LONG_NAME = 5
"""Names from this length on are called alike when one letter tells them apart."""


class ClassCounts(NamedTuple):
    """How often each class of `class_names` is annotated in a split, by boxes that can be used."""

    objects: np.ndarray
    """(K,) int64; crowds and difficult objects count."""
    images: np.ndarray
    """(K,) int64 images that hold the class."""


def count_classes(sources: Sequence[tuple[Source, BoxFaults]], class_names: Sequence[str]) -> ClassCounts:
    """Objects and images of each class in the sources of one split together."""
    objects, images = np.zeros(len(class_names), np.int64), np.zeros(len(class_names), np.int64)
    for source, faults in sources:
        labels = labels_of(source, class_names)
        is_counted = faults.is_usable & (labels > 0) & (source.raw.objects.rows >= 0)
        objects += np.bincount(labels[is_counted] - 1, minlength=len(class_names))
        pairs = np.unique(np.column_stack([source.raw.objects.rows, labels])[is_counted], axis=0)
        images += np.bincount(pairs[:, 1] - 1, minlength=len(class_names))
    return ClassCounts(objects, images)


def labels_of(source: Source, class_names: Sequence[str]) -> np.ndarray:
    """(m,) int64 label 1..K of each object, 0 where its class is none of `class_names`."""
    label_by_name = {name: label for label, name in enumerate(class_names, start=1)}
    table = np.array([label_by_name.get(name, 0) for name in source.raw.names] + [0], np.int64)
    return table[source.raw.objects.names]  # -1 is the last entry


def find_other_classes(source: Source, class_names: Sequence[str], *, is_filter: bool) -> list[Finding]:
    """Objects of classes that are not trained on.

    Args:
        is_filter: whether `class_names` is a filter (data.classes). Then the other classes of the source are told
            with their counts; unknown are only objects without a class, and those whose class may be a misspelling.
    """
    objects, names = source.raw.objects, source.raw.names
    numbers = np.flatnonzero((labels_of(source, class_names) == 0) & (objects.rows >= 0))
    hints, filtered = {}, []
    for index in np.unique(objects.names[numbers]).tolist():
        close = [name for name in class_names if index >= 0 and likeness(names[index], name)]
        hints[index] = f"; is it {close[0]}?" if close else ""
        if is_filter and index >= 0 and names[index] and not close:
            filtered.append(index)
    examples = [Example(f"{names[index]}: {np.sum(objects.names[numbers] == index)} object(s)") for index in filtered]
    numbers = numbers[~np.isin(objects.names[numbers], filtered)]
    known = ", ".join(class_names[:8]) + (", ..." if len(class_names) > 8 else "")
    notes = [f"none of {known}{hints[int(objects.names[number])]}" for number in numbers.tolist()]
    findings = [Finding("class-filtered", source.split, examples, source)] if examples else []
    return findings + about_objects("class-unknown", source, numbers, notes=notes)


def find_in_classes(
    class_names: Sequence[str], train: ClassCounts, val: ClassCounts, *, other_names: Sequence[str] = ()
) -> list[Finding]:
    """Classes that are missing or rare.

    Args:
        other_names: classes of the annotations that are not trained on, one of which may be meant by an unused one.
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
            if mask[place] and not name.startswith("N/A ")  # an output for an id without category
        ]
        findings += [Finding(kind, split, examples)] if examples else []
    return findings


def find_alike(names: Sequence[str], counts: Sequence[int]) -> list[Finding]:
    """Pairs of names that differ in so little that they may be one class.

    Args:
        counts: objects of each, over all splits.
    """
    examples = []
    for first, second in combinations(range(len(names)), 2):
        if why := likeness(names[first], names[second]):
            both = f"{names[first]!r} ({counts[first]} objects) and {names[second]!r} ({counts[second]} objects)"
            examples.append(Example(f"{both}: {why}"))
    return [Finding("classes-alike", "train and val", examples)] if examples else []


def find_category_gaps(source: Source) -> list[Finding]:
    """Ids between the smallest and the largest that no category has."""
    ids = sorted(source.raw.category_ids)
    missing = [
        str(each) for low, high in zip(ids, ids[1:], strict=False) for each in range(low + 1, min(high, low + 99))
    ]
    if not missing:
        return []
    text = f"{source.raw.name}: ids {ids[0]} to {ids[-1]} without {', '.join(missing[:20])}" + (
        ", ..." if len(missing) > 20 else ""
    )
    return [Finding("category-gaps", source.split, [Example(text)], source)]


def likeness(first: str, second: str) -> str:
    """How two names are alike enough to be one by mistake; empty where they are not.

    Names that differ in their numbers only (class_1, class_2) are not.

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
    """A name without case, spaces and marks: what two ways of writing it share; the name itself if that is all."""
    return re.sub(r"[\W_]+", "", name.casefold()) or name


def edit_distance(first: str, second: str) -> int:
    """Letters put in, taken out, replaced or swapped with their neighbour to make one word the other.

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
