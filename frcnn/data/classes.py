"""The class names of a dataset that is made from several sources."""

from collections.abc import Sequence
from typing import NamedTuple

from frcnn.data.dataset import unused_ids
from frcnn.data.formats.raw import RawAnnotation


class ClassChoice(NamedTuple):
    """Class names for all sources, and the sources that do not fit them."""

    names: list[str]
    """Class names in label order; empty if there are none."""
    missing: list[tuple[RawAnnotation, str]]
    """Listed names that a source with declared classes does not have."""
    different: list[RawAnnotation]
    """Sources that declare other classes than the first one that declares any, if no names are listed."""


def choose_classes(annotations: Sequence[RawAnnotation], listed: Sequence[str] | None = None) -> ClassChoice:
    """Choose the class names of all sources.

    1. The listed names (data.classes), if there are any.
    2. Otherwise the names that the first source declares. COCO files, for example, declare their classes.
    3. If no source declares classes (VOC), the names found in all of them, sorted.
    """
    declared = [raw for raw in annotations if raw.is_declared and raw.names]
    if listed is not None:
        known = {*unused_ids(listed)}
        missing = [(raw, name) for raw in declared for name in listed if name not in {*raw.names, *known}]
        return ClassChoice(list(listed), missing, [])
    if declared:
        names = list(declared[0].names)
        return ClassChoice(names, [], [raw for raw in declared[1:] if raw.names != names])
    return ClassChoice(sorted({name for raw in annotations for name in raw.names} - {""}), [], [])
