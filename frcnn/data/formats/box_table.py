"""Tables of boxes in CSV files: a row per box, or per image without objects."""

import csv
import math
from array import array
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from frcnn.data.formats.columns import image_sizes
from frcnn.data.formats.raw import UNKNOWN, Changes, Fault, RawAnnotation, RawImage, RawObjects, is_size, side
from frcnn.data.images import image_size
from frcnn.errors import DataError
from frcnn.files.limits import TABLE_BYTES
from frcnn.files.reading import shown, size_of

DELIMITERS = (",", ";", "\t")
SET = ("1", "1.0", "true", "yes")
"""Values of a flag that is set, in lower case. All other values are not set."""


class Columns(NamedTuple):
    """Positions of the columns."""

    names: list[str]
    """Names of all columns."""
    has_header: bool
    image: int
    label: int
    box: tuple[int, int, int, int]
    has_sides: bool = False
    """Whether the last two numbers of a box are its width and height. Otherwise they are the far edges."""
    size: tuple[int, int] | None = None
    """Height and width of the image."""
    crowd: int | None = None
    difficult: int | None = None


class Table(NamedTuple):
    """A table as written. Images and labels are in the order of their first rows."""

    path: Path
    delimiter: str
    columns: Columns
    images: list[str]
    image_lines: list[int]
    """First line of each image, from 1."""
    sizes: dict[int, tuple[float, float]]
    """(height, width) of the images whose first row has a valid size."""
    labels: list[str]
    """The different labels."""
    rows: np.ndarray
    """(m,) int64 image of each box."""
    lines: np.ndarray
    """(m,) int64 line of each box, from 1."""
    numbers: np.ndarray
    """(m,) int64 index into `labels`."""
    written: np.ndarray
    """(m, 4) float64; NaN if a field is not a number."""
    is_crowd: np.ndarray
    is_difficult: np.ndarray
    faults: list[Fault]
    """The rows that cannot be used."""


