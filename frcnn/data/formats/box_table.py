"""Tables of boxes in CSV files: a row per box, or per image without objects."""

import csv
import math
from array import array
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from frcnn.data.formats.raw import UNKNOWN, Fault, is_size, side
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
