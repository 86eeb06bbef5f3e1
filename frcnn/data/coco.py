"""Data sets with one COCO instances file."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np

from frcnn.data.dataset import DetectionDataset, check_class_names
from frcnn.data.problems import ErrorPolicy
from frcnn.errors import DataError
from frcnn.limits import IMAGE_SIDE
from frcnn.reading import path_inside, read_json, shown
from frcnn.records import ImageRecord

Found = TypeVar("Found")

UNKNOWN = -1
LEFT_OUT = -2
NOT_INSIDE = "leads out of the folder of the images; it must be relative to that folder"


class CocoDataset(DetectionDataset):
    """Images of a COCO file in the file's order, those without objects too.

    Labels 1..K follow the category ids in ascending order, whatever their gaps, or `class_names` where given. Crowds
    are ignore regions, or left out. Boxes are clipped to the image; `area` is used as annotated, else it is
    width * height.

    Reported to `problems` and left out: images without id, name or size, with a name that leads out of `images`, or
    with an id already taken; annotations of an unknown image or category, or whose box is not finite or has no area
    in the image. A category that `class_names` does not hold is reported once, and all its annotations are left out.
    """

    def __init__(
        self,
        *,
        images: Path,
        annotations: Path,
        problems: ErrorPolicy,
        class_names: Sequence[str] | None = None,
        crowd: Literal["ignore", "drop"] = "ignore",
    ) -> None:
        """
        Args:
            images: folder that `file_name` is relative to.
            annotations: the instances JSON.
            class_names: label order; each must be a category of the file, or "N/A 12" for an id that COCO leaves out
                but a network has an output for. None takes every category.
            crowd: crowds become ignore regions or are left out.

        Raises:
            DataError: a missing folder or file, broken JSON, a list that is not there, a class that is no category.
        """
        if not images.is_dir():
            raise DataError(f"{images}: no such folder (images of {annotations})")
        document = read_document(annotations)
        name_by_id = read_categories(document, annotations)
        check_class_names(list(name_by_id.values()), source=str(annotations))
        if class_names is None:
            class_names = list(name_by_id.values())
        id_by_name = _unused_ids(class_names) | {name: category_id for category_id, name in name_by_id.items()}
        missing = [name for name in class_names if name not in id_by_name]
        if missing:
            raise DataError(f"{annotations}: no category is named {', '.join(missing)}; it has {', '.join(id_by_name)}")
        category_ids = [id_by_name[name] for name in class_names]

        image_entries, row_by_id = _usable_images(read_entries(document, "images", annotations), annotations, problems)
        sizes = np.array([(entry["height"], entry["width"]) for entry in image_entries]).reshape(-1, 2)
        objects = _usable_objects(
            read_entries(document, "annotations", annotations),
            row_by_id=row_by_id,
            sizes=sizes,
            label_by_id={category_id: label for label, category_id in enumerate(category_ids, start=1)},
            name_by_id=name_by_id,
            path=annotations,
            problems=problems,
        )
        if crowd == "drop":
            objects = _Objects(*(field[~objects.is_crowd] for field in objects))
        super().__init__(
            name=f"coco {annotations.name}",
            class_names=class_names,
            category_ids=category_ids,
            records=_records(image_entries, objects, folder=images),
            problems=problems,
        )


def read_class_names(annotations: Path) -> tuple[str, ...]:
    """Category names of a COCO file in the order of their ids."""
    return tuple(read_categories(read_document(annotations), annotations).values())


def read_document(path: Path) -> dict[str, Any]:
    """The content of an instances file; DataError where it is missing or no JSON object."""
    try:
        document = read_json(path)
    except OSError as error:
        raise DataError(f"{path}: cannot read annotation file: {error.strerror}") from None
    if not isinstance(document, dict):
        raise DataError(f"{path}: not a COCO instances file: an object with images, annotations, categories is needed")
    return document


def read_entries(document: dict[str, Any], key: str, path: Path) -> list[dict[str, Any]]:
    """One of its lists, of which only is known that it holds objects."""
    entries = document.get(key)
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise DataError(f"{path}: not a COCO instances file: the list `{key}` is missing or holds no objects")
    return entries


def read_categories(document: dict[str, Any], path: Path) -> dict[int, str]:
    """Names by category id, in the order of the ids."""
    names: dict[int, str] = {}
    for entry in read_entries(document, "categories", path):
        category_id, name = entry.get("id"), entry.get("name")
        if not isinstance(category_id, int) or not isinstance(name, str):
            raise DataError(f"{path}: a category needs an integer id and a name: {shown(entry)}")
        if abs(category_id) >= 2**63:  # no array holds it
            raise DataError(f"{path}: the category id {shown(category_id)} of {shown(name)} has more than 64 bits")
        if category_id in names:
            raise DataError(f"{path}: category id {category_id} is there twice: {names[category_id]} and {name}")
        names[category_id] = name
    return dict(sorted(names.items()))


def _usable_images(
    entries: list[dict[str, Any]], path: Path, problems: ErrorPolicy
) -> tuple[list[dict[str, Any]], dict[Any, int]]:
    """Image entries that can be used, and the row of each image id among them (LEFT_OUT for the others)."""
    usable: list[dict[str, Any]] = []
    row_by_id: dict[Any, int] = {}
    for entry in entries:
        image_id = entry.get("id")
        if not isinstance(image_id, int | str) or not isinstance(entry.get("file_name"), str):
            problems.report(f"{path}: an image needs an id and a file_name: {shown(entry)}")
        elif image_id in row_by_id:
            problems.report(f"{path}: image id {image_id} is there twice, again for {entry['file_name']}")
        elif not is_image_name(entry["file_name"]):
            problems.report(f"{path}: image {image_id}: its file_name {shown(entry['file_name'])} {NOT_INSIDE}")
            row_by_id[image_id] = LEFT_OUT
        elif not (is_size(entry.get("height")) and is_size(entry.get("width"))):
            problems.report(f"{path}: image {image_id} ({entry['file_name']}) needs a finite height and width above 0")
            row_by_id[image_id] = LEFT_OUT
        else:
            row_by_id[image_id] = len(usable)
            usable.append(entry)
    return usable, row_by_id


def is_size(value: Any) -> bool:
    """Whether it can be the height or width of an image."""
    return isinstance(value, int | float) and 1 <= value <= IMAGE_SIDE


def is_image_name(file_name: str) -> bool:
    """Whether it stays in the folder of the images, whichever that is."""
    return path_inside(Path("images"), file_name) is not None


class _Objects(NamedTuple):
    """Columns of all m usable annotations, image after image."""

    rows: np.ndarray
    """(m,) int64 position of the image, ascending."""
    boxes: np.ndarray
    """(m, 4) float32 xyxy, clipped."""
    labels: np.ndarray
    areas: np.ndarray
    is_crowd: np.ndarray


def _usable_objects(
    entries: list[dict[str, Any]],
    *,
    row_by_id: Mapping[Any, int],
    sizes: np.ndarray,
    label_by_id: Mapping[Any, int],
    name_by_id: Mapping[Any, str],
    path: Path,
    problems: ErrorPolicy,
) -> _Objects:
    """Columns of all annotations at once: COCO has 860,000, of which Python looks only at those with a problem."""
    rows = np.array([find(row_by_id, entry.get("image_id"), UNKNOWN) for entry in entries], np.int64)
    labels = np.array([find(label_by_id, entry.get("category_id"), 0) for entry in entries], np.int64)
    is_crowd = np.array([bool(entry.get("iscrowd")) for entry in entries], bool)
    boxes = read_boxes(entries)
    boxes[~np.isfinite(boxes).all(axis=1)] = np.nan
    boxes[:, 2:] += boxes[:, :2]  # xywh -> xyxy
    heights_and_widths = sizes[rows.clip(0)] if len(sizes) else np.zeros((len(rows), 2))
    boxes = boxes.clip(0, heights_and_widths[:, [1, 0, 1, 0]]).astype(np.float32)
    widths, heights = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    has_area = (widths > 0) & (heights > 0)  # False for NaN too
    areas = np.array([_number(entry.get("area")) for entry in entries], np.float64)
    areas = np.where(np.isfinite(areas), areas, widths.astype(np.float64) * heights)

    is_usable = (rows >= 0) & (labels > 0) & has_area
    for position in np.flatnonzero(~is_usable & (rows != LEFT_OUT)).tolist():
        entry = entries[position]
        image_id, category_id = entry.get("image_id"), entry.get("category_id")
        own_name = shown(entry["id"]) if "id" in entry else f"number {position}"
        subject = f"{path}: annotation {own_name} of image {shown(image_id)}"
        if rows[position] == UNKNOWN:
            problems.report(f"{subject}: there is no image of this id")
        elif not find(name_by_id, category_id, ""):
            problems.report(f"{subject}: there is no category {shown(category_id)}")
        elif labels[position] == 0:
            name = f"category {name_by_id[category_id]!r} (id {category_id})"
            problems.report(f"{path}: {name} is annotated but not in data.classes")
        else:
            name, box = name_by_id[category_id], entry.get("bbox")
            problems.report(f"{subject} ({name}): box without area in the image: {shown(box)} (x, y, w, h)")

    kept = np.flatnonzero(is_usable)
    kept = kept[np.argsort(rows[kept], kind="stable")]
    return _Objects(rows[kept], boxes[kept], labels[kept], areas[kept], is_crowd[kept])


def find(table: Mapping[Any, Found], key: Any, default: Found) -> Found:
    """The entry of an id; `default` for one that is unknown or no id at all (a list could not even be looked up)."""
    return table.get(key, default) if isinstance(key, int | float | str) else default


def _unused_ids(class_names: Sequence[str]) -> dict[str, int]:
    """The ids in the names of classes that stand for none, such as "N/A 12"."""
    found = [(name, re.fullmatch(r"N/A (\d+)", name)) for name in class_names]
    return {name: int(match[1]) for name, match in found if match}


def read_boxes(entries: list[dict[str, Any]]) -> np.ndarray:
    """(m, 4) float64 as written, x, y, width, height; NaN where an annotation holds anything but four numbers."""
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
    """NaN where it is no number, or one beyond what a float holds."""
    try:
        return float(value) if isinstance(value, int | float) else np.nan
    except OverflowError:
        return np.nan


def _records(entries: list[dict[str, Any]], objects: _Objects, *, folder: Path) -> list[ImageRecord]:
    bounds = np.searchsorted(objects.rows, np.arange(len(entries) + 1)).tolist()
    is_difficult = np.zeros(len(objects.rows), bool)
    records = []
    for row, entry in enumerate(entries):
        own = slice(bounds[row], bounds[row + 1])
        records.append(
            ImageRecord(
                image_id=entry["id"],
                path=folder / entry["file_name"],
                height=int(entry["height"]),
                width=int(entry["width"]),
                boxes=objects.boxes[own],
                labels=objects.labels[own],
                areas=objects.areas[own],
                is_crowd=objects.is_crowd[own],
                is_difficult=is_difficult[own],
                is_ignored=objects.is_crowd[own],
            )
        )
    return records
