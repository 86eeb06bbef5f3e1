"""Annotations as they are written: nothing clipped, left out or put right. What a check of the data looks at.

The readers (`voc`, `coco`) parse the files; here their findings are lined up in columns, with every fault kept.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from frcnn.data import coco, voc
from frcnn.data.dataset import DetectionDataset
from frcnn.errors import DataError
from frcnn.reading import shown

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
    """(m, 4) float64 xyxy, the edges the reader makes of them before it clips; NaN where it is no four numbers."""
    sides: np.ndarray
    """(m, 2) float64 width and height as written (VOC: xmax - xmin); the reader takes no box with one of 0 or less."""
    written: np.ndarray
    """(m, 4) float64 the four numbers as written."""
    names: np.ndarray
    """(m,) int64 index into `RawAnnotation.names`; -1 where the category id is unknown."""
    is_region: np.ndarray
    """(m,) bool crowd or difficult."""
    ids: list[Any]
    """What the file calls each; empty where it gives them no names."""


class Fault(NamedTuple):
    """Something that keeps an image or object from being read at all."""

    kind: str
    """"unreadable", "listed twice", "no size", "unknown image", "unknown category", "id twice", "file twice"."""
    row: int
    """Position of the image, -1 where there is none."""
    message: str


class RawAnnotation(NamedTuple):
    """One source of annotated images."""

    name: str
    """For messages, such as "voc VOC2007 trainval"."""
    format: str
    images: list[RawImage]
    objects: RawObjects
    names: list[str]
    """Class names: those the file declares, else those found, sorted."""
    category_ids: list[int]
    """Of `names`; empty where the format has none."""
    is_declared: bool
    """Whether the format lists its classes apart from the objects."""
    faults: list[Fault]
    origin: Path | None
    """The folder (VOC) or file (COCO) it was read from; None for other formats."""
    part: str
    """VOC's split; empty for other formats."""


def read_voc(root: Path, split: str, *, coordinates: str = "edges") -> RawAnnotation:
    """A split of a VOC folder.

    Raises:
        DataError: no such folder or list.
    """
    listed, paths = voc.read_image_list(root, split), voc.find_image_paths(root)
    images: list[RawImage] = []
    faults: list[Fault] = []
    columns: list[tuple] = []
    far_shift = 1 if coordinates == "minus_one" else 0
    for image_id in dict.fromkeys(listed):
        row, xml_path = len(images), root / "Annotations" / f"{image_id}.xml"
        try:
            annotation = voc.parse_annotation(xml_path)
        except DataError as error:
            faults.append(Fault("unreadable", row, str(error)))
            annotation = voc.VocAnnotation("", math.nan, math.nan, [])
        else:
            if not (coco.is_size(annotation.height) and coco.is_size(annotation.width)):
                faults.append(Fault("no size", row, f"{xml_path}: size of the image is missing, 0 or infinite"))
        path = voc.image_path(root, image_id, annotation.file_name, found=paths)
        images.append(RawImage(image_id, path, xml_path, _side(annotation.height), _side(annotation.width)))
        columns += [(row, place, each) for place, each in enumerate(annotation.objects)]
    for image_id in _repeated(listed):
        row = next(row for row, image in enumerate(images) if image.image_id == image_id)
        faults.append(Fault("listed twice", row, f"{root / 'ImageSets/Main' / split}.txt: {image_id} is there twice"))

    names = sorted({each.name for _, _, each in columns})
    number = {name: index for index, name in enumerate(names)}
    written = np.array([each.box or (math.nan,) * 4 for _, _, each in columns], np.float64).reshape(-1, 4)
    objects = RawObjects(
        rows=np.array([row for row, _, _ in columns], np.int64),
        positions=np.array([place for _, place, _ in columns], np.int64),
        boxes=written - [1, 1, far_shift, far_shift],
        sides=written[:, 2:] - written[:, :2],
        written=written,
        names=np.array([number[each.name] for _, _, each in columns], np.int64),
        is_region=np.array([each.is_difficult for _, _, each in columns], bool),
        ids=[],
    )
    return RawAnnotation(f"voc {root.name} {split}", "voc", images, objects, names, [], False, faults, root, split)


def read_coco(images: Path, annotations: Path) -> RawAnnotation:
    """A COCO instances file; `images` is the folder of the images.

    Raises:
        DataError: no such folder or file, broken JSON, a list that is not there, categories without id or name.
    """
    if not images.is_dir():
        raise DataError(f"{images}: no such folder (images of {annotations})")
    document = coco.read_document(annotations)
    name_by_id = coco.read_categories(document, annotations)
    faults: list[Fault] = []
    raw_images, row_by_id = _coco_images(
        coco.read_entries(document, "images", annotations), images, annotations, faults
    )
    entries = coco.read_entries(document, "annotations", annotations)
    ids = {category_id: index for index, category_id in enumerate(name_by_id)}
    written = coco.read_boxes(entries)
    objects = RawObjects(
        rows=np.array([coco.find(row_by_id, each.get("image_id"), UNKNOWN) for each in entries], np.int64),
        positions=np.arange(len(entries)),
        boxes=np.concatenate([written[:, :2], written[:, :2] + written[:, 2:]], axis=1),
        sides=written[:, 2:],
        written=written,
        names=np.array([coco.find(ids, each.get("category_id"), UNKNOWN) for each in entries], np.int64),
        is_region=np.array([bool(each.get("iscrowd")) for each in entries], bool),
        ids=[_name(each, place) for place, each in enumerate(entries)],
    )
    faults += _coco_object_faults(entries, objects, annotations)
    name = f"coco {annotations.name}"
    names, category_ids = list(name_by_id.values()), list(name_by_id)
    return RawAnnotation(name, "coco", raw_images, objects, names, category_ids, True, faults, annotations, "")


