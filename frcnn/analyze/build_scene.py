"""Data, classes and sizes of a scene, from a config."""

from collections.abc import Sequence
from pathlib import Path

from frcnn.analyze.scene import SceneSettings
from frcnn.config import Config, load_config
from frcnn.data.build_data import build_dataset
from frcnn.data.dataset import DetectionDataset
from frcnn.errors import ConfigError, DataError

FILLED_IN = ("data.train.format=shapes", "data.val.format=shapes", "train.epochs=1")
"""Overrides that complete a base config, which specifies neither data nor the length of training."""
DEFAULT_CLASSES = 90
"""Number of classes if neither the config nor its data specify it: that of torchvision's detectors."""


def read_config(path: Path, overrides: Sequence[str]) -> tuple[Config, bool]:
    """Read a config, and return it with a flag that is True if it specifies data.

    Configs without data, such as the files in configs/base, use drawn shapes.

    Raises:
        ConfigError: as `load_config`.
    """
    try:
        return load_config(path, overrides), True
    except ConfigError:
        try:
            return load_config(path, [*FILLED_IN, *overrides]), False
        except ConfigError:
            pass
        raise


def scene_settings(
    config: Config, *, num_classes: int, size: tuple[int, int] | None, batch: int, objects: int | None
) -> SceneSettings:
    """Settings of a scene for the detector of a config; without `size`, images have the size of evaluation."""
    short_side, long_side = config.data.test_sides
    return SceneSettings(
        size=size,
        short_side=short_side,
        long_side=long_side,
        batch=batch,
        objects=objects,
        num_classes=num_classes,
        channels=config.data.channels,
    )


def count_classes(config: Config, dataset: DetectionDataset | None) -> int:
    """K from the dataset or from data.classes; otherwise `DEFAULT_CLASSES`."""
    if dataset is not None:
        return len(dataset.class_names)
    return len(config.data.classes or ()) or DEFAULT_CLASSES


def read_data(config: Config) -> tuple[DetectionDataset | None, str]:
    """The validation set, or None and the reason if it cannot be read."""
    try:
        return build_dataset(config.data, "val"), ""
    except DataError as error:
        return None, f"data.val cannot be read: {error}"
