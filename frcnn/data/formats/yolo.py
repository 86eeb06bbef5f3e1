"""The YOLO format in the layouts of Ultralytics: one label file per image, with or without a data.yaml.

A row of a label file is `class cx cy w h` (a box) or `class x1 y1 x2 y2 x3 y3 ...` (a polygon). Classes count from 0.
Coordinates are fractions of the width and height of the upright image.
"""

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from frcnn.data.formats.raw import UNKNOWN, Changes, Fault, RawAnnotation, RawImage, RawObjects
from frcnn.data.formats.yolo_layout import Part, find_part
from frcnn.data.images import image_size
from frcnn.errors import DataError
from frcnn.files import yaml_text
from frcnn.files.limits import IMAGE_SIDE, LABEL_BYTES
from frcnn.files.reading import read_text, shown

TOLERANCE = 0.01
"""How far coordinates may lie outside 0..1. Such boxes are clipped. Coordinates in pixels lie far outside."""
LEAST_AREA = 1e-12
"""A polygon with less area, as a fraction of the image, is a line. Rounding errors are about 1e-16."""
ROWS = "expected class cx cy w h, or class and the x y of at least 3 points"


def read_yolo(root: Path | None, data: Path | None = None, *, split: str | None = None) -> RawAnnotation:
    """Parse the label files of one split.

    1. Find the images: the entry of the split in data.yaml (a folder, a list of folders, or a .txt list of images), or
       else the folder images/SPLIT, SPLIT/images or SPLIT. Without a split: the folder images, or `root` itself.
    2. Find the class names: in data.yaml, or else in classes.txt. Otherwise the class numbers are the names.
    3. Read the size of each image from its header, and its label file. An image without label file has no objects.

    Args:
        root: folder of the dataset. A data.yaml in it is read.
        data: path of a data.yaml, if `root` is None.
        split: train, val, test or another name. val and valid are equal.

    Raises:
        DataError: the folder, data.yaml, the split or a list is missing or cannot be used. An error in a single image
            or row is a `Fault`.
    """
    part = find_part(root, data, split)
    faults = list(part.faults)
    images: list[RawImage] = []
    rows: list[_Row] = []
    for path in part.paths:
        images.append(_read_image(path, part, len(images), rows, faults))
    for image_id, message in part.missing.items():
        faults.append(Fault("no image", len(images), message))
        images.append(RawImage(image_id, None, None, math.nan, math.nan))
    names, indices = part.names, [each.class_id for each in rows]
    if names is None:
        found = sorted(set(indices))
        index_by_id = {class_id: index for index, class_id in enumerate(found)}
        names, indices = [str(each) for each in found], [index_by_id[each] for each in indices]
    name = " ".join(["yolo", part.root.resolve().name, *([split] if split else [])])
    size = np.array([(images[each.image].width, images[each.image].height) for each in rows]).reshape(-1, 2)
    written = np.array([each.box for each in rows], np.float64).reshape(-1, 4)
    centers, sides = written[:, :2] * size, written[:, 2:] * size
    return RawAnnotation(
        name=name,
        format="yolo",
        images=images,
        objects=RawObjects(
            rows=np.array([each.image for each in rows], np.int64),
            positions=np.array([each.line for each in rows], np.int64),
            boxes=np.concatenate([centers - sides / 2, centers + sides / 2], axis=1),
            sides=sides,
            written=written,
            names=np.array([index if index < len(names) else UNKNOWN for index in indices], np.int64),
            areas=np.array([each.area for each in rows], np.float64) * size.prod(axis=1),
            is_crowd=np.zeros(len(rows), bool),
            is_difficult=np.zeros(len(rows), bool),
            ids=[],
        ),
        names=names,
        category_ids=[] if part.names is None else list(range(len(names))),
        is_declared=part.names is not None,
        faults=faults,
        origin=root if data is None else data,
        origin_key="root" if data is None else "data",
        part=split or "",
        box_keys=("cx", "cy", "w", "h"),
        object_word="line",
        notes=tuple(part.notes),
        write_copy=write_copy,
    )


class _Row(NamedTuple):
    """A row of a label file."""

    image: int
    """Position of the image."""
    line: int
    """From 0."""
    class_id: int
    box: Sequence[float]
    """Center, width and height as fractions of the image."""
    area: float
    """Area of a polygon as a fraction of the image; NaN for a box."""


def label_path(root: Path, image: Path) -> Path:
    """The label file of an image: the last folder `images` below `root` becomes `labels`, the suffix .txt."""
    *folders, name = image.relative_to(root).parts
    if "images" in folders:
        folders[len(folders) - 1 - folders[::-1].index("images")] = "labels"
    return root.joinpath(*folders, name).with_suffix(".txt")


def _read_image(path: Path, part: Part, row: int, rows: list[_Row], faults: list[Fault]) -> RawImage:
    """Read the header of image number `row`, and append the rows of its label file."""
    image_id, label = path.relative_to(part.root).as_posix(), label_path(part.root, path)
    try:
        height, width = image_size(path)
        if max(height, width) > IMAGE_SIDE:
            raise DataError(f"{path}: a side has more than {IMAGE_SIDE} pixels")
    except DataError as error:
        faults.append(Fault("no image", row, str(error)))
        return RawImage(image_id, path, None, math.nan, math.nan)
    try:
        lines = read_text(label, LABEL_BYTES, error=DataError).splitlines()
    except FileNotFoundError:
        return RawImage(image_id, path, None, height, width)
    except (DataError, OSError, ValueError) as error:
        message = str(error) if isinstance(error, DataError) else f"{label}: cannot be read: {error}"
        faults.append(Fault("unreadable", row, message))
        lines = []
    for line, text in enumerate(lines):
        fields = text.split()
        if not fields:
            continue
        try:
            class_id, box, area = _parse_row(fields)
        except ValueError as error:
            faults.append(Fault("bad line", row, f"{label}: line {line + 1}: {error}"))
            continue
        if part.names is not None and class_id >= len(part.names):
            known = f"the classes are 0..{len(part.names) - 1}"
            message = f"{label}: line {line + 1}: there is no class {shown(class_id)}; {known}"
            faults.append(Fault("unknown category", row, message))
        rows.append(_Row(row, line, class_id, box, area))
    return RawImage(image_id, path, label, height, width)


