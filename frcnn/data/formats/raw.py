"""Annotations of one source as written: nothing is clipped, filtered or repaired.

The reader of a format parses the files once and returns a `RawAnnotation`. Class names, datasets (`annotated`), the
data checks and cleaned copies are all made from it. A reader raises DataError only if the whole source is unusable;
everything that is wrong with one image or object becomes a `Fault`.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from frcnn.data.dataset import DetectionDataset
from frcnn.files.limits import IMAGE_SIDE
from frcnn.files.reading import shown

UNKNOWN = -1


class RawImage(NamedTuple):
    """An image as its annotation describes it."""

    image_id: int | str
    path: Path | None
    """None if the image is not a file."""
    annotation: Path | None
    """The file that annotates it."""
    height: float
    """As written; NaN if it cannot be the height of an image."""
    width: float


class RawObjects(NamedTuple):
    """The m objects of all images, in columns."""

    rows: np.ndarray
    """(m,) int64 position of the image; -1 if there is no such image."""
    positions: np.ndarray
    """(m,) int64 position among the objects or lines of the annotation file, from 0."""
    boxes: np.ndarray
    """(m, 4) float64 xyxy edges, not clipped to the image; NaN if the file does not have four numbers."""
    sides: np.ndarray
    """(m, 2) float64 width and height as written (VOC: xmax - xmin). Datasets skip boxes with a side of 0 or less."""
    written: np.ndarray
    """(m, 4) float64 the four numbers as written."""
    names: np.ndarray
    """(m,) int64 index into `RawAnnotation.names`; -1 for an unknown category id."""
    areas: np.ndarray
    """(m,) float64 square pixels as annotated; NaN if the file has no area."""
    is_crowd: np.ndarray
    """(m,) bool, iscrowd of COCO."""
    is_difficult: np.ndarray
    """(m,) bool, difficult of VOC."""
    ids: list[Any]
    """Id of each object in the file, None if it is missing; empty if the format has no ids."""

    @property
    def is_region(self) -> np.ndarray:
        """(m,) bool crowd or difficult."""
        return self.is_crowd | self.is_difficult


class Fault(NamedTuple):
    """A reason why an image or object cannot be read."""

    kind: str
    """"unreadable", "no image", "listed twice", "no size", "unknown image", "unknown category", "bad line", "id twice",
    "file twice"."""
    row: int
    """Position of the image, -1 if there is none."""
    message: str
    is_problem: bool = True
    """Whether a dataset skips something because of it and reports that."""


class RawAnnotation(NamedTuple):
    """One source of annotated images."""

    name: str
    """For messages, such as "voc VOC2007 trainval"."""
    format: str
    images: list[RawImage]
    objects: RawObjects
    names: list[str]
    """Class names: those that the file declares, else those found, sorted. An object without a name has the name ""."""
    category_ids: list[int]
    """Ids of `names`; empty if the format has none."""
    is_declared: bool
    """Whether the format lists its classes separately from the objects."""
    faults: list[Fault]
    origin: Path | None
    """The folder or file that was read; None if there are no annotation files."""
    origin_key: str = ""
    """The config key of the source that holds `origin`."""
    part: str = ""
    """Name of the part of `origin` that was read: the split of VOC."""
    box_keys: tuple[str, str, str, str] = ("x1", "y1", "x2", "y2")
    """Names of the four numbers of a box in the files, for messages."""
    object_word: str = "object"
    """What messages call an object without an id, before its position counted from 1: "object" or "line"."""
    notes: tuple[str, ...] = ()
    """Lines for the log about how the files were understood."""
    write_copy: Callable[[Sequence["Changes"], Path], list[str]] | None = None
    """Write a changed copy of the annotations of one origin to a path; None if the format cannot.

    Takes the changes of each part of the origin that was read. Returns instructions for what is left to do.
    """
    dataset: DetectionDataset | None = None
    """Reads the pixels of image `row` if the images are not plain files."""

    @property
    def place(self) -> str:
        """The folder or file for messages, else the name."""
        return self.name if self.origin is None else str(self.origin)

    def object_name(self, number: int) -> str:
        """Name of an object in messages: "annotation ID"; if the format has no ids, "object N" or "line N"."""
        place = int(self.objects.positions[number])
        if not self.objects.ids:
            return f"{self.object_word} {place + 1}"
        own = self.objects.ids[number]
        return f"annotation number {place}" if own is None else f"annotation {shown(own)}"

    def written(self, number: int) -> str:
        """The four numbers of a box as written in the file."""
        values = self.objects.written[number].tolist()
        return " ".join(f"{key} {value:g}" for key, value in zip(self.box_keys, values, strict=True))


class Changes(NamedTuple):
    """Changes of one source for `RawAnnotation.write_copy`. Images are given by row, objects by column number."""

    raw: RawAnnotation
    dropped_images: Collection[int]
    dropped_objects: Collection[int]
    sizes: Mapping[int, tuple[int, int]]
    """New (height, width)."""
    boxes: Mapping[int, Sequence[float]]
    """New edges x1, y1, x2, y2."""
    names: Mapping[int, str]
    """New class names."""


def from_dataset(dataset: DetectionDataset) -> RawAnnotation:
    """The annotations of a dataset without annotation files. Pixels are read by the dataset."""
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
        dataset=dataset,
    )


def is_size(value: Any) -> bool:
    """Whether a value can be the height or width of an image."""
    return isinstance(value, int | float) and 1 <= value <= IMAGE_SIDE


def side(value: Any) -> float:
    """The height or width of an image in whole pixels; NaN if the value cannot be one."""
    return int(value) if is_size(value) else math.nan


def repeated(values: Sequence) -> list:
    """The values that occur more than once, in order."""
    if len(set(values)) == len(values):
        return []
    counts: dict[Any, int] = {}
    for value in values:
        counts[value] = counts.get(value, 0) + 1
    return [value for value, count in counts.items() if count > 1]


def _joined(columns: list[np.ndarray], dtype: type) -> np.ndarray:
    return np.concatenate(columns).astype(dtype) if columns else np.zeros(0, dtype)
