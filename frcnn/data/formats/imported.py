"""Datasets that a config names by import path."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from frcnn.annotations import ImageRecord
from frcnn.data.dataset import DetectionDataset
from frcnn.data.formats.raw import RawAnnotation, from_dataset, is_size
from frcnn.errors import ConfigError, DataError
from frcnn.files.code import check_signature, import_code


def read_imported(path: str, arguments: Mapping[str, Any], *, key: str) -> RawAnnotation:
    """Create a user-defined dataset and read its records.

    Args:
        path: import path of a `DetectionDataset` class, or of a function that returns one.
        arguments: its keyword arguments.
        key: the config key of the path, for messages.

    Raises:
        ConfigError: the code cannot be imported, does not take the arguments, or does not return a dataset.
        DataError: a record violates the contract of `ImageRecord`.
    """
    create = import_code(path, key=key)
    check_signature(create, [], arguments, path=path, key=key)
    dataset = create(**arguments)
    if not isinstance(dataset, DetectionDataset):
        raise ConfigError(f"{key}: {path} returned a {type(dataset).__name__}, expected a frcnn.data.DetectionDataset")
    if not hasattr(dataset, "records"):
        raise ConfigError(f"{key}: {path} does not call DetectionDataset.__init__")
    for row, record in enumerate(dataset.records):
        mistake = find_mistake(record, num_classes=len(dataset.class_names))
        if mistake:
            raise DataError(f"{key}: {path}: record {row}: {mistake}")
    return from_dataset(dataset)


def find_mistake(record: object, *, num_classes: int) -> str:
    """Describe what is wrong with a record; empty if nothing is."""
    if not isinstance(record, ImageRecord):
        return f"is a {type(record).__name__}, expected a frcnn.annotations.ImageRecord"
    if not (is_size(record.height) and is_size(record.width)):
        return f"height {record.height!r} and width {record.width!r} must be the size of an image in pixels"
    count = len(record.boxes)
    for name, kinds, shape in (
        ("boxes", "fiu", (count, 4)),
        ("labels", "iu", (count,)),
        ("areas", "fiu", (count,)),
        ("is_crowd", "b", (count,)),
        ("is_difficult", "b", (count,)),
        ("is_ignored", "b", (count,)),
    ):
        column = getattr(record, name)
        if not (isinstance(column, np.ndarray) and column.dtype.kind in kinds and column.shape == shape):
            expected = {"f": "numbers", "i": "integers", "b": "booleans"}[kinds[0]]
            return f"{name} must be a numpy array of {expected} of shape {shape}"
    if count and not (record.labels.min() >= 1 and record.labels.max() <= num_classes):
        return f"labels must be in 1..{num_classes}, found {record.labels.tolist()}"
    if (record.is_ignored & ~(record.is_crowd | record.is_difficult)).any():
        return "an object with is_ignored must also have is_crowd or is_difficult"
    return ""
