"""Detections in the format of the VOC development kit: one text file per class, one detection per line.

    comp4_det_SPLIT_CLASS.txt         IMAGE_ID SCORE XMIN YMIN XMAX YMAX

Coordinates are those of the kit, 1-based and inclusive: xmin = x1 + 1, ymin = y1 + 1, xmax = x2, ymax = y2.
"""

import math
import os
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from frcnn.annotations import ImageDetections, ImageRecord
from frcnn.errors import DataError
from frcnn.files.limits import COORDINATE, JSON_BYTES
from frcnn.files.reading import read_text, shown
from frcnn.files.writing import replacing

COMPETITION = "comp4"
"""The VOC detection competition that allows other training images, such as ImageNet. comp3 allows VOC images only."""


def results_file_name(split: str, class_name: str) -> str:
    """The file name, such as comp4_det_test_car.txt. Characters that file names cannot have are escaped (%2F for /)."""
    return f"{COMPETITION}_det_{_file_name_part(split)}_{_file_name_part(class_name)}.txt"


def write_voc_results(
    folder: Path,
    records: Sequence[ImageRecord],
    detections: Sequence[ImageDetections],
    *,
    class_names: Sequence[str],
    split: str,
    far_shift: int = 0,
) -> None:
    """Write the detections of n images, in the order of `records`, to one file per class.

    Files of classes without detections are empty. All files are written before the first one is moved to its place, so
    that an error leaves the folder unchanged. Other files in the folder stay. Numbers are written with all digits, so
    that `read_voc_results` returns equal numbers and evaluation gives equal metrics.

    Args:
        class_names: K names; label k is class_names[k - 1].
        split: name of the image list, such as test.
        far_shift: 1 if the dataset subtracts 1 from all four coordinates of a VOC file, which makes x2 and y2 one less
            than the edges; else 0.

    Raises:
        DataError: a file cannot be written, or an image id does not fit into a line or occurs twice.
    """
    _position_by_id(records)
    lines: list[list[str]] = [[] for _ in class_names]
    for record, found in zip(records, detections, strict=True):
        boxes = _to_pixels(found.boxes, far_shift=far_shift)
        if not (np.isfinite(boxes).all() and np.isfinite(found.scores).all()):
            raise ValueError(f"detections of image {record.image_id} are not finite")
        for box, score, label in zip(boxes.tolist(), found.scores.tolist(), found.labels.tolist(), strict=True):
            lines[label - 1].append(f"{record.image_id} {' '.join(map(_show, [score, *box]))}\n")
    texts = {results_file_name(split, name): "".join(own) for name, own in zip(class_names, lines, strict=True)}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".voc_results_", dir=folder) as temporary:
            for name, text in texts.items():
                with replacing(Path(temporary, name)) as file:
                    file.write(text.encode())
            for name in texts:
                os.replace(Path(temporary, name), folder / name)
    except OSError as error:
        raise DataError(f"{folder}: cannot write the VOC results: {error.strerror or error}") from error


def read_voc_results(
    folder: Path, records: Sequence[ImageRecord], *, class_names: Sequence[str], split: str, far_shift: int = 0
) -> list[ImageDetections]:
    """Read the detections of the images of `records`. The files may be written by any program.

    The files have the names that `write_voc_results` uses, or else they are the only complete set of files in the
    folder for another competition or split (...det_..._CLASS.txt).

    Returns:
        One entry per record, in their order, each with the best detection first and equal scores in the order of the
        file. Boxes and scores have double precision, as in the kit.

    Raises:
        DataError: a class has no file, or a line has a wrong number of columns, an unknown image, a value that is not
            a finite number, or a box that ends before it begins. The message names the file and the line.
    """
    position_by_id = _position_by_id(records)
    rows: list[list[tuple[list[float], float, int]]] = [[] for _ in records]
    for label, path in enumerate(_find_files(folder, class_names, split), start=1):
        for number, line in enumerate(_read_lines(path), start=1):
            if line.strip():
                where = f"{path}, line {number}"
                position, score, box = _read_line(line, position_by_id, far_shift=far_shift, where=where)
                rows[position].append((box, score, label))
    return [_to_detections(image_rows) for image_rows in rows]


def _file_name_part(text: str) -> str:
    """Escape the characters that some file systems do not allow in names as %XX. Different names stay different."""
    return re.sub(r'[%/\\:*?"<>|\x00-\x1f\x7f]', lambda match: f"%{ord(match[0]):02X}", text)


