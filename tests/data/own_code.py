"""Datasets and augmentations as users write them, right and wrong."""

import numpy as np
import torch

from frcnn.annotations import ImageRecord
from frcnn.data import DetectionDataset


def record(index=0, **changes):
    no = np.zeros(1, bool)
    boxes, labels = np.array([[2, 3, 20, 30 + index]], np.float32), np.array([1])
    return ImageRecord(index, None, 40, 60, boxes, labels, np.array([9.0]), no, no, no)._replace(**changes)


class Drawn(DetectionDataset):
    """Images without files: image i has the level 10 * i."""

    def __init__(self, *, count=4, level=10, class_names=("cat", "dog")):
        self.level = level
        super().__init__(name="drawn", class_names=class_names, records=[record(i) for i in range(count)])

    def read_image(self, index):
        return torch.full((3, 40, 60), index * self.level, dtype=torch.uint8)


class WrongPixels(Drawn):
    def read_image(self, index):
        return super().read_image(index)[:, :, 1:]


class Unready(DetectionDataset):
    def __init__(self):
        pass


def make():
    return Drawn(count=2)


def make_a_list():
    return [1, 2]


def with_records(**changes):
    return lambda: DetectionDataset(name="own", class_names=["cat"], records=[record(), record(1)._replace(**changes)])


label_too_high = with_records(labels=np.array([2]))
short_labels = with_records(labels=np.zeros(0, int))
flat_boxes = with_records(boxes=np.zeros(4))
no_size = with_records(height=0)
ignored = with_records(is_ignored=np.ones(1, bool))


def bare_record():
    return DetectionDataset(name="own", class_names=["cat"], records=[(1, 2)])


NUMBER = 3


def add_noise(sample, generator):
    noise = torch.randint(0, 9, sample.image.shape, generator=generator, dtype=torch.uint8)
    return sample._replace(image=sample.image // 2 + noise)


def crop(sample, generator):
    return sample._replace(image=sample.image[:, :, :-8])


def drop_objects(sample, generator):
    return sample._replace(boxes=sample.boxes[:0], labels=sample.labels[:0], is_ignored=sample.is_ignored[:0])


def one_argument(sample):
    return sample


def returns_none(sample, generator):
    return None


def returns_floats(sample, generator):
    return sample._replace(image=sample.image / 255)


def forgets_labels(sample, generator):
    return sample._replace(boxes=sample.boxes[:0])


def flattens(sample, generator):
    return sample._replace(boxes=sample.boxes * 0)
