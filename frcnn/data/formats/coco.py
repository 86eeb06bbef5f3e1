"""The COCO format: one instances file and a folder of images."""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from frcnn.data.formats.raw import UNKNOWN, Changes, Fault, RawAnnotation, RawImage, RawObjects, repeated, side
from frcnn.errors import DataError
from frcnn.files.reading import path_inside, read_json, shown

Found = TypeVar("Found")

NOT_INSIDE = "leads out of the image folder; it must be relative to that folder"


def read_coco(images: Path, annotations: Path) -> RawAnnotation:
    """Parse an instances file.

    Images keep the order of the file. Class names are in ascending order of the category ids, which may have gaps.
    COCO has 860,000 annotations, so they are read into columns.

    Args:
        images: folder of the images.
        annotations: the JSON file.

    Raises:
        DataError: the folder, the file or one of its lists is missing, the JSON is broken, or a category has no id or
            name.
    """
    if not images.is_dir():
        raise DataError(f"{images}: no such folder (the images of {annotations})")
    document = read_document(annotations)
    name_by_id = read_categories(document, annotations)
    faults: list[Fault] = []
    raw_images, row_by_id = _read_images(read_entries(document, "images", annotations), images, annotations, faults)
    entries = read_entries(document, "annotations", annotations)
    ids = {category_id: index for index, category_id in enumerate(name_by_id)}
    written = read_boxes(entries)
    objects = RawObjects(
        rows=np.array([find(row_by_id, each.get("image_id"), UNKNOWN) for each in entries], np.int64),
        positions=np.arange(len(entries)),
        boxes=np.concatenate([written[:, :2], written[:, :2] + written[:, 2:]], axis=1),
        sides=written[:, 2:],
        written=written,
        names=np.array([find(ids, each.get("category_id"), UNKNOWN) for each in entries], np.int64),
        areas=np.array([_number(each.get("area")) for each in entries], np.float64),
        is_crowd=np.array([bool(each.get("iscrowd")) for each in entries], bool),
        is_difficult=np.zeros(len(entries), bool),
        ids=[each.get("id") for each in entries],
    )
    raw = RawAnnotation(
        name=f"coco {annotations.name}",
        format="coco",
        images=raw_images,
        objects=objects,
        names=list(name_by_id.values()),
        category_ids=list(name_by_id),
        is_declared=True,
        faults=faults,
        origin=annotations,
        origin_key="annotations",
        box_keys=("x", "y", "w", "h"),
        write_copy=write_copy,
    )
    faults += _object_faults(entries, raw)
    return raw


def read_document(path: Path) -> dict[str, Any]:
    """The content of an instances file; DataError if it is missing or not a JSON object."""
    try:
        document = read_json(path)
    except OSError as error:
        raise DataError(f"{path}: cannot read annotation file: {error.strerror}") from None
    if not isinstance(document, dict):
        raise DataError(f"{path}: not a COCO instances file: expected an object with images, annotations, categories")
    return document


def read_entries(document: dict[str, Any], key: str, path: Path) -> list[dict[str, Any]]:
    """One of the lists of a document. Its entries are JSON objects; nothing else is checked."""
    entries = document.get(key)
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise DataError(f"{path}: not a COCO instances file: the list `{key}` is missing or does not hold objects")
    return entries


def read_categories(document: dict[str, Any], path: Path) -> dict[int, str]:
    """Names by category id, in ascending order of the ids."""
    names: dict[int, str] = {}
    for entry in read_entries(document, "categories", path):
        category_id, name = entry.get("id"), entry.get("name")
        if not isinstance(category_id, int) or not isinstance(name, str):
            raise DataError(f"{path}: a category needs an integer id and a name: {shown(entry)}")
        if abs(category_id) >= 2**63:  # does not fit into an array
            raise DataError(f"{path}: the category id {shown(category_id)} of {shown(name)} has more than 64 bits")
        if category_id in names:
            raise DataError(f"{path}: category id {category_id} occurs twice: {names[category_id]} and {name}")
        names[category_id] = name
    return dict(sorted(names.items()))


def is_image_name(file_name: str) -> bool:
    """Whether a file name stays inside the image folder."""
    return path_inside(Path("images"), file_name) is not None


def _read_images(
    entries: list[dict[str, Any]], folder: Path, path: Path, faults: list[Fault]
) -> tuple[list[RawImage], dict[Any, int]]:
    """The images that have an id and a name, and the row of each id."""
    images: list[RawImage] = []
    row_by_id: dict[Any, int] = {}
    row_by_name: dict[str, int] = {}
    for entry in entries:
        image_id, name = entry.get("id"), entry.get("file_name")
        if not isinstance(image_id, int | str) or not isinstance(name, str):
            faults.append(Fault("unreadable", UNKNOWN, f"{path}: an image needs an id and a file_name: {shown(entry)}"))
            continue
        if image_id in row_by_id:
            message = f"{path}: image id {image_id} occurs twice, the second time for {name}"
            faults.append(Fault("listed twice", row_by_id[image_id], message))
            continue
        row = row_by_id[image_id] = len(images)
        if name in row_by_name:
            message = f"{path}: image {image_id} has the file {name} of another image"
            faults.append(Fault("file twice", row, message, is_problem=False))
        row_by_name.setdefault(name, row)
        height, width = side(entry.get("height")), side(entry.get("width"))
        if not is_image_name(name):
            message = f"{path}: image {image_id}: its file_name {shown(name)} {NOT_INSIDE}"
            faults.append(Fault("unreadable", row, message))
            images.append(RawImage(image_id, None, path, height, width))
            continue
        if math.isnan(height + width):
            message = f"{path}: image {image_id} ({name}) needs a finite height and width above 0"
            faults.append(Fault("no size", row, message))
        images.append(RawImage(image_id, folder / name, path, height, width))
    return images, row_by_id


