"""Build a comparison of data loading from a config."""

from pathlib import Path
from typing import Any

from benchmarks.loading import compare_loading, write_drawn
from frcnn.config import Config
from frcnn.config.schema.data import CocoSource
from frcnn.data.augment.transforms import TrainTransform
from frcnn.data.build_data import build_dataset
from frcnn.data.dataset import DetectionDataset
from frcnn.errors import DataError


def compare_config_loading(config: Config, *, is_drawn: bool, folder: Path, images: int, rounds: int) -> dict[str, Any]:
    """Compare the loading of a config's training images, or of drawn images in JPEG files.

    Args:
        is_drawn: draw images even if the training images of the config can be read.
        folder: an empty folder for drawn images.
        images: number of images read in each round.
    """
    dataset, origin = _read_files(config, is_drawn=is_drawn)
    if dataset is None:
        config = _drawn(config, folder, images=images)
        dataset = build_dataset(config.data, "train")
        origin = f"drawn shapes of 480x640 as JPEG files{origin}"
    short_side, long_side = max(config.data.short_sides), config.data.long_side
    transform = TrainTransform(short_sides=[short_side], long_side=long_side, flip=0.0)
    result = compare_loading(
        dataset,
        transform,
        short_side=short_side,
        long_side=long_side,
        mean=config.data.mean,
        std=config.data.std,
        images=images,
        rounds=rounds,
    )
    result["input"]["data"] = origin
    return result


def _read_files(config: Config, *, is_drawn: bool) -> tuple[DetectionDataset | None, str]:
    """The training set if it exists and consists of files; otherwise None and the reason."""
    if is_drawn:
        return None, ""
    try:
        dataset = build_dataset(config.data, "train")
    except DataError as error:
        return None, f" (data.train cannot be read: {error})"
    return (dataset, dataset.name) if all(record.path for record in dataset.records) else (None, "")


def _drawn(config: Config, folder: Path, *, images: int) -> Config:
    pictures, annotations = write_drawn(folder, images=images)
    source = CocoSource(format="coco", images=pictures, annotations=annotations)
    data = config.data.model_copy(update={"train": source, "val": source, "classes": None})
    return config.model_copy(update={"data": data})
