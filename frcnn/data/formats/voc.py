"""The Pascal VOC format: a folder with one XML file for each image and lists of images."""

import math
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from PIL import Image

from frcnn.data.formats.raw import Fault, RawAnnotation, RawImage, RawObjects, is_size, repeated, side
from frcnn.errors import DataError
from frcnn.files.limits import IMAGE_SIDE, LIST_BYTES, XML_BYTES, XML_DEPTH
from frcnn.files.reading import path_inside, read_bytes, read_text, shown


def read_voc(root: Path, split: str, *, coordinates: Literal["edges", "minus_one"] = "edges") -> RawAnnotation:
    """Parse the annotations of one list in ImageSets/Main, in the list's order, each image once.

    Args:
        root: folder that holds Annotations, JPEGImages and ImageSets.
        split: name of the list, without .txt.
        coordinates: coordinates are 1-based and inclusive in the files. "edges" makes them the continuous edges
            xmin - 1, ymin - 1, xmax, ymax; "minus_one" takes 1 from all four.

    Raises:
        DataError: a missing folder or list. What is wrong with a single file is a `Fault`.
    """
    listed, paths = read_image_list(root, split), find_image_paths(root)
    images: list[RawImage] = []
    faults: list[Fault] = []
    columns: list[tuple] = []
    far_shift = 1 if coordinates == "minus_one" else 0
    for image_id in dict.fromkeys(listed):
        row, xml_path = len(images), root / "Annotations" / f"{image_id}.xml"
        try:
            annotation = parse_annotation(xml_path)
        except DataError as error:
            faults.append(Fault("unreadable", row, str(error)))
            annotation = VocAnnotation("", math.nan, math.nan, [])
        else:
            if not (is_size(annotation.height) and is_size(annotation.width)):
                message = f"{xml_path}: size of the image is missing, 0 or infinite, or above {IMAGE_SIDE}"
                faults.append(Fault("no size", row, message))
        path = image_path(root, image_id, annotation.file_name, found=paths)
        images.append(RawImage(image_id, path, xml_path, side(annotation.height), side(annotation.width)))
        columns += [(row, place, each) for place, each in enumerate(annotation.objects)]
    for image_id in repeated(listed):
        row = next(row for row, image in enumerate(images) if image.image_id == image_id)
        message = f"{root / 'ImageSets/Main' / split}.txt: {image_id} is there twice"
        faults.append(Fault("listed twice", row, message, is_problem=False))

    names = sorted({each.name for _, _, each in columns})
    number = {name: index for index, name in enumerate(names)}
    written = np.array([each.box or (math.nan,) * 4 for _, _, each in columns], np.float64).reshape(-1, 4)
    objects = RawObjects(
        rows=np.array([row for row, _, _ in columns], np.int64),
        positions=np.array([place for _, place, _ in columns], np.int64),
        boxes=written - [1, 1, far_shift, far_shift],
        sides=written[:, 2:] - written[:, :2],
        written=written,
        names=np.array([number[each.name] for _, _, each in columns], np.int64),
        areas=np.full(len(columns), math.nan),
        is_crowd=np.zeros(len(columns), bool),
        is_difficult=np.array([each.is_difficult for _, _, each in columns], bool),
        ids=[],
    )
    return RawAnnotation(
        name=f"voc {root.name} {split}",
        format="voc",
        images=images,
        objects=objects,
        names=names,
        category_ids=[],
        is_declared=False,
        faults=faults,
        origin=root,
        part=split,
    )


def read_image_list(root: Path, split: str) -> list[str]:
    """Names of ImageSets/Main/SPLIT.txt as written; the lists of single classes carry a second column -1, 0 or 1.

    Raises:
        DataError: no such folder or list.
    """
    folder = root / "ImageSets" / "Main"
    path = folder / f"{split}.txt"
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; a VOC root holds Annotations, JPEGImages and ImageSets/Main")
    if path_inside(folder, split) is None:
        raise DataError(f"{folder}: the split {shown(split)} leads out of this folder")
    try:
        lines = read_text(path, LIST_BYTES, error=DataError).splitlines()
    except FileNotFoundError:
        there = ", ".join(sorted(each.stem for each in folder.glob("*.txt"))) or "none"
        raise DataError(f"{path}: no such split; there are: {there}") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot read the list of images: {error}") from None
    names = (re.sub(r"\s+(-1|0|1)$", "", line.strip()) for line in lines)
    names = [name for name in names if name]
    outside = next((name for name in names if path_inside(folder, name) is None), None)
    if outside is not None:
        raise DataError(f"{path}: {shown(outside)} is no name of an image: it leads out of the folder of the images")
    return names


