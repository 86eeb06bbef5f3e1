"""The Pascal VOC format: a folder with one XML file per image, and lists of images."""

import math
import os
import re
import shutil
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from frcnn.data.formats.image_paths import images_by_stem
from frcnn.data.formats.raw import Changes, Fault, RawAnnotation, RawImage, RawObjects, is_size, repeated, side
from frcnn.errors import DataError
from frcnn.files.limits import IMAGE_SIDE, LIST_BYTES, XML_BYTES, XML_DEPTH
from frcnn.files.reading import path_inside, read_bytes, read_text, shown

BOX_KEYS = ("xmin", "ymin", "xmax", "ymax")


def read_voc(root: Path, split: str, *, coordinates: Literal["edges", "minus_one"] = "edges") -> RawAnnotation:
    """Parse the annotations of one list in ImageSets/Main, in the order of the list, each image once.

    Args:
        root: folder that contains Annotations, JPEGImages and ImageSets.
        split: name of the list, without .txt.
        coordinates: the files have 1-based, inclusive coordinates. "edges" converts them to the continuous edges
            xmin - 1, ymin - 1, xmax, ymax; "minus_one" subtracts 1 from all four.

    Raises:
        DataError: a folder or the list is missing. An error in a single file is a `Fault`.
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
                message = f"{xml_path}: size of the image is missing, 0, infinite or above {IMAGE_SIDE}"
                faults.append(Fault("no size", row, message))
        path = image_path(root, image_id, annotation.file_name, found=paths)
        images.append(RawImage(image_id, path, xml_path, side(annotation.height), side(annotation.width)))
        columns += [(row, place, each) for place, each in enumerate(annotation.objects)]
    for image_id in repeated(listed):
        row = next(row for row, image in enumerate(images) if image.image_id == image_id)
        message = f"{root / 'ImageSets/Main' / split}.txt: {image_id} occurs twice"
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
        origin_key="root",
        part=split,
        box_keys=BOX_KEYS,
        write_copy=write_copy,
    )


def read_image_list(root: Path, split: str) -> list[str]:
    """The names in ImageSets/Main/SPLIT.txt. The lists of single classes have a second column -1, 0 or 1.

    Raises:
        DataError: the folder or the list is missing, or a name leads out of the folder.
    """
    folder = root / "ImageSets" / "Main"
    path = folder / f"{split}.txt"
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; a VOC root contains Annotations, JPEGImages and ImageSets/Main")
    if path_inside(folder, split) is None:
        raise DataError(f"{folder}: the split {shown(split)} leads out of this folder")
    try:
        lines = read_text(path, LIST_BYTES, error=DataError).splitlines()
    except FileNotFoundError:
        there = ", ".join(sorted(each.stem for each in folder.glob("*.txt"))) or "none"
        raise DataError(f"{path}: no such split; existing splits: {there}") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot read the list of images: {error}") from None
    names = (re.sub(r"\s+(-1|0|1)$", "", line.strip()) for line in lines)
    names = [name for name in names if name]
    outside = next((name for name in names if path_inside(folder, name) is None), None)
    if outside is not None:
        raise DataError(f"{path}: {shown(outside)} is not the name of an image: it leads out of the image folder")
    return names


def find_image_paths(root: Path) -> dict[str, Path]:
    """`images_by_stem` of JPEGImages."""
    folder = root / "JPEGImages"
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder (data.*.root is the folder above it)")
    return images_by_stem(folder)


def image_path(root: Path, image_id: str, file_name: str, *, found: dict[str, Path]) -> Path:
    """The file of an image; if `find_image_paths` did not find it, the file that the annotation names.

    A name that leads out of JPEGImages is ignored: some programs write the path on their own disk.
    """
    folder = root / "JPEGImages"
    named = path_inside(folder, file_name) if file_name else None
    return found.get(image_id) or named or folder / f"{image_id}.jpg"


class VocObject(NamedTuple):
    """An object as written."""

    name: str
    box: tuple[float, ...] | None
    """xmin, ymin, xmax, ymax as written; None if one of them is not a number."""
    is_difficult: bool


class VocAnnotation(NamedTuple):
    """An annotation file as written."""

    file_name: str
    height: float
    """NaN if it is missing or not a number."""
    width: float
    objects: list[VocObject]


def parse_annotation(path: Path) -> VocAnnotation:
    """Read an XML file without checking its values.

    Raises:
        DataError: the file is missing, not XML, larger than the limit, nested too deeply, or has a DOCTYPE.
    """
    root = read_xml(path)
    objects = []
    for each in root.findall("object"):  # direct children only: the parts of a person have their own boxes
        box = tuple(_number(each, f"bndbox/{edge}") for edge in BOX_KEYS)
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
    """A tree builder with a limited depth."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.depth = 0

    def start(self, tag: Any, attrs: dict[Any, Any], /) -> ElementTree.Element:
        self.depth += 1
        if self.depth > XML_DEPTH:
            raise DataError(f"{self.path}: refused: its elements are nested more than {XML_DEPTH} levels deep")
        return super().start(tag, attrs)

    def end(self, tag: str, /) -> ElementTree.Element:
        self.depth -= 1
        return super().end(tag)


