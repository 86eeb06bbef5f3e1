"""A cleaned copy of the annotations. The originals are not changed and images are not copied."""

import json
import os
import shutil
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from frcnn.check.repairs import Repairs, plan_repairs
from frcnn.check.run_checks import Check
from frcnn.data.formats import coco, voc
from frcnn.errors import DataError, UserError

MOST_LINES = 20
"""Number of changes that the command prints."""


def require_new(out: Path) -> None:
    """Raise UserError unless `out` is new or an empty folder."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out}: --fix needs a new or empty folder; choose another one")


def write_fixed(check: Check, out: Path) -> list[str]:
    """Write corrected annotations of all VOC and COCO sources, see `plan_repairs`.

    VOC: OUT/Annotations, OUT/ImageSets/Main and a link OUT/JPEGImages to the images. Several roots get a subfolder of
    OUT each. COCO: OUT/NAME.json. OUT/changes.txt lists all changes.

    Returns:
        Lines about the changes and how to train with the copy.

    Raises:
        UserError: `out` is not empty or cannot be written.
        DataError: an annotation file changed since the check.
    """
    require_new(out)
    plans = [plan for plan in plan_repairs(check) if plan.source.raw.origin is not None]
    if not plans:
        return ["nothing to fix: this data set has no annotation files"]
    try:
        out.mkdir(parents=True, exist_ok=True)
        places = _places(plans, out)
        for origin in places:
            own = [plan for plan in plans if plan.source.raw.origin == origin]
            if own[0].source.raw.format == "voc":
                _write_voc(own, origin, places[origin])
            else:
                _write_coco(own[0], origin, places[origin])
        changes = [line for plan in plans for line in plan.lines()]
        (out / "changes.txt").write_text("".join(f"{line}\n" for line in changes), encoding="utf-8")
    except OSError as error:
        raise UserError(f"{out}: cannot write: {error.strerror or error}") from error
    shown = [f"  {line}" for line in changes[:MOST_LINES]]
    if len(changes) > MOST_LINES:
        shown.append(f"  ... and {len(changes) - MOST_LINES} more")
    return [
        f"{len(changes)} changes, listed in {out / 'changes.txt'}",
        *shown,
        "to train with the copy, add these overrides:",
        *_usage(plans, places),
    ]


def _places(plans: Sequence[Repairs], out: Path) -> dict[Path, Path]:
    """Target folder or file of each origin."""
    origins = {plan.source.raw.origin: plan.source.raw.format for plan in plans if plan.source.raw.origin is not None}
    if list(origins.values()) == ["voc"]:
        return {next(iter(origins)): out}
    places: dict[Path, Path] = {}
    for number, origin in enumerate(origins, start=1):
        place = out / origin.name
        places[origin] = out / f"{number}_{origin.name}" if place in places.values() else place
    return places


def _usage(plans: Sequence[Repairs], places: dict[Path, Path]) -> list[str]:
    """Overrides for training with the copy, and links that could not be created."""
    words, missing = [], []
    for plan in plans:
        origin = plan.source.raw.origin
        assert origin is not None
        is_voc = plan.source.raw.format == "voc"
        words.append(f"{plan.source.key}.{'root' if is_voc else 'annotations'}={places[origin]}")
        if is_voc and not (places[origin] / "JPEGImages").exists():
            missing.append(f"first link or copy {origin / 'JPEGImages'} to {places[origin] / 'JPEGImages'}")
    return [f"  {' '.join(words)}", *dict.fromkeys(missing)]


def _write_voc(plans: Sequence[Repairs], root: Path, out: Path) -> None:
    """One root with all its splits; an image of several splits is repaired by the first that keeps it."""
    (out / "Annotations").mkdir(parents=True)
    (out / "ImageSets" / "Main").mkdir(parents=True)
    written: set[int | str] = set()
    for plan in plans:
        raw = plan.source.raw
        kept = [row for row in range(len(raw.images)) if row not in plan.dropped_images]
        names = "".join(f"{raw.images[row].image_id}\n" for row in kept)
        (out / "ImageSets" / "Main" / f"{raw.part}.txt").write_text(names, encoding="utf-8")
        changed = _changed_by_row(plan)
        for row in kept:
            image = raw.images[row]
            if image.image_id in written or image.annotation is None:
                continue
            written.add(image.image_id)
            target = out / "Annotations" / f"{image.image_id}.xml"
            target.parent.mkdir(parents=True, exist_ok=True)
            if row in changed or row in plan.sizes:
                tree = _repaired_xml(plan, row, changed.get(row, []))
                tree.write(target, encoding="utf-8")
            else:
                shutil.copyfile(image.annotation, target)
    try:
        os.symlink((root / "JPEGImages").resolve(), out / "JPEGImages", target_is_directory=True)
    except (OSError, NotImplementedError):
        return  # no links on this file system; `_usage` says what to do


def _changed_by_row(plan: Repairs) -> dict[int, list[int]]:
    changed: dict[int, list[int]] = {}
    for number in sorted({*plan.dropped_objects, *plan.boxes, *plan.names}):
        changed.setdefault(int(plan.source.raw.objects.rows[number]), []).append(number)
    return changed


def _repaired_xml(plan: Repairs, row: int, numbers: Sequence[int]) -> ElementTree.ElementTree:
    raw = plan.source.raw
    path = raw.images[row].annotation
    assert path is not None
    root = voc.read_xml(path)
    elements = root.findall("object")
    for number in numbers:
        element = elements[int(raw.objects.positions[number])]
        if number in plan.dropped_objects:
            root.remove(element)
            continue
        if number in plan.names:
            _child(element, "name").text = plan.names[number]
        if number in plan.boxes:
            shift = raw.objects.written[number] - raw.objects.boxes[number]  # from edges to what VOC writes
            values = (plan.boxes[number][0] + shift).tolist()
            for edge, value in zip(("xmin", "ymin", "xmax", "ymax"), values, strict=True):
                _child(_child(element, "bndbox"), edge).text = f"{value:.10g}"
    if row in plan.sizes:
        for name, value in zip(("height", "width"), plan.sizes[row], strict=True):
            _child(_child(root, "size"), name).text = str(value)
    return ElementTree.ElementTree(root)


def _child(element: ElementTree.Element, name: str) -> ElementTree.Element:
    found = element.find(name)
    return ElementTree.SubElement(element, name) if found is None else found


def _write_coco(plan: Repairs, path: Path, out: Path) -> None:
    raw = plan.source.raw
    document = coco.read_document(path)
    kept = {image.image_id: row for row, image in enumerate(raw.images) if row not in plan.dropped_images}
    images: dict[Any, dict[str, Any]] = {}
    for entry in coco.read_entries(document, "images", path):
        row = coco.find(kept, entry.get("id"), -1)
        if row >= 0 and entry["id"] not in images:
            height, width = plan.sizes.get(row, (entry.get("height"), entry.get("width")))
            images[entry["id"]] = entry | {"height": height, "width": width}
    entries = coco.read_entries(document, "annotations", path)
    if len(entries) != len(raw.objects.rows):
        raise DataError(f"{path}: changed while it was checked; run the check again")
    annotations = [
        entry | _changed_box(plan, number, entry)
        for number, entry in enumerate(entries)
        if number not in plan.dropped_objects and coco.find(kept, entry.get("image_id"), -1) >= 0
    ]
    _number_anew(annotations)
    with out.open("w", encoding="utf-8") as file:
        json.dump(document | {"images": list(images.values()), "annotations": annotations}, file)


def _changed_box(plan: Repairs, number: int, entry: dict[str, Any]) -> dict[str, Any]:
    if number not in plan.boxes:
        return {}
    x1, y1, x2, y2 = plan.boxes[number][0]
    area = {} if entry.get("segmentation") else {"area": (x2 - x1) * (y2 - y1)}
    return {"bbox": [x1, y1, x2 - x1, y2 - y1], **area}


def _number_anew(annotations: list[dict[str, Any]]) -> None:
    """Give ids that are there twice, or missing, new ones above all others."""
    counts = Counter(entry["id"] for entry in annotations if isinstance(entry.get("id"), int | str))
    highest = max((each for each in counts if isinstance(each, int)), default=0)
    seen: set[int | str] = set()
    for entry in annotations:
        if not isinstance(entry.get("id"), int | str) or entry["id"] in seen:
            highest += 1
            entry["id"] = highest
        seen.add(entry["id"])
