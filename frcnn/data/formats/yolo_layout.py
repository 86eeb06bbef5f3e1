"""The images and classes of a YOLO dataset: its folders, data.yaml, lists of images and classes.txt."""

import os
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from PIL import Image

from frcnn.data.formats.raw import Fault, repeated
from frcnn.data.images import FORMATS
from frcnn.errors import DataError
from frcnn.files import yaml_text
from frcnn.files.limits import CONFIG_BYTES, CONFIG_NODES, LIST_BYTES
from frcnn.files.reading import path_inside, read_text, shown

DEEPEST = 32
"""Number of last folders of a name from another machine that are searched for in the dataset."""
OTHER_SPLIT = {"val": "valid", "valid": "val"}


class Part(NamedTuple):
    """The images of one split, and the classes."""

    root: Path
    """Folder of the dataset. All files are inside."""
    paths: list[Path]
    missing: dict[str, str]
    """For each listed image that does not exist, its line in the list and a message."""
    names: list[str] | None
    """None if the dataset does not name its classes."""
    faults: list[Fault]
    """Images that are listed twice."""
    notes: list[str]
    """Paths that were not used as written."""


def find_part(root: Path | None, data: Path | None, split: str | None) -> Part:
    """Find the images and class names, see `read_yolo`."""
    folder = root if data is None else data.parent
    assert folder is not None
    if not os.path.isdir(folder):
        raise DataError(f"{folder}: no such folder")
    if data is None and os.path.isfile(folder / "data.yaml"):
        data = folder / "data.yaml"
    if data is None:
        return Part(folder, _find_images(_split_folder(folder, split)), {}, _read_classes(folder), [], [])
    document = _read_data(data)
    notes: list[str] = []
    folder = _find_root(document, data, notes)
    key = next((key for key in (split, OTHER_SPLIT.get(split or "")) if key and document.get(key)), None)
    if key is None:
        there = ", ".join(key for key in ("train", "val", "valid", "test") if document.get(key)) or "none"
        raise DataError(f"{data}: no entry for the split {shown(split)}; existing splits: {there}")
    paths: list[Path] = []
    missing: dict[str, str] = {}
    for entry in document[key] if isinstance(document[key], list) else [document[key]]:
        found = _find_inside(folder, entry) if isinstance(entry, str) else None
        if found is None:
            raise DataError(
                f"{data}: {key}: there is no folder or list {shown(entry)} in {folder}; data.yaml must be in the "
                "folder of the dataset"
            )
        place, is_elsewhere = found
        if is_elsewhere:
            notes.append(f"{data}: {key}: {shown(entry)} is read from {place}")
        if place.is_dir():
            paths += _find_images(place)
        elif place.suffix == ".txt":
            _read_list(place, folder, paths, missing, notes)
        else:
            raise DataError(f"{place}: expected a folder or a .txt list of images ({data}: {key})")
    row_by_path = {path: row for row, path in enumerate(dict.fromkeys(paths))}
    faults = [
        Fault("listed twice", row_by_path[path], f"{data}: {key}: {path} occurs twice", is_problem=False)
        for path in repeated(paths)
    ]
    names = _read_names(document, data) or _read_classes(folder)
    return Part(folder, list(row_by_path), missing, names, faults, notes)


def _find_root(document: dict[Any, Any], data: Path, notes: list[str]) -> Path:
    """The folder `path` of data.yaml if it is inside the folder of that file, else the folder of the file."""
    name, folder = document.get("path"), data.parent
    if name is None:
        return folder
    inside = path_inside(folder, name) if isinstance(name, str) else None
    if inside is not None and os.path.isdir(inside):
        return folder / os.path.normpath(name)
    if not isinstance(name, str) or os.path.realpath(folder) != os.path.normpath(name.replace("\0", "")):
        notes.append(f"{data}: path {shown(name)} is not a folder in {folder}; the dataset is read from {folder}")
    return folder


def _split_folder(root: Path, split: str | None) -> Path:
    """The folder with the images of a split of a dataset without data.yaml."""
    if split is None:
        return root / "images" if os.path.isdir(root / "images") else root
    if path_inside(root, split) is None:
        raise DataError(f"{root}: the split {shown(split)} leads out of this folder")
    splits = [split, OTHER_SPLIT[split]] if split in OTHER_SPLIT else [split]
    folders = [folder for name in splits for folder in (root / "images" / name, root / name / "images", root / name)]
    found = next((folder for folder in folders if os.path.isdir(folder)), None)
    if found is None:
        looked = ", ".join(str(folder.relative_to(root)) for folder in folders)
        raise DataError(
            f"{root}: no such split: there is neither a data.yaml nor a folder {looked}. Leave out the split if the "
            "dataset has none"
        )
    return found