def read_rows(path: Path, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Line number, from 1, and fields without surrounding spaces of each row that is not blank.

    Raises:
        DataError: the file is missing, larger than the limit, not UTF-8, or not CSV.
    """
    line = 0
    try:
        TABLE_BYTES.check(size_of(path), path, error=DataError)
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, delimiter=delimiter)
            for row in reader:
                line, fields = reader.line_num, [field.strip() for field in row]
                if len(fields) > 1 or any(fields):
                    yield line, fields
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except OSError as error:
        raise DataError(f"{path}: cannot read the file: {error.strerror}") from None
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not a CSV file in UTF-8, near line {line + 1}: {error}") from None


def find_delimiter(path: Path) -> tuple[str, list[str]]:
    """The delimiter that splits the first row into the most fields, and these fields. DataError for an empty file."""
    first = {delimiter: next(read_rows(path, delimiter), (0, []))[1] for delimiter in DELIMITERS}
    delimiter = max(DELIMITERS, key=lambda each: len(first[each]))
    if not first[delimiter]:
        raise DataError(f"{path}: the file has no rows")
    return delimiter, first[delimiter]


def find_columns(header: Sequence[str], aliases: Mapping[str, Sequence[str]], *, path: Path) -> Columns:
    """Find the columns of a header, in any order, in upper or lower case.

    `width` and `height` are the sides of the box if no other columns give its far edges or sides. Otherwise they are
    the size of the image.

    Args:
        aliases: names in lower case of "image", "class", "x1", "y1", "x2", "y2", and optionally of "w", "h", "width",
            "height", "image_width", "image_height", "ignore" and "difficult".

    Raises:
        DataError: a column is missing, or several have the same meaning.
    """
    plain = [name.lower().replace(" ", "_") for name in header]
    found = {role: [place for place, name in enumerate(plain) if name in names] for role, names in aliases.items()}
    at = {role: places[0] for role, places in found.items() if places}
    pairs = [pair for pair in (("x2", "y2"), ("w", "h"), ("width", "height")) if pair[0] in aliases]
    far = next((pair for pair in pairs if pair[0] in at or pair[1] in at), pairs[0])
    faults = [f"no column for {role}" for role in ("image", "class", "x1", "y1", *far) if role not in at]
    faults += [
        f"several columns for {role} ({', '.join(shown(header[place]) for place in places)})"
        for role, places in found.items()
        if len(places) > 1
    ]
    if faults:
        needed = [
            _listed(("image", "class", "x1", "y1"), aliases),
            " or ".join(_listed(pair, aliases) for pair in pairs),
        ]
        raise DataError(
            f"{path}: cannot identify the columns: {', '.join(faults)}. Found: {', '.join(map(shown, header[:40]))}. "
            f"Needed, one column each: {', '.join(needed)}"
        )
    sizes = [("image_height", "image_width"), ("height", "width")]
    size = next((pair for pair in sizes if pair[0] in at and pair[1] in at and pair[0] not in far), None)
    return Columns(
        names=list(header),
        has_header=True,
        image=at["image"],
        label=at["class"],
        box=(at["x1"], at["y1"], at[far[0]], at[far[1]]),
        has_sides=far != ("x2", "y2"),
        size=None if size is None else (at[size[0]], at[size[1]]),
        crowd=at.get("ignore"),
        difficult=at.get("difficult"),
    )


def _listed(roles: Sequence[str], aliases: Mapping[str, Sequence[str]]) -> str:
    return ", ".join(f"{role} ({'|'.join(aliases[role])})" for role in roles)


def read_table(path: Path, delimiter: str, columns: Columns) -> Table:
    """Read all rows. A row with an image and without a class and a box is an image without objects.

    A row with another number of fields than the first one, without an image, or with a box and no class becomes a
    `Fault`.

    Raises:
        DataError: see `read_rows`.
    """
    images: dict[str, int] = {}
    labels: dict[str, int] = {}
    image_lines: list[int] = []
    sizes: dict[int, tuple[float, float]] = {}
    faults: list[Fault] = []
    rows, lines, numbers, written = array("q"), array("q"), array("q"), array("d")
    flags = {place: array("b") for place in (columns.crowd, columns.difficult) if place is not None}
    lines_and_fields = read_rows(path, delimiter)
    if columns.has_header:
        next(lines_and_fields, None)
    for line, fields in lines_and_fields:
        if len(fields) != len(columns.names):
            message = f"{path}: line {line}: {len(fields)} fields instead of {len(columns.names)}"
            faults.append(Fault("unreadable", UNKNOWN, message))
            continue
        name, label = fields[columns.image], fields[columns.label]
        box = [fields[place] for place in columns.box]
        if not name or (not label and any(box)):
            message = f"{path}: line {line}: {'no class' if name else 'no image'}"
            faults.append(Fault("unreadable", UNKNOWN, message))
            continue
        row = images.setdefault(name, len(images))
        if row == len(image_lines):
            image_lines.append(line)
            if columns.size is not None:
                height, width = (_number(fields[place]) for place in columns.size)
                if is_size(height) and is_size(width):
                    sizes[row] = side(height), side(width)
        if not label:
            continue
        rows.append(row)
        lines.append(line)
        numbers.append(labels.setdefault(label, len(labels)))
        written.extend(map(_number, box))
        for place, values in flags.items():
            values.append(fields[place].lower() in SET)
    no_flags = np.zeros(len(rows), bool)
    return Table(
        path=path,
        delimiter=delimiter,
        columns=columns,
        images=list(images),
        image_lines=image_lines,
        sizes=sizes,
        labels=list(labels),
        rows=np.array(rows, np.int64),
        lines=np.array(lines, np.int64),
        numbers=np.array(numbers, np.int64),
        written=np.array(written, np.float64).reshape(-1, 4),
        is_crowd=no_flags if columns.crowd is None else np.array(flags[columns.crowd], bool),
        is_difficult=no_flags if columns.difficult is None else np.array(flags[columns.difficult], bool),
        faults=faults,
    )


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


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