def from_dataset(dataset: DetectionDataset) -> RawAnnotation:
    """Any other data set, by what its reader makes of it."""
    images, columns = [], []
    for row, record in enumerate(dataset.records):
        images.append(RawImage(record.image_id, record.path, None, record.height, record.width))
        columns.append((np.full(len(record.boxes), row), np.arange(len(record.boxes))))
    boxes = _joined([record.boxes for record in dataset.records], np.float64).reshape(-1, 4)
    regions = [record.is_crowd | record.is_difficult for record in dataset.records]
    objects = RawObjects(
        rows=_joined([rows for rows, _ in columns], np.int64),
        positions=_joined([places for _, places in columns], np.int64),
        boxes=boxes,
        sides=boxes[:, 2:] - boxes[:, :2],
        written=boxes,
        names=_joined([record.labels for record in dataset.records], np.int64) - 1,
        is_region=_joined(regions, bool),
        ids=[],
    )
    return RawAnnotation(dataset.name, "records", images, objects, list(dataset.class_names), [], True, [], None, "")


def _coco_images(
    entries: list[dict[str, Any]], folder: Path, path: Path, faults: list[Fault]
) -> tuple[list[RawImage], dict[Any, int]]:
    """The images with an id and a name, and the row of each id."""
    images: list[RawImage] = []
    row_by_id: dict[Any, int] = {}
    row_by_name: dict[str, int] = {}
    for entry in entries:
        image_id, name = entry.get("id"), entry.get("file_name")
        if not isinstance(image_id, int | str) or not isinstance(name, str):
            faults.append(Fault("unreadable", UNKNOWN, f"{path}: an image needs an id and a file_name: {shown(entry)}"))
            continue
        if image_id in row_by_id:
            message = f"{path}: image id {image_id} is there twice, again for {name}"
            faults.append(Fault("listed twice", row_by_id[image_id], message))
            continue
        row = row_by_id[image_id] = len(images)
        if name in row_by_name:
            faults.append(Fault("file twice", row, f"{path}: image {image_id} has the file {name} of another image"))
        row_by_name.setdefault(name, row)
        height, width = _side(entry.get("height")), _side(entry.get("width"))
        if not coco.is_image_name(name):
            message = f"{path}: image {image_id}: its file_name {shown(name)} {coco.NOT_INSIDE}"
            faults.append(Fault("unreadable", row, message))
            images.append(RawImage(image_id, None, path, height, width))
            continue
        if math.isnan(height + width):
            message = f"{path}: image {image_id} ({name}) needs a finite height and width above 0"
            faults.append(Fault("no size", row, message))
        images.append(RawImage(image_id, folder / name, path, height, width))
    return images, row_by_id


def _coco_object_faults(entries: list[dict[str, Any]], objects: RawObjects, path: Path) -> list[Fault]:
    faults = []
    for place in np.flatnonzero(objects.rows < 0).tolist():
        image_id = entries[place].get("image_id")
        message = f"{path}: annotation {_name(entries[place], place)}: there is no image {shown(image_id)}"
        faults.append(Fault("unknown image", UNKNOWN, message))
    for place in np.flatnonzero((objects.names < 0) & (objects.rows >= 0)).tolist():
        category_id = entries[place].get("category_id")
        message = f"{path}: annotation {_name(entries[place], place)}: there is no category {shown(category_id)}"
        faults.append(Fault("unknown category", int(objects.rows[place]), message))
    ids = [each["id"] for each in entries if isinstance(each.get("id"), int | str)]
    for annotation_id in _repeated(ids):
        faults.append(Fault("id twice", UNKNOWN, f"{path}: annotation id {annotation_id} is there twice"))
    return faults


def _name(entry: dict[str, Any], place: int) -> str:
    return shown(entry["id"]) if "id" in entry else f"number {place}"


def _repeated(values: Sequence) -> list:
    """Those that are there more than once, in order."""
    if len(set(values)) == len(values):
        return []
    counts: dict[Any, int] = {}
    for value in values:
        counts[value] = counts.get(value, 0) + 1
    return [value for value, count in counts.items() if count > 1]


def _side(value: Any) -> float:
    return int(value) if coco.is_size(value) else math.nan


def _joined(columns: list[np.ndarray], dtype: type) -> np.ndarray:
    return np.concatenate(columns).astype(dtype) if columns else np.zeros(0, dtype)