def _find_images(folder: Path) -> list[Path]:
    """All images below a folder, sorted."""
    suffixes = {suffix for suffix, name in Image.registered_extensions().items() if name in FORMATS}
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in suffixes)
    if not paths:
        raise DataError(f"{folder}: there are no images in this folder")
    return paths


def _find_inside(folder: Path, name: str) -> tuple[Path, bool] | None:
    """The file or folder inside `folder` that a name in the data stands for, and whether it has another path.

    `/content/mine/train/images`, `C:\\mine\\train\\images` and Roboflow's `../train/images` are names of other
    machines. They stand for their longest end that exists in `folder`. None if there is none.
    """
    inside = path_inside(folder, os.path.normpath(name))
    if inside is not None and os.path.exists(inside):
        return inside, False
    parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".", "..")][-DEEPEST:]
    ends = (path_inside(folder, "/".join(parts[start:])) for start in range(len(parts)))
    found = next((end for end in ends if end is not None and os.path.exists(end)), None)
    return None if found is None else (found, os.path.abspath(found) != os.path.normpath(name))


def _read_list(path: Path, root: Path, paths: list[Path], missing: dict[str, str], notes: list[str]) -> None:
    """Read a list of images. Names are relative to the folder of the list or to `root`."""
    moved: list[tuple[str, Path]] = []
    before = len(paths) + len(missing)
    for line, name in enumerate(_read_lines(path), start=1):
        if not name:
            continue
        found = _find_inside(path.parent, name) or _find_inside(root, name)
        if found is None or os.path.isdir(found[0]):
            image_id = f"{path.relative_to(root).as_posix()} line {line}"
            missing[image_id] = f"{path}: line {line}: there is no image {shown(name)} in {root}"
            continue
        place, is_elsewhere = found
        paths.append(place)
        if is_elsewhere:
            moved.append((name, place))
    if len(paths) + len(missing) == before:
        raise DataError(f"{path}: the list is empty")
    if moved:
        name, place = moved[0]
        notes.append(f"{path}: {len(moved)} image(s) are read from another path, such as {shown(name)} from {place}")


def _read_data(path: Path) -> dict[Any, Any]:
    try:
        document = yaml_text.read(read_text(path, CONFIG_BYTES, error=DataError))
    except yaml.YAMLError as error:
        raise DataError(f"{path}{yaml_text.line_of(error)}: {yaml_text.problem_of(error)}") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if not isinstance(document, dict):
        raise DataError(f"{path}: expected the keys train, val and names, found {shown(document)}")
    if "kpt_shape" in document:
        raise DataError(f"{path}: the labels have keypoints (kpt_shape); only boxes and polygons can be read")
    return document


def _read_names(document: dict[Any, Any], path: Path) -> list[str] | None:
    """The class names of data.yaml, or its numbers 0..nc-1; None if it has neither."""
    names, count = document.get("names"), document.get("nc")
    if count is not None and not (isinstance(count, int) and 1 <= count <= CONFIG_NODES):
        raise DataError(f"{path}: nc must be the number of classes, found {shown(count)}")
    if names is None:
        return None if count is None else [str(each) for each in range(count)]
    if isinstance(names, dict):
        by_key = {str(key): name for key, name in names.items()}
        if set(by_key) != {str(number) for number in range(len(names))}:
            raise DataError(f"{path}: the keys of names must be 0..{len(names) - 1}, found {shown(list(names))}")
        names = [by_key[str(number)] for number in range(len(names))]
    if not isinstance(names, list) or not names or not all(type(name) in (str, int) for name in names):
        raise DataError(f"{path}: names must be a list of texts, or a mapping of 0, 1, ... to texts: {shown(names)}")
    if count not in (None, len(names)):
        raise DataError(f"{path}: nc is {count}, but names has {len(names)} classes")
    return [str(name) for name in names]


def _read_classes(root: Path) -> list[str] | None:
    """The lines of classes.txt in `root` or its folder labels; None if there is no such file or it is empty."""
    path = next((path for path in (root / "classes.txt", root / "labels/classes.txt") if path.is_file()), None)
    return None if path is None else [name for name in _read_lines(path) if name] or None


def _read_lines(path: Path) -> list[str]:
    try:
        return [line.strip() for line in read_text(path, LIST_BYTES, error=DataError).splitlines()]
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
