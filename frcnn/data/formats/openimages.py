"""The OpenImages format: CSV files of boxes and classes, and a folder of images."""

from pathlib import Path

from frcnn.data.formats.box_table import find_columns, find_delimiter, read_rows, read_table
from frcnn.data.formats.image_paths import images_by_stem
from frcnn.data.formats.raw import RawAnnotation
from frcnn.data.formats.table_annotation import to_annotation
from frcnn.errors import DataError
from frcnn.files.reading import shown

ALIASES = {
    "image": ("imageid",),
    "class": ("labelname",),
    "x1": ("xmin",),
    "y1": ("ymin",),
    "x2": ("xmax",),
    "y2": ("ymax",),
    "ignore": ("isgroupof",),
}
"""Names of the columns in lower case, see `find_columns`. The other columns are not used."""


def read_openimages(images: Path, boxes: Path, classes: Path) -> RawAnnotation:
    """Parse the boxes of all images that the file of boxes lists.

    Images of the folder that the file does not list are not used, because they may have objects that nobody annotated.
    An image that is listed and not in the folder is a `Fault`. Boxes with IsGroupOf are crowds. The classes are the
    display names that occur, sorted: the file of classes may have thousands of others.

    Args:
        images: folder of the files ImageID.jpg. Other suffixes of images are found as well.
        boxes: CSV file with the columns ImageID, LabelName, XMin, XMax, YMin, YMax (0..1) and optionally IsGroupOf.
        classes: CSV file with the rows id,name, such as /m/01yrx,Cat. A header is one more row, which has no effect.

    Raises:
        DataError: the folder or a file is missing or unreadable, or a column is missing. An error in a single row is a
            `Fault`.
    """
    if not images.is_dir():
        raise DataError(f"{images}: no such folder (the images of {boxes})")
    delimiter, first = find_delimiter(boxes)
    table = read_table(boxes, delimiter, find_columns(first, ALIASES, path=boxes))
    display_names = read_display_names(classes)
    name_by_label = {label: display_names[label] for label in table.labels if label in display_names}
    paths = images_by_stem(images)
    num_unlisted = len(paths.keys() - set(table.images))
    note = f"openimages {boxes.name}: {num_unlisted} image(s) of {images} are not listed and not used"
    return to_annotation(
        table,
        format="openimages",
        origin_key="boxes",
        folder=images,
        paths=[paths.get(name) for name in table.images],
        class_names=sorted(set(name_by_label.values())),
        name_by_label=name_by_label,
        is_normalized=True,
        names_in_copy=table.images,
        notes=[note] if num_unlisted else [],
    )


def read_display_names(path: Path) -> dict[str, str]:
    """Display names of classes by id.

    Raises:
        DataError: the file cannot be read, a row is not an id and a name, or an id occurs twice.
    """
    names: dict[str, str] = {}
    for line, fields in read_rows(path, ","):
        if len(fields) != 2 or not all(fields) or fields[0] in names:
            raise DataError(f"{path}: line {line}: expected id,name with a new id, found {shown(fields)}")
        names[fields[0]] = fields[1]
    return names
