"""Find the image files that annotations name."""

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PureWindowsPath
from typing import NamedTuple

from PIL import Image


class FoundPaths(NamedTuple):
    """The files of a list of names."""

    paths: list[Path | None]
    """None if there is no file."""
    num_repaired: int
    """Number of paths that do not exist as written and were found by their file name."""


def images_by_stem(folder: Path) -> dict[str, Path]:
    """The images in a folder by their name without suffix. If several have the same name, .jpg is preferred."""
    Image.init()
    paths: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        suffix = path.suffix.lower()
        if suffix in Image.EXTENSION and (path.stem not in paths or suffix in (".jpg", ".jpeg")):
            paths[path.stem] = path
    return paths


def find_paths(names: Sequence[str], folders: Sequence[Path]) -> FoundPaths:
    """Find files by their names relative to one of several folders, the first one preferred.

    Names may be absolute or contain `..`, but a file outside all folders is not used. A name without a file gets the
    file of the same name anywhere below the first folder, if there is exactly one and no other name has it: exports
    often hold the paths of another disk.

    Args:
        names: different names as written, in the style of POSIX or Windows.
        folders: at least one.
    """
    roots = tuple(os.path.join(os.path.abspath(folder), "") for folder in folders)
    paths = [_find(name, folders, roots) for name in names]
    file_names = {row: PureWindowsPath(names[row]).name for row, path in enumerate(paths) if path is None}
    if not file_names:
        return FoundPaths(paths, 0)
    places: dict[str, list[str]] = {}
    for place, _, files in os.walk(folders[0]):
        for file in files:
            places.setdefault(file, []).append(place)
    counts, taken = Counter(file_names.values()), {path for path in paths if path is not None}
    num_repaired = 0
    for row, file in file_names.items():
        if len(places.get(file, ())) == counts[file] == 1 and (path := Path(places[file][0], file)) not in taken:
            paths[row] = path
            num_repaired += 1
    return FoundPaths(paths, num_repaired)


def _find(name: str, folders: Sequence[Path], roots: tuple[str, ...]) -> Path | None:
    """The file of a name in one of the folders, whose absolute paths are `roots`."""
    for folder in folders:
        path = os.path.normpath(os.path.join(folder, name))
        if os.path.abspath(path).startswith(roots) and os.path.isfile(path):
            return Path(path)
    return None
