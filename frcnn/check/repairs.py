"""Corrections of annotations that need no decision by the user."""

from dataclasses import dataclass, field

import numpy as np

from frcnn.check.box_checks import TINY, BoxFaults
from frcnn.check.class_checks import plain
from frcnn.check.file_checks import fits_size, identity
from frcnn.check.findings import Source
from frcnn.check.run_checks import Check
from frcnn.data.formats.columns import labels_of

MOST_LEAKED = 0.5
"""Maximum share of train to remove because val has the same images. Above it, the sets are equal intentionally."""


@dataclass
class Repairs:
    """Changes to one source. "Row" is the position of an image, "column" that of an object in `raw.objects`."""

    source: Source
    dropped_images: dict[int, str] = field(default_factory=dict)
    """Reason by row."""
    sizes: dict[int, tuple[int, int]] = field(default_factory=dict)
    """(height, width) by row, for images annotated without a size."""
    dropped_objects: dict[int, str] = field(default_factory=dict)
    """Reason by column."""
    boxes: dict[int, tuple[list[float], str]] = field(default_factory=dict)
    """New edges x1, y1, x2, y2 and the reason by column."""
    names: dict[int, str] = field(default_factory=dict)
    """New class name by column."""

    def lines(self) -> list[str]:
        """One line per change."""
        source, objects = self.source, self.source.raw.objects
        lines = [f"{source.title(row)}: image removed, {why}" for row, why in self.dropped_images.items()]
        lines += [f"{source.title(row)}: size {w} x {h} added" for row, (h, w) in self.sizes.items()]
        for number, why in self.dropped_objects.items():
            if int(objects.rows[number]) not in self.dropped_images:
                lines.append(f"{source.subject(number)}: object removed, {why} ({source.raw.written(number)})")
        for number, (box, why) in self.boxes.items():
            if int(objects.rows[number]) not in self.dropped_images:
                edges = " ".join(f"{edge:g}" for edge in box)
                lines.append(f"{source.subject(number)}: {why} ({source.raw.written(number)}), new edges {edges}")
        lines += [f"{source.subject(number)}: class changed to {name}" for number, name in self.names.items()]
        lines += [
            f"line removed, {fault.message}"
            for fault in source.raw.faults
            if fault.kind == "bad line" and fault.row not in self.dropped_images
        ]
        return [f"{source.split}: {line}" for line in lines]


def plan_repairs(check: Check) -> list[Repairs]:
    """Plan the changes to each source. Sources without annotation files have none.

    Removed: images that cannot be read or differ in size from the annotation, images of train that are also in val,
    boxes without area or outside the image, identical boxes, objects of unknown classes. Corrected: boxes over the
    border, swapped corners, missing sizes, class names in another case or spacing.
    """
    leaked = _leaked(check.sources)
    plans = []
    for source, faults in zip(check.sources, check.faults, strict=True):
        plan = Repairs(source)
        plans.append(plan)
        if source.raw.origin is None:
            continue
        _judge_images(plan, leaked)
        _repair_boxes(plan, faults)
        _repair_names(plan, check)
    return plans


def _leaked(sources: list[Source]) -> set[object]:
    """Identities of the images in both train and val. Empty if they are most of train."""
    val = {
        identity(source, row) for source in sources if source.split == "val" for row in range(len(source.raw.images))
    }
    train = [
        identity(source, row) for source in sources if source.split == "train" for row in range(len(source.raw.images))
    ]
    both = (set(train) & val) - {None}
    return both if sum(each in both for each in train) <= MOST_LEAKED * len(train) else set()


