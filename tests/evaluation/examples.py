"""Hand-written and random records and detections."""

import numpy as np

from frcnn.annotations import ImageDetections, ImageRecord


def make_record(boxes, labels, *, image_id=1, size=(200, 200), areas=None, crowd=(), difficult=()) -> ImageRecord:
    """`crowd` and `difficult` are positions of objects."""
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    number = np.arange(len(boxes))
    is_crowd, is_difficult = np.isin(number, crowd), np.isin(number, difficult)
    if areas is None:
        areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return ImageRecord(
        image_id=image_id,
        path=None,
        height=size[0],
        width=size[1],
        boxes=boxes,
        labels=np.array(labels, np.int64),
        areas=np.array(areas, np.float64),
        is_crowd=is_crowd,
        is_difficult=is_difficult,
        is_ignored=is_crowd | is_difficult,
    )


def make_detections(boxes, scores, labels) -> ImageDetections:
    return ImageDetections(
        np.array(boxes, np.float32).reshape(-1, 4), np.array(scores, np.float32), np.array(labels, np.int64)
    )


def random_boxes(rng: np.random.Generator, number: int, *, integer: bool = True) -> np.ndarray:
    """(number, 4) boxes of 5 to 80 pixels; integers make equal IoUs and IoUs of exactly 0.5 common."""
    corner = rng.uniform(0, 100, (number, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(5, 80, (number, 2))], axis=1)
    return boxes.round() if integer else boxes


def random_case(seed: int, *, num_images: int = 12, num_classes: int = 3):
    """Objects, some difficult or crowds. Detections: near misses, duplicates, equal scores, false positives, none."""
    rng = np.random.default_rng(seed)
    records, detections = [], []
    for image_id in range(num_images):
        number = int(rng.integers(0, 6))
        boxes, labels = random_boxes(rng, number), rng.integers(1, num_classes + 1, number)
        if number > 1 and rng.random() < 0.5:
            boxes[1] = boxes[0]  # two objects at the same place
            labels[1] = labels[0]
        record = make_record(
            boxes,
            labels,
            image_id=image_id,
            crowd=np.flatnonzero(rng.random(number) < 0.1),
            difficult=np.flatnonzero(rng.random(number) < 0.2),
        )
        copies = rng.integers(0, number, int(rng.integers(0, 3 * number))) if number else np.zeros(0, int)
        strays = int(rng.integers(0, 4))
        shift = rng.integers(-8, 9, (len(copies), 4)) * (rng.random((len(copies), 1)) < 0.7)
        found = np.concatenate([boxes[copies] + shift, random_boxes(rng, strays)])
        found[:, 2:] = np.maximum(found[:, 2:], found[:, :2] + 1)
        found_labels = np.concatenate([labels[copies], rng.integers(1, num_classes + 1, strays)])
        is_confused = rng.random(len(found)) < 0.1
        found_labels = np.where(is_confused, rng.integers(1, num_classes + 1, len(found)), found_labels)
        scores = rng.integers(1, 8, len(found)) / 8  # many equal scores
        order = np.argsort(-scores, kind="stable")
        records.append(record)
        detections.append(make_detections(found[order], scores[order], found_labels[order]))
    return records, detections
