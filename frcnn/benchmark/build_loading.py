"""From a config to a comparison of loading."""

from pathlib import Path
from typing import Any

from frcnn.benchmark.loading import compare_loading, compare_workers, write_drawn
from frcnn.config import Config
from frcnn.config.schema.data import CocoSource
from frcnn.data.build import build_dataset, build_train_loader
from frcnn.data.dataset import DetectionDataset
from frcnn.data.transforms import TrainTransform
from frcnn.errors import DataError

WORKERS_BATCH = 4
BATCHES_A_WORKER = 16


def compare_config_loading(
    config: Config, *, is_drawn: bool, folder: Path, images: int, rounds: int, workers: int | None
) -> dict[str, Any]:
    """Compare the loading of a config's training images, with its sides; or of drawn ones, as JPEG files.

    Args:
        is_drawn: draw images even where those of the config can be read.
        folder: empty, for drawn images.
        images: read in each round.
        workers: also whole loaders with this many processes.
    """
    dataset, origin = _read_files(config, is_drawn=is_drawn)
    if dataset is None:
        config = _drawn(config, folder, images=images)
        dataset = build_dataset(config.data, "train")
        origin = f"drawn shapes of 480x640 as JPEG files{origin}"
    short_side, long_side = max(config.data.short_sides), config.data.long_side
    transform = TrainTransform(short_sides=[short_side], long_side=long_side, flip=config.data.flip)
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
    if workers is not None:
        data = config.data.model_copy(update={"workers": workers, "aspect_ratio_grouping": False})
        batch = min(WORKERS_BATCH, len(dataset))
        loader = build_train_loader(data, dataset, batch_size=batch, accumulate=1, seed=0, start_step=0)
        batches = BATCHES_A_WORKER * workers
        result["loaders"] = compare_workers(loader, dataset, batch=batch, workers=workers, batches=batches)
    return result


def _read_files(config: Config, *, is_drawn: bool) -> tuple[DetectionDataset | None, str]:
    """The training set where it is there and made of files; else None with the reason."""
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