def _to_pixels(boxes: np.ndarray, *, far_shift: int) -> np.ndarray:
    """(n, 4) edges -> coordinates of the kit. In double precision, adding 1 is exact for float32 values above 2^-29."""
    return boxes.astype(np.float64).reshape(-1, 4) + np.array([1, 1, far_shift, far_shift])


def _show(number: float) -> str:
    """Format a number with all digits. Integers have no decimal point, as in the examples of the kit."""
    return repr(number).removesuffix(".0")


def _position_by_id(records: Sequence[ImageRecord]) -> dict[str, int]:
    positions: dict[str, int] = {}
    for position, record in enumerate(records):
        name = str(record.image_id)
        if name != name.strip() or len(name.splitlines()) != 1:
            raise DataError(f"image id {name!r} does not fit into a line of VOC results")
        if positions.setdefault(name, position) != position:
            raise DataError(f"image id {name!r} occurs twice, so the results files would be ambiguous")
    return positions


def _find_files(folder: Path, class_names: Sequence[str], split: str) -> list[Path]:
    """One file per class, in their order. Their names differ only in the class."""
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder of VOC results")
    there = {path.name for path in folder.iterdir()}
    endings = [f"{_file_name_part(name)}.txt" for name in class_names]
    expected = results_file_name(split, "").removesuffix(".txt")
    # For each text before the class name: the number of classes with such a file. Class `cup` also finds the file of
    # `tea cup`, but no other class has a file with that beginning.
    beginnings = {expected: 0}
    for ending in endings:
        for name in there:
            beginning = name.removesuffix(ending)
            if name.endswith(ending) and "det_" in beginning and beginning.endswith("_"):
                beginnings[beginning] = beginnings.get(beginning, 0) + 1
    whole = [beginning for beginning, number in beginnings.items() if number == len(endings)]
    if expected not in whole and len(whole) > 1:
        raise DataError(f"{folder}: has several sets of results: {', '.join(f'{each}*' for each in sorted(whole))}")
    best = max(beginnings, key=lambda each: (beginnings[each], each == expected))
    beginning = expected if expected in whole else best
    missing = [f"{beginning}{ending}" for ending in endings if f"{beginning}{ending}" not in there]
    if missing:
        raise DataError(
            f"{folder}: no file {', '.join(missing)}; a class without detections needs an empty file (detections in "
            "COCO format are one JSON file)"
        )
    return [folder / f"{beginning}{ending}" for ending in endings]


def _read_lines(path: Path) -> list[str]:
    try:
        return read_text(path, JSON_BYTES, error=DataError).split("\n")
    except (OSError, ValueError) as error:  # broken UTF-8 is a ValueError
        raise DataError(f"{path}: cannot be read: {error}") from error


def _read_line(
    line: str, position_by_id: dict[str, int], *, far_shift: int, where: str
) -> tuple[int, float, list[float]]:
    """Position of the image, score, and x1, y1, x2, y2. Ids may contain spaces, as file names may."""
    parts = line.strip().rsplit(maxsplit=5)
    position = position_by_id.get(parts[0])
    columns = len(line.split())
    if len(parts) < 6 or (position is None and columns > 6):
        raise DataError(f"{where}: has {columns} columns, expected IMAGE_ID SCORE XMIN YMIN XMAX YMAX")
    if position is None:
        raise DataError(f"{where}: the dataset has no image {shown(parts[0])}; these are detections of other images")
    score, xmin, ymin, xmax, ymax = (_read_number(text, where) for text in parts[1:])
    box = [xmin - 1, ymin - 1, xmax - far_shift, ymax - far_shift]
    if box[2] < box[0] or box[3] < box[1]:
        raise DataError(f"{where}: the box {' '.join(parts[2:])} ends before it begins")
    return position, score, box


def _read_number(text: str, where: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not abs(number) <= COORDINATE:  # False for NaN too
        raise DataError(f"{where}: {shown(text)} is not a finite number")
    return number


def _to_detections(rows: list[tuple[list[float], float, int]]) -> ImageDetections:
    rows = sorted(rows, key=lambda row: -row[1])
    return ImageDetections(
        boxes=np.array([box for box, _, _ in rows], np.float64).reshape(-1, 4),
        scores=np.array([score for _, score, _ in rows], np.float64),
        labels=np.array([label for _, _, label in rows], np.int64),
    )
