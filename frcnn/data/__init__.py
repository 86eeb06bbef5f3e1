"""Datasets, augmentations, and loaders of padded batches."""

from frcnn.data.augment.resize import resize_sample, resized_size
from frcnn.data.augment.transforms import TrainTransform
from frcnn.data.batching import Sample, collate
from frcnn.data.build_data import build_dataset, build_datasets, build_eval_loader, build_train_loader
from frcnn.data.dataset import DetectionDataset
from frcnn.data.images import read_image
from frcnn.data.problems import ErrorPolicy

__all__ = [
    "DetectionDataset",
    "ErrorPolicy",
    "Sample",
    "TrainTransform",
    "build_dataset",
    "build_datasets",
    "build_eval_loader",
    "build_train_loader",
    "collate",
    "read_image",
    "resize_sample",
    "resized_size",
]
