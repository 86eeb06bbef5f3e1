"""The CSV format: one file with a row per box, and a folder of images."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from frcnn.data.formats.box_table import Columns, find_columns, find_delimiter, read_rows, read_table
from frcnn.data.formats.image_paths import find_paths
from frcnn.data.formats.raw import RawAnnotation
from frcnn.data.formats.table_annotation import to_annotation
from frcnn.errors import DataError
from frcnn.files.reading import shown

ALIASES = {
    "image": (
        *("filename", "file", "file_name", "image", "image_name", "img", "path", "image_path", "file_path", "filepath"),
        "image_id",
    ),
    "class": ("class", "label", "class_name", "name", "category", "category_name"),
    "x1": ("xmin", "x1", "left", "x_min", "x"),
    "y1": ("ymin", "y1", "top", "y_min", "y"),
    "x2": ("xmax", "x2", "right", "x_max"),
    "y2": ("ymax", "y2", "bottom", "y_max"),
    "w": ("w", "box_width", "bbox_width"),
    "h": ("h", "box_height", "bbox_height"),
    "width": ("width",),
    "height": ("height",),
    "image_width": ("image_width", "img_width"),
    "image_height": ("image_height", "img_height"),
    "ignore": ("ignore", "is_ignored", "iscrowd", "is_crowd", "crowd"),
    "difficult": ("difficult", "is_difficult"),
}
"""Names of the columns in lower case, see `find_columns`."""
RETINANET = Columns(["path", "x1", "y1", "x2", "y2", "class"], has_header=False, image=0, label=5, box=(1, 2, 3, 4))
"""The columns of keras-retinanet, which has no header."""


def read_csv(images: Path, annotations: Path, *, classes_file: Path | None = None) -> RawAnnotation:
    """Parse a CSV file with a header, or without one in the columns of keras-retinanet.

    A file has no header if its first row has six fields, and all or none of the four fields for the box are numbers or
    empty. The delimiter is a comma, a semicolon or a tab. Boxes are pixels with continuous edges: a box of the whole
    image is 0, 0, width, height.

    Args:
        images: folder of the images.
        annotations: the CSV file. Paths in it are relative to `images` or to its own folder.
        classes_file: CSV file with the rows name,id. None uses the names in the annotations, sorted.

    Raises:
        DataError: the folder or a file is missing or unreadable, the columns are not clear, or the boxes are not in
            pixels. An error in a single row is a `Fault`.
    """
    if not images.is_dir():
        raise DataError(f"{images}: no such folder (the images of {annotations})")
    delimiter, first = find_delimiter(annotations)
    columns = RETINANET if _is_retinanet(first) else find_columns(first, ALIASES, path=annotations)
    table = read_table(annotations, delimiter, columns)
    if len(table.written) and np.abs(table.written).max() <= 1:  # false if any is NaN
        raise DataError(f"{annotations}: all coordinates are between -1 and 1; boxes must be in pixels")
    found = find_paths(table.images, [images, annotations.parent])
    classes = None if classes_file is None else read_classes(classes_file)
    names = sorted(table.labels) if classes is None else list(classes)
    return to_annotation(
        table,
        format="csv",
        origin_key="annotations",
        folder=images,
        paths=found.paths,
        class_names=names,
        name_by_label={name: name for name in names},
        category_ids=[] if classes is None else list(classes.values()),
        is_declared=classes is not None,
        names_in_copy=[_name_in(images, path, name) for path, name in zip(found.paths, table.images, strict=True)],
        notes=_notes(annotations, delimiter, columns, found.num_repaired),
    )


def read_classes(path: Path) -> dict[str, int]:
    """Ids by name, in ascending order of the ids, from the rows name,id.

    Raises:
        DataError: the file cannot be read, a row is not a name and an integer, or a name or an id occurs twice.
    """
    ids: dict[str, int] = {}
    for line, fields in read_rows(path, find_delimiter(path)[0]):
        if len(fields) != 2 or not fields[1].isdecimal() or len(fields[1]) > 18:  # 64 bits
            raise DataError(f"{path}: line {line}: expected name,id with an integer id, found {shown(fields)}")
        name, number = fields[0], int(fields[1])
        if name in ids or number in ids.values():
            raise DataError(f"{path}: line {line}: the name or the id occurs twice: {shown(fields)}")
        ids[name] = number
    return dict(sorted(ids.items(), key=lambda item: item[1]))


def _is_retinanet(fields: Sequence[str]) -> bool:
    box = fields[1:5]
    return len(fields) == len(RETINANET.names) and (all(map(_is_number, box)) or not any(box))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _name_in(folder: Path, path: Path | None, name: str) -> str:
    """The path of a file relative to the image folder; the name as written if there is no file."""
    return name if path is None else Path(os.path.relpath(path, folder)).as_posix()


def _notes(path: Path, delimiter: str, columns: Columns, num_repaired: int) -> list[str]:
    label = {",": "commas", ";": "semicolons", "\t": "tabs"}[delimiter]
    box = " ".join(columns.names[place] for place in columns.box)
    kind = "a header" if columns.has_header else "no header"
    image, name = columns.names[columns.image], columns.names[columns.label]
    notes = [f"csv {path.name}: {kind}, {label}; image {image}, class {name}, box {box}"]
    if num_repaired:
        notes.append(
            f"csv {path.name}: {num_repaired} path(s) do not exist and were replaced by the only file of that name"
        )
    return notes