def read_xml(path: Path) -> ElementTree.Element:
    """The root element of an annotation file; DataError as in `parse_annotation`."""
    try:
        content = read_bytes(path, XML_BYTES, error=DataError)
        if b"<!DOCTYPE" in content.replace(b"\0", b""):  # the zeros of UTF-16
            raise DataError(f"{path}: refused: it has a DOCTYPE, which only attacks need; delete that line")
        return ElementTree.fromstring(content, ElementTree.XMLParser(target=_ShallowTree(path)))
    except FileNotFoundError:
        raise DataError(f"{path}: annotation file not found") from None
    except (OSError, ElementTree.ParseError, ValueError, LookupError) as error:  # LookupError: an unknown encoding
        raise DataError(f"{path}: broken XML: {error}") from None


def _number(element: ElementTree.Element, path: str) -> float:
    """The number at `path`, NaN if there is none. Some coordinates of VOC 2012 have decimals."""
    try:
        return float(element.findtext(path) or "")
    except ValueError:
        return math.nan


def write_copy(changes: Sequence[Changes], out: Path) -> list[str]:
    """Write a changed copy of one root with all its splits, see `RawAnnotation.write_copy`.

    Writes Annotations, ImageSets/Main and, if the file system has links, a link JPEGImages to the images. An image in
    several splits is changed as in the first split that keeps it.

    Raises:
        DataError: an annotation can no longer be read.
        OSError: the copy cannot be written.
    """
    (out / "Annotations").mkdir(parents=True)
    (out / "ImageSets" / "Main").mkdir(parents=True)
    written: set[int | str] = set()
    for change in changes:
        raw = change.raw
        kept = [row for row in range(len(raw.images)) if row not in change.dropped_images]
        names = "".join(f"{raw.images[row].image_id}\n" for row in kept)
        (out / "ImageSets" / "Main" / f"{raw.part}.txt").write_text(names, encoding="utf-8")
        changed = _changed_objects(change)
        for row in kept:
            image = raw.images[row]
            if image.image_id in written or image.annotation is None:
                continue
            written.add(image.image_id)
            target = out / "Annotations" / f"{image.image_id}.xml"
            target.parent.mkdir(parents=True, exist_ok=True)
            if row in changed or row in change.sizes:
                _changed_xml(change, row, image.annotation, changed.get(row, [])).write(target, encoding="utf-8")
            else:
                shutil.copyfile(image.annotation, target)
    root = changes[0].raw.origin
    assert root is not None
    images = root / "JPEGImages"
    try:
        os.symlink(images.resolve(), out / "JPEGImages", target_is_directory=True)
    except (OSError, NotImplementedError):
        return [f"first link or copy {images} to {out / 'JPEGImages'}"]
    return []


def _changed_objects(change: Changes) -> dict[int, list[int]]:
    """Numbers of the changed and dropped objects by row."""
    changed: dict[int, list[int]] = {}
    for number in sorted({*change.dropped_objects, *change.boxes, *change.names}):
        changed.setdefault(int(change.raw.objects.rows[number]), []).append(number)
    return changed


def _changed_xml(change: Changes, row: int, path: Path, numbers: Sequence[int]) -> ElementTree.ElementTree:
    """The annotation file of an image with its changes; `numbers` are its changed objects."""
    objects = change.raw.objects
    root = read_xml(path)
    elements = root.findall("object")
    for number in numbers:
        element = elements[int(objects.positions[number])]
        if number in change.dropped_objects:
            root.remove(element)
            continue
        if number in change.names:
            _child(element, "name").text = change.names[number]
        if number in change.boxes:
            shift = objects.written[number] - objects.boxes[number]  # from edges to the coordinates of the file
            values = (change.boxes[number] + shift).tolist()
            for edge, value in zip(BOX_KEYS, values, strict=True):
                _child(_child(element, "bndbox"), edge).text = f"{value:.10g}"
    if row in change.sizes:
        for name, value in zip(("height", "width"), change.sizes[row], strict=True):
            _child(_child(root, "size"), name).text = str(value)
    return ElementTree.ElementTree(root)


def _child(element: ElementTree.Element, name: str) -> ElementTree.Element:
    """The child element with a name, created if it is missing."""
    found = element.find(name)
    return ElementTree.SubElement(element, name) if found is None else found
