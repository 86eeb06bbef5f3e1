"""Detections in the COCO results format: a JSON list of image_id, category_id, bbox (x, y, width, height) and score."""

import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from frcnn.annotations import ImageDetections, ImageRecord, to_xywh
from frcnn.errors import DataError
from frcnn.files.limits import COORDINATE
from frcnn.files.reading import read_json, shown
from frcnn.files.writing import replacing


def write_results(
    path: Path,
    records: Sequence[ImageRecord],
    detections: Sequence[ImageDetections],
    *,
    category_ids: Sequence[int],
) -> None:
    """Write the detections of n images, in the order of `records`. A failure leaves no partial file.

    Numbers are written with all digits, so that `read_results` returns equal arrays and pycocotools equal scores.

    Args:
        category_ids: label k is written as category_ids[k - 1].

    Raises:
        DataError: the file cannot be written, or two images have the same id, as in joined datasets.
    """
    _position_by_id(records)
    results = []
    for record, found in zip(records, detections, strict=True):
        columns = zip(to_xywh(found.boxes).tolist(), found.scores.tolist(), found.labels.tolist(), strict=True)
        results += [
            {"image_id": record.image_id, "category_id": category_ids[label - 1], "bbox": box, "score": score}
            for box, score, label in columns
        ]
    text = "[" + ",\n ".join(json.dumps(result, allow_nan=False) for result in results) + "]\n"
    try:
        with replacing(path) as file:
            file.write(text.encode())
    except OSError as error:
        raise DataError(f"{path}: cannot write the detections: {error.strerror or error}") from error


def read_results(
    path: Path,
    records: Sequence[ImageRecord],
    *,
    category_ids: Sequence[int],
    filtered_category_ids: Collection[int] = (),
) -> list[ImageDetections]:
    """Read the detections of the images of `records`. The file may be written by any program.

    Args:
        category_ids: category_ids[k - 1] becomes label k.
        filtered_category_ids: detections of these categories are skipped.

    Returns:
        One entry per record, in their order, each with the best detection first. Images without detections in the file
        have empty entries.

    Raises:
        DataError: the file is missing or broken, a key is missing, the dataset does not have an image or a category,
            or a box is not four finite numbers or has a negative side. The message names the file and the entry.
    """
    position_by_id = _position_by_id(records)
    label_by_category = dict.fromkeys(filtered_category_ids, 0)
    label_by_category |= {category_id: label for label, category_id in enumerate(category_ids, start=1)}
    rows: list[list[tuple[list[float], float, int]]] = [[] for _ in records]
    for number, entry in enumerate(_read_list(path)):
        where = f"{path}: entry {number}"
        if not isinstance(entry, dict):
            raise DataError(f"{where}: expected an object with image_id, category_id, bbox and score")
        missing = [key for key in ("image_id", "category_id", "bbox", "score") if key not in entry]
        if missing:
            raise DataError(f"{where}: has no {', '.join(missing)}")
        position = _look_up(position_by_id, entry["image_id"])
        if position is None:
            raise DataError(
                f"{where}: the dataset has no image {shown(entry['image_id'])}; these are detections of other images"
            )
        label = _look_up(label_by_category, entry["category_id"])
        if label is None:
            raise DataError(
                f"{where}: the dataset has no category {shown(entry['category_id'])}; it has {list(category_ids)}"
            )
        if label > 0:
            row = _read_box(entry["bbox"], where), _read_number(entry["score"], "score", where), label
            rows[position].append(row)
    return [_to_detections(image_rows) for image_rows in rows]


def _read_list(path: Path) -> list[Any]:
    try:
        content = read_json(path)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    if not isinstance(content, list):
        raise DataError(f"{path}: expected a list of detections (COCO results format), found {type(content).__name__}")
    return content


def _position_by_id(records: Sequence[ImageRecord]) -> dict[int | str, int]:
    positions = {record.image_id: position for position, record in enumerate(records)}
    if len(positions) < len(records):
        twice = next(record for position, record in enumerate(records) if positions[record.image_id] != position)
        raise DataError(f"image id {twice.image_id!r} occurs twice, so a results file would be ambiguous")
    return positions


def _look_up(table: dict[Any, int], key: Any) -> int | None:
    is_hashable = isinstance(key, int | str) and not isinstance(key, bool)
    return table.get(key) if is_hashable else None


def _read_box(value: Any, where: str) -> list[float]:
    """x, y, width, height -> x1, y1, x2, y2."""
    if not isinstance(value, list) or len(value) != 4:
        raise DataError(f"{where}: bbox is {shown(value)}, expected [x, y, width, height]")
    x, y, width, height = (_read_number(part, "bbox", where) for part in value)
    if width < 0 or height < 0:
        raise DataError(f"{where}: bbox {shown(value)} has a negative width or height")
    return [x, y, x + width, y + height]


def _read_number(value: Any, name: str, where: str) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not abs(value) <= COORDINATE:  # False for NaN too
        raise DataError(f"{where}: {name} holds {shown(value)}, expected a finite number")
    return float(value)


def _to_detections(rows: list[tuple[list[float], float, int]]) -> ImageDetections:
    rows = sorted(rows, key=lambda row: -row[1])
    return ImageDetections(
        boxes=np.array([box for box, _, _ in rows], np.float32).reshape(-1, 4),
        scores=np.array([score for _, score, _ in rows], np.float32),
        labels=np.array([label for _, _, label in rows], np.int64),
    )
