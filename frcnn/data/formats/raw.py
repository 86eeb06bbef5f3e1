"""Annotations of one source as they are written: nothing is clipped, filtered or repaired.

The readers `voc.read_voc` and `coco.read_coco` parse the files once and give a `RawAnnotation`. Class names, datasets
(`annotated`) and the checks of the data are all made from it.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from frcnn.data.dataset import DetectionDataset
from frcnn.files.limits import IMAGE_SIDE
from frcnn.files.reading import shown

UNKNOWN = -1


class RawImage(NamedTuple):
    """An image, as its annotation names it."""

    image_id: int | str
    path: Path | None
    """None where it is drawn on the fly."""
    annotation: Path | None
    """The file that annotates it."""
    height: float
    """As written; NaN where it cannot be the height of an image."""
    width: float


class RawObjects(NamedTuple):
    """Columns of all m objects."""

    rows: np.ndarray
    """(m,) int64 position of the image; -1 where there is no such image."""
    positions: np.ndarray
    """(m,) int64 place among the objects of its annotation file, from 0."""
    boxes: np.ndarray
    """(m, 4) float64 xyxy, edges before they are clipped to the image; NaN where it is no four numbers."""
    sides: np.ndarray
    """(m, 2) float64 width and height as written (VOC: xmax - xmin); a dataset has no box with a side of 0 or less."""
    written: np.ndarray
    """(m, 4) float64 the four numbers as written."""
    names: np.ndarray
    """(m,) int64 index into `RawAnnotation.names`; -1 where the category id is unknown."""
    areas: np.ndarray
    """(m,) float64 square pixels as annotated; NaN where the file holds none."""
    is_crowd: np.ndarray
    """(m,) bool, COCO's iscrowd."""
    is_difficult: np.ndarray
    """(m,) bool, VOC's difficult."""
    ids: list[Any]
    """Id of each in the file, None where it is missing; empty where the format has no ids."""

    @property
    def is_region(self) -> np.ndarray:
        """(m,) bool crowd or difficult."""
        return self.is_crowd | self.is_difficult


class Fault(NamedTuple):
    """Something that keeps an image or object from being read at all."""

    kind: str
    """"unreadable", "listed twice", "no size", "unknown image", "unknown category", "id twice", "file twice"."""
    row: int
    """Position of the image, -1 where there is none."""
    message: str
    is_problem: bool = True
    """Whether a dataset leaves something out because of it, and reports that."""


class RawAnnotation(NamedTuple):
    """One source of annotated images."""

    name: str
    """For messages, such as "voc VOC2007 trainval"."""
    format: str
    images: list[RawImage]
    objects: RawObjects
    names: list[str]
    """Class names: those the file declares, else those found, sorted; an object without a name has the name ""."""
    category_ids: list[int]
    """Of `names`; empty where the format has none."""
    is_declared: bool
    """Whether the format lists its classes apart from the objects."""
    faults: list[Fault]
    origin: Path | None
    """The folder (VOC) or file (COCO) it was read from; None for other formats."""
    part: str
    """VOC's split; empty for other formats."""
    dataset: DetectionDataset | None = None
    """Reads the pixels of images that are not files, by their position; None where they are files."""

    @property
    def place(self) -> str:
        """The folder or file for messages, else the name."""
        return self.name if self.origin is None else str(self.origin)

    def object_name(self, number: int) -> str:
        """What messages call an object: "annotation ID", or "object N" where the format has no ids."""
        place = int(self.objects.positions[number])
        if not self.objects.ids:
            return f"object {place + 1}"
        own = self.objects.ids[number]
        return f"annotation number {place}" if own is None else f"annotation {shown(own)}"

    def written(self, number: int) -> str:
        """The four numbers of a box as they stand in the file."""
        words = {"voc": ("xmin", "ymin", "xmax", "ymax"), "coco": ("x", "y", "w", "h")}
        keys = words.get(self.format, ("x1", "y1", "x2", "y2"))
        values = self.objects.written[number].tolist()
        return " ".join(f"{key} {value:g}" for key, value in zip(keys, values, strict=True))


def from_dataset(dataset: DetectionDataset) -> RawAnnotation:
    """Annotations of a dataset without annotation files, which stays the reader of its pixels."""
    images, columns = [], []
    for row, record in enumerate(dataset.records):
        images.append(RawImage(record.image_id, record.path, None, record.height, record.width))
        columns.append((np.full(len(record.boxes), row), np.arange(len(record.boxes))))
    boxes = _joined([record.boxes for record in dataset.records], np.float64).reshape(-1, 4)
    objects = RawObjects(
        rows=_joined([rows for rows, _ in columns], np.int64),
        positions=_joined([places for _, places in columns], np.int64),
        boxes=boxes,
        sides=boxes[:, 2:] - boxes[:, :2],
        written=boxes,
        names=_joined([record.labels for record in dataset.records], np.int64) - 1,
        areas=_joined([record.areas for record in dataset.records], np.float64),
        is_crowd=_joined([record.is_crowd for record in dataset.records], bool),
        is_difficult=_joined([record.is_difficult for record in dataset.records], bool),
        ids=[],
    )
    return RawAnnotation(
        name=dataset.name,
        format="records",
        images=images,
        objects=objects,
        names=list(dataset.class_names),
        category_ids=list(dataset.category_ids),
        is_declared=True,
        faults=[],
        origin=None,
        part="",
        dataset=dataset,
    )


def is_size(value: Any) -> bool:
    """Whether it can be the height or width of an image."""
    return isinstance(value, int | float) and 1 <= value <= IMAGE_SIDE


def side(value: Any) -> float:
    """The height or width of an image in whole pixels; NaN where it cannot be one."""
    return int(value) if is_size(value) else math.nan


def repeated(values: Sequence) -> list:
    """Values that occur more than once, in order."""
    if len(set(values)) == len(values):
        return []
    counts: dict[Any, int] = {}
    for value in values:
        counts[value] = counts.get(value, 0) + 1
    return [value for value, count in counts.items() if count > 1]


def _joined(columns: list[np.ndarray], dtype: type) -> np.ndarray:
    return np.concatenate(columns).astype(dtype) if columns else np.zeros(0, dtype)
