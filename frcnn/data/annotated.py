"""Datasets made from the annotations of a source."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from frcnn.annotations import ImageRecord
from frcnn.data.dataset import DetectionDataset, check_class_names, did_you_mean, unused_ids
from frcnn.data.formats.columns import clip_boxes, labels_of
from frcnn.data.formats.raw import RawAnnotation
from frcnn.data.problems import ErrorPolicy
from frcnn.errors import DataError

IMAGE_FAULTS = ("unreadable", "no image", "no size")
"""The kinds of `Fault` that make an image unusable."""
OBJECT_FAULTS = ("unknown category", "bad line")
"""The kinds of `Fault` that make an object unusable."""
MOST_NAMED = 5
"""Maximum number of filtered classes that a note names."""


class AnnotatedDataset(DetectionDataset):
    """The usable images and objects of a source in any format.

    Images keep their order. Boxes are clipped to the image. Areas that are not annotated are width * height.

    Images and objects with a `Fault`, boxes that are not four finite numbers, and boxes without area, as written or
    inside the image, are reported to `problems` and skipped. A VOC box with xmax <= xmin has no area: by arithmetic it
    is one pixel wide, but such boxes are stray clicks (BCCD has two).
    """

    def __init__(
        self,
        raw: RawAnnotation,
        *,
        problems: ErrorPolicy,
        class_names: Sequence[str] | None = None,
        is_filter: bool = False,
        regions: Literal["ignore", "keep", "drop"] = "ignore",
        empty: Literal["keep", "drop", "drop_crowd_only"] = "keep",
    ) -> None:
        """
        Args:
            raw: the annotations as written.
            class_names: names in label order. If the source declares its classes, each name is one of them, or
                "N/A 12" for an id that COCO does not use but a network has an output for. None uses all classes of
                the source.
            is_filter: whether objects of other classes are skipped. Otherwise each other class is a problem.
            regions: whether crowds and difficult objects become ignore regions, remain ordinary objects, or are
                skipped. The first two keep `is_crowd` or `is_difficult`, so that evaluation ignores them.
            empty: whether images without objects of `class_names` are kept or skipped. Crowds and difficult objects
                count as objects, even if `regions` skips them. With "drop_crowd_only" they count only if `regions` is
                "keep".

        Raises:
            DataError: the source does not have a class, names are not unique, there is no usable image, or only images
                without objects that `empty` skips.
        """
        if raw.is_declared:
            check_class_names(raw.names, source=raw.place)
        if class_names is None:
            class_names = [name for name in raw.names if name]
        category_ids = _category_ids(raw, class_names)
        is_image = _usable_images(raw, problems)
        has_image = np.append(is_image, False)[raw.objects.rows]  # -1 (no such image) selects the last entry
        labels, notes = _labels(raw, class_names, has_image, problems, is_filter=is_filter)
        boxes, has_area = _usable_boxes(raw, has_image & (labels > 0), problems)
        is_kept = has_area & ~(raw.objects.is_region & (regions == "drop"))
        if empty != "keep":
            is_object = has_area & ~(raw.objects.is_region & (regions != "keep") & (empty == "drop_crowd_only"))
            has_objects = np.bincount(raw.objects.rows[is_object], minlength=len(is_image)) > 0
            num_empty, num_images = int((is_image & ~has_objects).sum()), int(is_image.sum())
            if num_images and num_empty == num_images:
                raise DataError(
                    f"{raw.place}: data.empty={empty} skips all {num_images} image(s): none has objects of "
                    f"{', '.join(class_names)}"
                )
            is_image &= has_objects
            notes.append(
                f"{raw.name}: {num_empty} of {num_images} image(s) without objects are skipped (data.empty: {empty})"
            )
        rows = np.flatnonzero(is_image)
        super().__init__(
            name=raw.name,
            class_names=class_names,
            category_ids=category_ids,
            records=_records(raw, rows, np.flatnonzero(is_kept), boxes, labels, is_ignoring=regions == "ignore"),
            problems=problems,
            notes=[*raw.notes, *notes],
        )
        if is_filter:
            self.filtered_category_ids = tuple(set(raw.category_ids) - set(category_ids))
        self.reader, self.rows = raw.dataset, rows.tolist()

    def read_image(self, index: int) -> Tensor:
        if self.reader is None:
            return super().read_image(index)
        record, pixels = self.records[index], self.reader.read_image(self.rows[index])
        expected = (3, record.height, record.width)
        if pixels.dtype != torch.uint8 or pixels.shape != expected:
            dtype = str(pixels.dtype).removeprefix("torch.")
            raise DataError(
                f"{self.name}: read_image of image {record.image_id} returned {tuple(pixels.shape)} {dtype}, expected "
                f"{expected} uint8"
            )
        return pixels


def _category_ids(raw: RawAnnotation, class_names: Sequence[str]) -> Sequence[int]:
    """The ids of the source; 1..K if it has none."""
    if not raw.is_declared:
        return range(1, len(class_names) + 1)
    id_by_name = unused_ids(class_names) | dict(zip(raw.names, raw.category_ids, strict=True))
    missing = [name for name in class_names if name not in id_by_name]
    if missing:
        named = ", ".join(missing) + did_you_mean(missing[0], raw.names)
        raise DataError(f"{raw.place}: no category is named {named}; the categories are {', '.join(raw.names)}")
    return [id_by_name[name] for name in class_names]


def _usable_images(raw: RawAnnotation, problems: ErrorPolicy) -> np.ndarray:
    """(images,) bool whether each image is usable. Reports the faults."""
    is_usable = np.ones(len(raw.images), bool)
    is_usable[[fault.row for fault in raw.faults if fault.kind in IMAGE_FAULTS and fault.row >= 0]] = False
    for fault in raw.faults:
        is_of_object = fault.kind in OBJECT_FAULTS
        if fault.is_problem and not (is_of_object and not is_usable[fault.row]):  # an unusable image is reported once
            problems.report(fault.message)
    return is_usable


def _labels(
    raw: RawAnnotation, class_names: Sequence[str], has_image: np.ndarray, problems: ErrorPolicy, *, is_filter: bool
) -> tuple[np.ndarray, list[str]]:
    """(m,) int64 labels, 0 for other classes, and notes about filtered classes and classes without objects."""
    labels = labels_of(raw, class_names)
    counts = np.bincount(raw.objects.names[has_image & (raw.objects.names >= 0)], minlength=len(raw.names)).tolist()
    others = {name: n for name, n in zip(raw.names, counts, strict=True) if n and name not in class_names}
    notes = []
    if is_filter and (filtered := {name: n for name, n in others.items() if name}):
        most = sorted(filtered, key=lambda name: -filtered[name])[:MOST_NAMED]
        named = ", ".join(f"{name} {filtered[name]}" for name in most) + (", ..." if len(filtered) > MOST_NAMED else "")
        notes.append(
            f"{raw.name}: {sum(filtered.values())} annotation(s) of {len(filtered)} class(es) that data.classes does "
            f"not list are skipped ({named})"
        )
        others = {name: n for name, n in others.items() if not name}
    for name, count in others.items():
        known = ", ".join(class_names)
        problems.report(f"{raw.place}: {count} annotation(s) of the class {name!r}; the classes are {known}")
    if is_filter and not raw.is_declared:  # `_category_ids` has looked up declared classes
        absent = [name for name in class_names if name not in raw.names and name not in unused_ids([name])]
        notes += [
            f"warning: {raw.name}: no object has the class {name}{did_you_mean(name, raw.names)}" for name in absent
        ]
    return labels, notes


def _usable_boxes(raw: RawAnnotation, is_wanted: np.ndarray, problems: ErrorPolicy) -> tuple[np.ndarray, np.ndarray]:
    """(m, 4) float32 boxes inside their images, and (m,) bool whether a wanted one has an area there."""
    objects, clipped = raw.objects, clip_boxes(raw)
    has_area = is_wanted & clipped.has_area
    for number in np.flatnonzero(is_wanted & ~has_area).tolist():
        image, name = raw.images[int(objects.rows[number])], raw.names[int(objects.names[number])]
        subject = f"{image.annotation or raw.name}: {raw.object_name(number)}"
        if objects.ids:
            subject += f" of image {image.image_id}"
        what = "box without area in the image" if clipped.has_numbers[number] else "box is missing or not four numbers"
        problems.report(f"{subject} ({name}): {what}: {raw.written(number)}")
    return clipped.edges.astype(np.float32), has_area


def _records(
    raw: RawAnnotation,
    rows: np.ndarray,
    numbers: np.ndarray,
    boxes: np.ndarray,
    labels: np.ndarray,
    *,
    is_ignoring: bool,
) -> list[ImageRecord]:
    """One record per image in `rows`, with its objects among `numbers`."""
    objects = raw.objects
    numbers = numbers[np.argsort(objects.rows[numbers], kind="stable")]
    starts = np.searchsorted(objects.rows[numbers], rows, side="left").tolist()
    ends = np.searchsorted(objects.rows[numbers], rows, side="right").tolist()
    boxes, labels = boxes[numbers], labels[numbers]
    areas, is_crowd, is_difficult = objects.areas[numbers], objects.is_crowd[numbers], objects.is_difficult[numbers]
    sides = (boxes[:, 2:] - boxes[:, :2]).astype(np.float64)
    areas = np.where(np.isfinite(areas), areas, sides[:, 0] * sides[:, 1])
    is_ignored = (is_crowd | is_difficult) & is_ignoring
    records = []
    for row, start, end in zip(rows.tolist(), starts, ends, strict=True):
        image, own = raw.images[row], slice(start, end)
        records.append(
            ImageRecord(
                image_id=image.image_id,
                path=image.path,
                height=int(image.height),
                width=int(image.width),
                boxes=boxes[own],
                labels=labels[own],
                areas=areas[own],
                is_crowd=is_crowd[own],
                is_difficult=is_difficult[own],
                is_ignored=is_ignored[own],
            )
        )
    return records
