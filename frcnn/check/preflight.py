"""A quick check of the data at the start of training."""

import time
from collections.abc import Sequence

import numpy as np

from frcnn.check.anchor_checks import AnchorSettings, describe_misfit
from frcnn.check.statistics import truth_of_dataset
from frcnn.data.dataset import DetectionDataset, unused_ids
from frcnn.errors import DataError

SAMPLED_IMAGES = 8
"""Number of image files to read from each split."""
SECONDS = 2.0
"""Time in seconds after which no more files are read."""
MOST_BOXES = 50_000
"""Larger sets are subsampled at even steps to at most this number of boxes."""
MANY_SKIPPED = 0.05
"""Share of skipped images and objects above which there is a warning."""


def preflight(train_set: DetectionDataset, val_set: DetectionDataset, anchors: AnchorSettings) -> list[str]:
    """Return one line of facts, and one warning per problem that would ruin the training run.

    1. Number of objects of each class, and images without objects.
    2. Image files of val that are also in train.
    3. A sample of the image files of each split, evenly spread.
    4. Recall of the anchors.

    The check is deterministic and does not change any random state. It does not raise errors.
    """
    start = time.monotonic()
    warnings = [*_judge_objects(train_set, val_set), *_judge_files(train_set, val_set)]
    num_read, broken = 0, []
    for dataset in (train_set, val_set):
        count, messages = _read_sample(dataset, until=start + SECONDS)
        num_read, broken = num_read + count, broken + messages
    if broken:
        warnings.append(f"{len(broken)} of {num_read} sampled image files cannot be used, for example {broken[0]}")
    recall, judged = _judge_anchors(train_set, anchors)
    num_objects = sum(len(record.boxes) for record in train_set.records)
    fact = (
        f"check  {num_objects} objects in {len(train_set)} images; {recall}{num_read - len(broken)} of {num_read} "
        f"sampled images can be read ({time.monotonic() - start:.1f} s; for all checks run frcnn check-data)"
    )
    return [fact, *(f"warning: {text}" for text in [*warnings, *judged])]


def _judge_objects(train_set: DetectionDataset, val_set: DetectionDataset) -> list[str]:
    train, val = _objects_per_class(train_set), _objects_per_class(val_set)
    warnings = []
    if not train.sum():
        return ["the training set has no usable box, so nothing can be learned; check the annotations"]
    if absent := _names(train_set, train == 0):
        warnings.append(
            f"the training set has no object of class {absent}; annotate some, or list only the other classes in "
            "data.classes"
        )
    if not val.sum():
        warnings.append("the validation set has no usable box: all metrics will be 0 or undefined")
    empty = sum(not len(record.boxes) for record in train_set.records)
    if empty > len(train_set) / 2:
        warnings.append(f"{empty} of {len(train_set)} training images have no objects; check that this is intended")
    for name, dataset in (("data.train", train_set), ("data.val", val_set)):
        total = len(dataset) + sum(len(record.boxes) for record in dataset.records)
        if dataset.problems.count > MANY_SKIPPED * total:
            warnings.append(f"{name}: {dataset.problems.count} images or objects were skipped, see above")
    return warnings


def _judge_files(train_set: DetectionDataset, val_set: DetectionDataset) -> list[str]:
    trained = {record.path for record in train_set.records if record.path is not None}
    shared = sum(record.path in trained for record in val_set.records)
    if not shared:
        return []
    return [f"{shared} of {len(val_set)} validation images are also in the training set: the metrics will be too high"]


def _read_sample(dataset: DetectionDataset, *, until: float) -> tuple[int, list[str]]:
    """Number of images read, and a message for each that cannot be used."""
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
    """The recall for the line of facts, and a warning if the anchors do not fit."""
    truth = truth_of_dataset(train_set)
    step = max(1, -(-len(truth.boxes) // MOST_BOXES))
    if not len(truth.boxes):
        return "", []
    fit = anchors.fit(truth._replace(boxes=truth.boxes[::step], rows=truth.rows[::step]))
    fact = f"{fit.recall(0.5):.0%} have an anchor with IoU >= 0.5, {fit.recall(0.7):.0%} with IoU >= 0.7; "
    problem = describe_misfit(fit, iou_negative=anchors.iou_negative)
    return fact, [f"the anchors fit badly: {problem}; frcnn check-data suggests others"] if problem else []


def _objects_per_class(dataset: DetectionDataset) -> np.ndarray:
    labels = [record.labels for record in dataset.records]
    return np.bincount(np.concatenate([np.zeros(0, np.int64), *labels]), minlength=len(dataset.class_names) + 1)[1:]


def _names(dataset: DetectionDataset, is_named: Sequence[bool] | np.ndarray) -> str:
    """Names of the first ten selected classes. Outputs for unused category ids are not classes."""
    unused = unused_ids(dataset.class_names)
    names = [name for name, named in zip(dataset.class_names, is_named, strict=True) if named and name not in unused]
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