def find_image_paths(root: Path) -> dict[str, Path]:
    """Files of JPEGImages by their name without suffix, .jpg before any other format of the same name."""
    folder = root / "JPEGImages"
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder (data.*.root is the folder above it)")
    Image.init()
    paths: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        suffix = path.suffix.lower()
        if suffix in Image.EXTENSION and (path.stem not in paths or suffix in (".jpg", ".jpeg")):
            paths[path.stem] = path
    return paths


def image_path(root: Path, image_id: str, file_name: str, *, found: dict[str, Path]) -> Path:
    """The file of an image, or, where `find_image_paths` found none, the one its annotation names.

    A name that leads out of JPEGImages (some programs write the path on their own disk) counts as none.
    """
    folder = root / "JPEGImages"
    named = path_inside(folder, file_name) if file_name else None
    return found.get(image_id) or named or folder / f"{image_id}.jpg"


class VocObject(NamedTuple):
    """An object as it is written."""

    name: str
    box: tuple[float, ...] | None
    """As written: xmin, ymin, xmax, ymax; None where one of them is no number."""
    is_difficult: bool


class VocAnnotation(NamedTuple):
    """An annotation file as it is written."""

    file_name: str
    height: float
    """NaN where it is missing or no number."""
    width: float
    objects: list[VocObject]


def parse_annotation(path: Path) -> VocAnnotation:
    """Read an XML file, and judge nothing of what it says.

    Raises:
        DataError: it is missing, no XML, larger than the limit, nested too deeply, or has a DOCTYPE.
    """
    root = read_xml(path)
    objects = []
    for each in root.findall("object"):  # direct children only: the parts of a person have boxes of their own
        box = tuple(_number(each, f"bndbox/{edge}") for edge in ("xmin", "ymin", "xmax", "ymax"))
        objects.append(
            VocObject(
                name=(each.findtext("name") or "").strip(),
                box=box if all(map(math.isfinite, box)) else None,
                is_difficult=_number(each, "difficult") == 1,
            )
        )
    file_name = (root.findtext("filename") or "").strip()
    return VocAnnotation(file_name, _number(root, "size/height"), _number(root, "size/width"), objects)


class _ShallowTree(ElementTree.TreeBuilder):
    """A tree of limited depth."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.depth = 0

    def start(self, tag: Any, attrs: dict[Any, Any], /) -> ElementTree.Element:
        self.depth += 1
        if self.depth > XML_DEPTH:
            raise DataError(f"{self.path}: refused: its elements are nested more than {XML_DEPTH} deep")
        return super().start(tag, attrs)

    def end(self, tag: str, /) -> ElementTree.Element:
        self.depth -= 1
        return super().end(tag)


def read_xml(path: Path) -> ElementTree.Element:
    """The root of an annotation file; DataError as `parse_annotation`."""
    try:
        content = read_bytes(path, XML_BYTES, error=DataError)
        if b"<!DOCTYPE" in content.replace(b"\0", b""):  # of UTF-16
            raise DataError(f"{path}: refused: it has a DOCTYPE, which no annotation needs and attacks use; delete it")
        return ElementTree.fromstring(content, ElementTree.XMLParser(target=_ShallowTree(path)))
    except FileNotFoundError:
        raise DataError(f"{path}: annotation file not found") from None
    except (OSError, ElementTree.ParseError, ValueError, LookupError) as error:  # the last: an unknown encoding
        raise DataError(f"{path}: broken XML: {error}") from None


def _number(element: ElementTree.Element, path: str) -> float:
    """The number at `path`, NaN where there is none. VOC 2012 writes some coordinates with decimals."""
    try:
        return float(element.findtext(path) or "")
    except ValueError:
        return math.nan