def _judge_images(plan: Repairs, leaked: set[object]) -> None:
    source = plan.source
    unreadable = {fault.row for fault in source.raw.faults if fault.kind == "unreadable"}
    for row, (image, facts) in enumerate(zip(source.raw.images, source.facts, strict=True)):
        has_size = bool(np.isfinite(image.height + image.width))
        if row in unreadable:
            plan.dropped_images[row] = "its annotation cannot be read"
        elif facts is not None and facts.fault:
            plan.dropped_images[row] = f"its file is {facts.fault}"
        elif not has_size and facts is None:
            plan.dropped_images[row] = "its size is unknown"
        elif not fits_size(source, row):
            plan.dropped_images[row] = "its size differs from the annotation"
        elif source.split == "train" and identity(source, row) in leaked:
            plan.dropped_images[row] = "it is also in val"
        elif not has_size and facts is not None:
            plan.sizes[row] = (facts.height, facts.width)


def _repair_boxes(plan: Repairs, faults: BoxFaults) -> None:
    objects = plan.source.raw.objects
    bounds = [(image.width, image.height) for image in plan.source.raw.images]
    for row, (height, width) in plan.sizes.items():
        bounds[row] = (width, height)
    for number in range(len(objects.rows)):
        row = int(objects.rows[number])
        if row < 0:
            plan.dropped_objects[number] = "its image does not exist"
        elif faults.has_no_numbers[number]:
            plan.dropped_objects[number] = "its box is not four finite numbers"
        elif faults.is_flat[number]:
            plan.dropped_objects[number] = "its box has no area"
        elif faults.repeats[number] >= 0:
            plan.dropped_objects[number] = "it is identical to another"
        elif (
            faults.is_negative[number]
            or faults.is_over_border[number]
            or faults.is_outside[number]
            or row in plan.sizes
        ):
            box, is_swapped = _inside(objects.boxes[number], bounds[row], shift=_swap_shift(plan.source, number))
            least = TINY if is_swapped else 0.0
            x1, y1, x2, y2 = np.asarray(box, np.float32).tolist()  # as in datasets
            if min(x2 - x1, y2 - y1) <= least:
                plan.dropped_objects[number] = "its box has no area inside the image"
            elif is_swapped:
                plan.boxes[number] = (box, "corners swapped")
            elif box != objects.boxes[number].tolist():
                plan.boxes[number] = (box, "clipped to the image")


def _swap_shift(source: Source, number: int) -> np.ndarray:
    """Correction of each axis after a swap. VOC counts the first and the last pixel of a box."""
    raw = source.raw
    if raw.format != "voc":
        return np.zeros(2)
    return (raw.objects.boxes[number] - raw.objects.written[number])[[2, 3]] + 1


def _inside(box: np.ndarray, bound: tuple[float, float], *, shift: np.ndarray) -> tuple[list[float], bool]:
    """Order the corners of a box and clip it to (width, height); returns it, and whether corners were swapped."""
    near, far = box[:2].copy(), box[2:].copy()
    is_swapped = far < near
    near[is_swapped], far[is_swapped] = (far - shift)[is_swapped], (near + shift)[is_swapped]
    far = np.minimum(far, np.nan_to_num(np.array(bound), nan=np.inf))
    return [*near.clip(0).tolist(), *far.tolist()], bool(is_swapped.any())


def _repair_names(plan: Repairs, check: Check) -> None:
    """Correct class names in another case or spacing, and remove objects of other unknown classes.

    Objects of classes that data.classes filters remain. If the source does not declare its classes (VOC), the most
    frequent one of several names that differ in case or spacing is correct.
    """
    raw, labels = plan.source.raw, labels_of(plan.source.raw, check.class_names)
    totals = check.counts["train"].objects + check.counts["val"].objects
    right: dict[str, str] = {}
    for place in np.argsort(-totals, kind="stable").tolist():
        right.setdefault(plain(check.class_names[place]), check.class_names[place])
    for number in range(len(labels)):
        if number in plan.dropped_objects or int(raw.objects.rows[number]) in plan.dropped_images:
            continue
        index = int(raw.objects.names[number])
        name = raw.names[index] if index >= 0 else ""
        better = right.get(plain(name)) if name and not raw.is_declared else None
        if better is not None and better != name and (labels[number] == 0 or not check.has_given_classes):
            plan.names[number] = better
        elif labels[number] == 0 and not (check.is_filter and name):
            plan.dropped_objects[number] = "its class is unknown"
