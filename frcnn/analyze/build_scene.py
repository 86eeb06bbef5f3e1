"""From a config to the size of a scene."""

from frcnn.analyze.scene import SceneSettings
from frcnn.config import Config


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
