"""Data sets in Pascal VOC layout."""

import math
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from PIL import Image

from frcnn.data.dataset import DetectionDataset
from frcnn.data.problems import ErrorPolicy
from frcnn.errors import DataError
from frcnn.limits import IMAGE_SIDE, LIST_BYTES, XML_BYTES, XML_DEPTH
from frcnn.reading import path_inside, read_bytes, read_text, shown
from frcnn.records import ImageRecord


class VocDataset(DetectionDataset):
    """Images of one list in ImageSets/Main, in the list's order, those without objects too.

    Coordinates are 1-based and inclusive in the files; they become the continuous edges xmin-1, ymin-1, xmax, ymax
    (or as `coordinates` says) and are clipped to the image. A box has no area where xmax <= xmin or ymax <= ymin as
    written: by arithmetic it would be one pixel wide, but what stands there is a stray click, as twice in BCCD.

    Reported to `problems`: an XML that is missing, broken, or without an image size leaves out the image; a class
    that `class_names` does not hold, or a box that is missing or without area, leaves out the object.
    """

    def __init__(
        self,
        *,
        root: Path,
        split: str,
        problems: ErrorPolicy,
        class_names: Sequence[str] | None = None,
        difficult: Literal["ignore", "keep", "drop"] = "ignore",
        coordinates: Literal["edges", "minus_one"] = "edges",
    ) -> None:
        """
        Args:
            root: folder that holds Annotations, JPEGImages and ImageSets.
            split: name of the list, without .txt.
            class_names: label order; None takes the names found in the annotations, sorted.
            difficult: difficult objects become ignore regions, stay ordinary objects, or are left out. The first two
                keep their mark `is_difficult`, by which evaluation ignores them.
            coordinates: "edges", or "minus_one" to take 1 from all four.

        Raises:
            DataError: a missing folder or list.
        """
        if class_names is None:
            class_names = find_class_names(root, split)
        label_by_name = {name: label for label, name in enumerate(class_names, start=1)}
        image_paths = find_image_paths(root)
        records = []
        for image_id in _image_ids(root, split):
            xml_path = root / "Annotations" / f"{image_id}.xml"
            try:
                annotation = read_annotation(xml_path)
            except DataError as error:
                problems.report(str(error))
                continue
            path = image_path(root, image_id, annotation.file_name, found=image_paths)
            records.append(
                _record(
                    image_id,
                    path,
                    annotation,
                    xml_path=xml_path,
                    label_by_name=label_by_name,
                    difficult=difficult,
                    far_shift=1 if coordinates == "minus_one" else 0,
                    problems=problems,
                )
            )
        super().__init__(
            name=f"voc {root.name} {split}",
            class_names=class_names,
            category_ids=range(1, len(class_names) + 1),
            records=records,
            problems=problems,
        )


def find_class_names(root: Path, split: str) -> tuple[str, ...]:
    """Names of all objects of a split, sorted. Annotations that cannot be read are passed over here."""
    names: set[str] = set()
    for image_id in _image_ids(root, split):
        try:
            annotation = parse_annotation(root / "Annotations" / f"{image_id}.xml")
        except DataError:
            continue
        names.update(each.name for each in annotation.objects)
    return tuple(sorted(names - {""}))


def _image_ids(root: Path, split: str) -> list[str]:
    """The names of a split, each once."""
    return list(dict.fromkeys(read_image_list(root, split)))


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


def read_annotation(path: Path) -> VocAnnotation:
    """`parse_annotation` for an image whose size must be known."""
    annotation = parse_annotation(path)
    height, width = annotation.height, annotation.width
    if not (1 <= height <= IMAGE_SIDE and 1 <= width <= IMAGE_SIDE):  # False for NaN too
        raise DataError(f"{path}: size of the image is missing, 0 or infinite, or above {IMAGE_SIDE}")
    return annotation._replace(height=int(height), width=int(width))


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


def _record(
    image_id: str,
    path: Path,
    annotation: VocAnnotation,
    *,
    xml_path: Path,
    label_by_name: dict[str, int],
    difficult: str,
    far_shift: int,
    problems: ErrorPolicy,
) -> ImageRecord:
    """The boxes are xmin - 1, ymin - 1, xmax - far_shift, ymax - far_shift."""
    boxes, labels, is_difficult = [], [], []
    for number, each in enumerate(annotation.objects, start=1):
        subject = f"{xml_path}: object {number} ({each.name})"
        if each.name not in label_by_name:
            problems.report(f"{subject}: unknown class; the classes are {', '.join(label_by_name)}")
        elif each.box is None:
            problems.report(f"{subject}: bndbox is missing or holds no four numbers")
        else:
            xmin, ymin, xmax, ymax = each.box
            left, top = max(xmin - 1, 0.0), max(ymin - 1, 0.0)
            right, bottom = min(xmax - far_shift, annotation.width), min(ymax - far_shift, annotation.height)
            if xmax <= xmin or ymax <= ymin or right <= left or bottom <= top:
                written = f"xmin {xmin:g} ymin {ymin:g} xmax {xmax:g} ymax {ymax:g}"
                problems.report(f"{subject}: box without area in the image: {written}")
            elif not (each.is_difficult and difficult == "drop"):
                boxes.append((left, top, right, bottom))
                labels.append(label_by_name[each.name])
                is_difficult.append(each.is_difficult)
    box_array = np.array(boxes, np.float32).reshape(-1, 4)
    difficult_array = np.array(is_difficult, bool)
    return ImageRecord(
        image_id=image_id,
        path=path,
        height=int(annotation.height),
        width=int(annotation.width),
        boxes=box_array,
        labels=np.array(labels, np.int64),
        areas=np.prod(box_array[:, 2:] - box_array[:, :2], axis=1, dtype=np.float64),
        is_crowd=np.zeros(len(boxes), bool),
        is_difficult=difficult_array,
        is_ignored=difficult_array & (difficult == "ignore"),
    )
