"""A look at the data that takes seconds, before a training that takes hours."""

import math
import time
from collections.abc import Sequence

import numpy as np

from frcnn.check.anchor_fit import fit_anchors
from frcnn.check.run_checks import LEAST_RECALL, MOST_MISSED, AnchorSettings
from frcnn.check.statistics import truth_of_dataset
from frcnn.data.dataset import DetectionDataset
from frcnn.errors import DataError

SAMPLED_IMAGES = 8
"""Image files read of each split."""
SECONDS = 2.0
"""After so long no further file is read."""
MOST_BOXES = 50_000
"""Of more boxes every so-manieth is compared with the anchors."""
MANY_LEFT_OUT = 0.05
"""Share of images and objects left out from which on it is told."""


def preflight(train_set: DetectionDataset, val_set: DetectionDataset, anchors: AnchorSettings) -> list[str]:
    """A line of facts, and a line for everything that would ruin a training; nothing is raised.

    1. Objects of each class, and images without any.
    2. Files of val that are in train too, by their paths.
    3. A few image files of each split, evenly spread.
    4. Recall of the anchors.

    The data sets are read already; nothing is drawn at random.
    """
    start = time.monotonic()
    warnings = [*_judge_objects(train_set, val_set), *_judge_files(train_set, val_set)]
    num_read, broken = 0, []
    for dataset in (train_set, val_set):
        count, messages = _read_sample(dataset, until=start + SECONDS)
        num_read, broken = num_read + count, broken + messages
    if broken:
        warnings.append(f"{len(broken)} of {num_read} image files that were tried cannot be used, first: {broken[0]}")
    recall, judged = _judge_anchors(train_set, anchors)
    num_objects, num_sound = sum(len(record.boxes) for record in train_set.records), num_read - len(broken)
    fact = (
        f"check  {num_objects} objects in {len(train_set)} images; {recall}{num_sound} of {num_read} images tried "
        f"can be read ({time.monotonic() - start:.1f} s; all checks: frcnn check-data)"
    )
    return [fact, *(f"warning: {text}" for text in [*warnings, *judged])]


def _judge_objects(train_set: DetectionDataset, val_set: DetectionDataset) -> list[str]:
    train, val = _objects_per_class(train_set), _objects_per_class(val_set)
    warnings = []
    if not train.sum():
        return ["not one box in the training set can be used: nothing will be learned; look at the annotations"]
    if absent := _names(train_set, train == 0):
        warnings.append(
            f"no object in the training set is of class {absent}; take it out of data.classes or annotate some"
        )
    if not val.sum():
        warnings.append("not one box in the validation set can be used: every metric will be 0 or undefined")
    empty = sum(not len(record.boxes) for record in train_set.records)
    if empty > len(train_set) / 2:
        warnings.append(f"{empty} of {len(train_set)} training images have no objects; is that meant?")
    for name, dataset in (("data.train", train_set), ("data.val", val_set)):
        total = len(dataset) + sum(len(record.boxes) for record in dataset.records)
        if dataset.problems.count > MANY_LEFT_OUT * total:
            warnings.append(f"{name}: {dataset.problems.count} images or objects were left out, see above")
    return warnings


def _judge_files(train_set: DetectionDataset, val_set: DetectionDataset) -> list[str]:
    trained = {record.path for record in train_set.records if record.path is not None}
    shared = sum(record.path in trained for record in val_set.records)
    if not shared:
        return []
    return [f"{shared} of {len(val_set)} validation images are in the training set too: the metrics will flatter"]


def _read_sample(dataset: DetectionDataset, *, until: float) -> tuple[int, list[str]]:
    """How many images were tried, and what was wrong with those that cannot be used."""
    count = min(SAMPLED_IMAGES, len(dataset))
    messages: list[str] = []
    for number in range(count):
        if number and time.monotonic() > until:
            return number, messages
        try:
            dataset.read_image(number * len(dataset) // count)
        except DataError as error:
            messages.append(str(error))
    return count, messages


def _judge_anchors(train_set: DetectionDataset, anchors: AnchorSettings) -> tuple[str, list[str]]:
    """The recall for the line of facts, and a warning where it is poor."""
    truth = truth_of_dataset(train_set)
    step = max(1, -(-len(truth.boxes) // MOST_BOXES))
    fit = fit_anchors(
        truth._replace(boxes=truth.boxes[::step], rows=truth.rows[::step]),
        anchors.build(anchors.sizes, anchors.ratios),
        short_sides=anchors.short_sides,
        long_side=anchors.long_side,
        inside_only=anchors.inside_only,
        skip_padding=anchors.skip_padding,
    )
    recall = fit.recall(0.5)
    if math.isnan(recall):
        return "", []
    share = float(fit.missed(anchors.iou_negative).mean())
    fact = f"anchors reach IoU 0.5 for {recall:.0%} of them, 0.7 for {fit.recall(0.7):.0%}; "
    if share <= MOST_MISSED and recall >= LEAST_RECALL:
        return fact, []
    return fact, [
        f"the anchors fit badly: {share:.0%} of the boxes are below IoU {anchors.iou_negative:g} with every anchor, "
        f"{recall:.0%} reach 0.5; frcnn check-data suggests others"
    ]


def _objects_per_class(dataset: DetectionDataset) -> np.ndarray:
    labels = [record.labels for record in dataset.records]
    return np.bincount(np.concatenate([np.zeros(0, np.int64), *labels]), minlength=len(dataset.class_names) + 1)[1:]


def _names(dataset: DetectionDataset, is_named: Sequence[bool] | np.ndarray) -> str:
    """The first ten of the classes; those that stand for an id without a category are none."""
    names = [name for name, named in zip(dataset.class_names, is_named, strict=True) if named and name[:4] != "N/A "]
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
