"""From a config to a scene: its data, classes and sizes."""

from collections.abc import Sequence
from pathlib import Path

from frcnn.analyze.scene import SceneSettings
from frcnn.config import Config, load_config
from frcnn.data.build_data import build_dataset
from frcnn.data.dataset import DetectionDataset
from frcnn.errors import ConfigError, DataError

FILLED_IN = ("data.train.format=shapes", "data.val.format=shapes", "train.epochs=1")
"""What makes a whole config of a base that leaves data and length to others."""
DEFAULT_CLASSES = 90
"""Where neither the config nor its data says: as many as torchvision's detectors have."""


def read_config(path: Path, overrides: Sequence[str]) -> tuple[Config, bool]:
    """A config, and whether it names data: without any, as in configs/base, the data are drawn shapes.

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
    """Scenes as a config's networks read them; without a `size`, as large as its images are in evaluation."""
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
    """K by the data set or data.classes; where there is neither, that of torchvision's detectors."""
    if dataset is not None:
        return len(dataset.class_names)
    return len(config.data.classes or ()) or DEFAULT_CLASSES


def read_data(config: Config) -> tuple[DetectionDataset | None, str]:
    """The validation set, or None with the reason where it cannot be read."""
    try:
        return build_dataset(config.data, "val"), ""
    except DataError as error:
        return None, f"data.val cannot be read: {error}"