def _object_faults(entries: list[dict[str, Any]], raw: RawAnnotation) -> list[Fault]:
    faults, objects = [], raw.objects
    for place in np.flatnonzero(objects.rows < 0).tolist():
        image_id = shown(entries[place].get("image_id"))
        message = f"{raw.origin}: {raw.object_name(place)}: there is no image {image_id}"
        faults.append(Fault("unknown image", UNKNOWN, message))
    for place in np.flatnonzero((objects.names < 0) & (objects.rows >= 0)).tolist():
        category_id = shown(entries[place].get("category_id"))
        message = f"{raw.origin}: {raw.object_name(place)}: there is no category {category_id}"
        faults.append(Fault("unknown category", int(objects.rows[place]), message))
    ids = [each["id"] for each in entries if isinstance(each.get("id"), int | str)]
    for annotation_id in repeated(ids):
        message = f"{raw.origin}: annotation id {annotation_id} occurs twice"
        faults.append(Fault("id twice", UNKNOWN, message, is_problem=False))
    return faults


def find(table: Mapping[Any, Found], key: Any, default: Found) -> Found:
    """The entry of an id; `default` for an unknown id or another type of value (a list cannot be looked up)."""
    return table.get(key, default) if isinstance(key, int | float | str) else default


def read_boxes(entries: list[dict[str, Any]]) -> np.ndarray:
    """(m, 4) float64 x, y, width, height as written; NaN if an annotation has anything but four numbers."""
    written = [entry.get("bbox") for entry in entries]
    try:
        return np.array(written, np.float64).reshape(len(entries), 4)
    except (TypeError, ValueError, OverflowError):
        boxes = np.full((len(entries), 4), np.nan)
        for row, box in enumerate(written):
            if isinstance(box, list) and len(box) == 4:
                boxes[row] = [_number(value) for value in box]
        return boxes


def _number(value: Any) -> float:
    """NaN if the value is not a number or does not fit into a float."""
    try:
        return float(value) if isinstance(value, int | float) else np.nan
    except OverflowError:
        return np.nan


def write_copy(changes: Sequence[Changes], out: Path) -> list[str]:
    """Write a changed copy of an instances file, see `RawAnnotation.write_copy`.

    Everything else in the file stays. Missing and repeated annotation ids are replaced by new ones.

    Raises:
        DataError: the file is not the one that was read.
        OSError: it cannot be written.
    """
    change = changes[0]
    path = change.raw.origin
    assert path is not None
    document = read_document(path)
    kept = {image.image_id: row for row, image in enumerate(change.raw.images) if row not in change.dropped_images}
    images: dict[Any, dict[str, Any]] = {}
    for entry in read_entries(document, "images", path):
        row = find(kept, entry.get("id"), UNKNOWN)
        if row >= 0 and entry["id"] not in images:
            height, width = change.sizes.get(row, (entry.get("height"), entry.get("width")))
            images[entry["id"]] = entry | {"height": height, "width": width}
    entries = read_entries(document, "annotations", path)
    if len(entries) != len(change.raw.objects.rows):
        raise DataError(f"{path}: the file changed during the check; run the check again")
    annotations = [
        entry | _changed_box(change, number, entry)
        for number, entry in enumerate(entries)
        if number not in change.dropped_objects and find(kept, entry.get("image_id"), UNKNOWN) >= 0
    ]
    _replace_bad_ids(annotations)
    with out.open("w", encoding="utf-8") as file:
        json.dump(document | {"images": list(images.values()), "annotations": annotations}, file)
    return []


def _changed_box(change: Changes, number: int, entry: dict[str, Any]) -> dict[str, Any]:
    if number not in change.boxes:
        return {}
    x1, y1, x2, y2 = change.boxes[number]
    area = {} if entry.get("segmentation") else {"area": (x2 - x1) * (y2 - y1)}
    return {"bbox": [x1, y1, x2 - x1, y2 - y1], **area}


def _replace_bad_ids(annotations: list[dict[str, Any]]) -> None:
    """Replace repeated and missing ids by new ones above all others."""
    counts = Counter(entry["id"] for entry in annotations if isinstance(entry.get("id"), int | str))
    highest = max((each for each in counts if isinstance(each, int)), default=0)
    seen: set[int | str] = set()
    for entry in annotations:
        if not isinstance(entry.get("id"), int | str) or entry["id"] in seen:
            highest += 1
            entry["id"] = highest
        seen.add(entry["id"])
