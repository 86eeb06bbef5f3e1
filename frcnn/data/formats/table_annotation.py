"""From a table of boxes to annotations, and back to a cleaned copy of the table."""

import csv
import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from frcnn.data.formats.box_table import Columns, Table, read_rows
from frcnn.data.formats.columns import image_sizes
from frcnn.data.formats.raw import UNKNOWN, Changes, Fault, RawAnnotation, RawImage, RawObjects
from frcnn.data.images import image_size
from frcnn.errors import DataError
from frcnn.files.reading import shown


def to_annotation(
    table: Table,
    *,
    format: str,
    origin_key: str,
    folder: Path,
    paths: Sequence[Path | None],
    class_names: Sequence[str],
    name_by_label: Mapping[str, str],
    category_ids: Sequence[int] = (),
    is_declared: bool = False,
    is_normalized: bool = False,
    names_in_copy: Sequence[str],
    notes: Sequence[str] = (),
) -> RawAnnotation:
    """The annotations of a table. Sizes of images that the table does not have are read from the files.

    An image without a readable file and an object with an unknown label become a `Fault` that names the line.

    Args:
        format: name of the format.
        origin_key: config key of the table.
        folder: folder of the images.
        paths: file of each image of the table, None if there is none.
        class_names: class names in order.
        name_by_label: class name of each known label.
        category_ids: ids of `class_names`; empty if there are none.
        is_declared: whether `class_names` come from a file that declares them.
        is_normalized: whether boxes are shares of the image, 0..1. Otherwise they are pixels with continuous edges.
        names_in_copy: name of each image in a cleaned copy of the table.
        notes: see `RawAnnotation.notes`.
    """
    faults = list(table.faults)
    images = _find_images(table, folder, paths, faults)
    index = {name: place for place, name in enumerate(class_names)}
    by_label = [index.get(name_by_label.get(label, ""), UNKNOWN) for label in table.labels]
    names = np.array(by_label, np.int64)[table.numbers]
    for number in np.flatnonzero(names < 0).tolist():
        label = shown(table.labels[int(table.numbers[number])])
        message = f"{table.path}: line {table.lines[number]}: unknown class {label}"
        faults.append(Fault("unknown category", int(table.rows[number]), message))
    boxes = table.written.copy()
    with np.errstate(over="ignore", invalid="ignore"):  # infinite and huge numbers are not boxes
        if table.columns.has_sides:
            boxes[:, 2:] += boxes[:, :2]
        raw = RawAnnotation(
            name=f"{format} {table.path.name}",
            format=format,
            images=images,
            objects=RawObjects(
                rows=table.rows,
                positions=table.lines - 1,
                boxes=boxes,
                sides=boxes[:, 2:] - boxes[:, :2],
                written=table.written,
                names=names,
                areas=np.full(len(boxes), math.nan),
                is_crowd=table.is_crowd,
                is_difficult=table.is_difficult,
                ids=[],
            ),
            names=list(class_names),
            category_ids=list(category_ids),
            is_declared=is_declared,
            faults=faults,
            origin=table.path,
            origin_key=origin_key,
            box_keys=_box_keys(table.columns),
            object_word="line",
            notes=tuple(notes),
        )
        if is_normalized:
            scale = _scale(raw)[table.rows]
            raw = raw._replace(
                objects=raw.objects._replace(boxes=boxes * scale, sides=raw.objects.sides * scale[:, :2])
            )
    write = partial(
        _write_copy,
        table=table,
        image_names=names_in_copy,
        label_by_name={name: label for label, name in name_by_label.items()},
        is_normalized=is_normalized,
    )
    return raw._replace(write_copy=write)


def _box_keys(columns: Columns) -> tuple[str, str, str, str]:
    x1, y1, x2, y2 = (columns.names[place] for place in columns.box)
    return x1, y1, x2, y2


def _scale(raw: RawAnnotation) -> np.ndarray:
    """Width, height, width, height of each image, float64 (number of images, 4); 1 if unknown."""
    return np.nan_to_num(image_sizes(raw), nan=1)[:, [0, 1, 0, 1]]


def _find_images(table: Table, folder: Path, paths: Sequence[Path | None], faults: list[Fault]) -> list[RawImage]:
    images = []
    for row, (name, path) in enumerate(zip(table.images, paths, strict=True)):
        try:
            if path is None:
                raise DataError(f"no image {shown(name)} in {folder}")
            height, width = table.sizes.get(row) or image_size(path)
        except DataError as error:
            faults.append(Fault("unreadable", row, f"{table.path}: line {table.image_lines[row]}: {error}"))
            path, height, width = None, math.nan, math.nan
        images.append(RawImage(name, path, table.path, height, width))
    return images


def _write_copy(
    changes: Sequence[Changes],
    out: Path,
    *,
    table: Table,
    image_names: Sequence[str],
    label_by_name: Mapping[str, str],
    is_normalized: bool,
) -> list[str]:
    """Write a changed copy of a table with the same columns, see `RawAnnotation.write_copy`.

    Rows that cannot be used are skipped. Images without objects are at the end.

    Raises:
        DataError: the file changed since it was read.
        OSError: it cannot be written.
    """
    change, columns = changes[0], table.columns
    number_by_line = {line: number for number, line in enumerate(table.lines.tolist())}
    empty_rows = {row for row in range(len(table.images)) if row not in change.dropped_images}
    scale = _scale(change.raw)
    with out.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter=table.delimiter, lineterminator="\n")
        if columns.has_header:
            writer.writerow(columns.names)
        for line, fields in read_rows(table.path, table.delimiter):
            number = number_by_line.get(line)
            if number is None:
                continue
            row = int(table.rows[number])
            if len(fields) != len(columns.names) or fields[columns.image] != table.images[row]:
                raise DataError(f"{table.path}: the file changed during the check; run the check again")
            if number in change.dropped_objects or row in change.dropped_images:
                continue
            empty_rows.discard(row)
            fields[columns.image] = image_names[row]
            if number in change.names:
                fields[columns.label] = label_by_name[change.names[number]]
            if number in change.boxes:
                box = np.array(change.boxes[number]) / (scale[row] if is_normalized else 1)
                if columns.has_sides:
                    box[2:] -= box[:2]
                for place, value in zip(columns.box, box.tolist(), strict=True):
                    fields[place] = f"{value:.10g}"
            writer.writerow(fields)
        for row in sorted(empty_rows):
            fields = [""] * len(columns.names)
            fields[columns.image] = image_names[row]
            writer.writerow(fields)
    if any(name.startswith("../") for name in image_names):
        return [f"first move {out} to {table.path.parent}, because some of its images are not in the image folder"]
    return []