def _parse_row(fields: Sequence[str]) -> tuple[int, Sequence[float], float]:
    """Class, box and area of a row, see `_Row`. ValueError says what is wrong with it."""
    if len(fields) == 6:
        raise ValueError(f"6 fields, as in predictions with a confidence; {ROWS}")
    if len(fields) < 5 or len(fields) % 2 == 0:
        raise ValueError(f"{len(fields)} field(s); {ROWS}")
    numbers = [_number(field) for field in fields]
    class_id, values = numbers[0], numbers[1:]
    if class_id < 0 or not class_id.is_integer():
        raise ValueError(f"the class must be a whole number from 0, found {shown(fields[0])}")
    outside = next((value for value in values if not -TOLERANCE <= value <= 1 + TOLERANCE), None)
    if outside is not None:
        raise ValueError(f"{outside:g} is not in 0..1; coordinates are fractions of the width and height of the image")
    if len(values) == 4:
        return int(class_id), values, math.nan
    xs, ys = values[0::2], values[1::2]
    area = abs(sum(xs[i - 1] * ys[i] - xs[i] * ys[i - 1] for i in range(len(xs)))) / 2
    if area < LEAST_AREA:
        raise ValueError("the polygon has no area")
    x1, y1, x2, y2 = min(xs), min(ys), max(xs), max(ys)
    return int(class_id), ((x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1), area


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"not a number: {shown(text)}") from None


def write_copy(changes: Sequence[Changes], out: Path) -> list[str]:
    """Write a changed copy of a dataset with all its splits, see `RawAnnotation.write_copy`.

    Writes label files and links to the images at the same paths as in the dataset, and a list of images per split with
    a data.yaml. `out` is the folder, or the path of data.yaml if that is the origin; the folder is then beside it. An
    image of several splits is changed as in the first split that keeps it.

    Raises:
        DataError: a label file changed since the check.
        OSError: the copy cannot be written.
    """
    raw = changes[0].raw
    is_file = raw.origin_key == "data"
    root = out.with_suffix("") if is_file else out
    root.mkdir(parents=True, exist_ok=True)
    document: dict[str, Any] = {"path": root.name} if is_file else {}
    written: set[int | str] = set()
    is_linked = True
    for change in changes:
        images = change.raw.images
        numbers: dict[int, list[int]] = {}
        for number, row in enumerate(change.raw.objects.rows.tolist()):
            if number not in change.dropped_objects:
                numbers.setdefault(row, []).append(number)
        kept = [row for row in range(len(images)) if row not in change.dropped_images and images[row].path is not None]
        for row in kept:
            if images[row].image_id not in written:
                written.add(images[row].image_id)
                is_linked &= _copy_image(change, row, numbers.get(row, []), root)
        if change.raw.part:
            document[change.raw.part] = f"{change.raw.part.replace('/', '_')}.txt"
            listed = "".join(f"./{images[row].image_id}\n" for row in kept)
            (root / document[change.raw.part]).write_text(listed, encoding="utf-8")
    if raw.part:
        document |= {"names": raw.names} if raw.is_declared else {}
        (out if is_file else root / "data.yaml").write_text(yaml_text.write(document), encoding="utf-8")
    elif raw.is_declared:
        (root / "classes.txt").write_text("".join(f"{name}\n" for name in raw.names), encoding="utf-8")
    return [] if is_linked else [f"first copy the images of {raw.place} to the same paths below {root}"]


def _copy_image(change: Changes, row: int, numbers: Sequence[int], root: Path) -> bool:
    """Write the label file of an image with the objects `numbers`, and link the image. Returns whether it is linked."""
    image = change.raw.images[row]
    assert image.path is not None
    target = root / str(image.image_id)
    label = label_path(root, target)
    label.parent.mkdir(parents=True, exist_ok=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    if image.annotation is not None:
        lines = read_text(image.annotation, LABEL_BYTES, error=DataError).splitlines()
        positions = change.raw.objects.positions
        if any(positions[number] >= len(lines) for number in numbers):
            raise DataError(f"{image.annotation}: the file changed during the check; run the check again")
        texts = [_changed_row(change, number, image, lines[positions[number]]) for number in numbers]
        label.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    try:
        os.symlink(image.path.resolve(), target)
    except (OSError, NotImplementedError):
        return False
    return True


def _changed_row(change: Changes, number: int, image: RawImage, text: str) -> str:
    """A row with its new box. The points of a polygon are clipped to the image."""
    if number not in change.boxes:
        return text.strip()
    class_id, *fields = text.split()
    if len(fields) > 4:
        values = [min(max(float(field), 0), 1) for field in fields]
    else:
        x1, y1, x2, y2 = np.divide(change.boxes[number], (image.width, image.height) * 2).tolist()
        values = [(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1]
    return " ".join([class_id, *(f"{value:.10g}" for value in values)])
