"""Build both sides of a benchmark from a config."""

import math
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks import build_torchvision
from benchmarks.calibrate import calibrate
from benchmarks.sides import Ours, Side, Torchvision, reference_optimizer
from frcnn.analyze.build_scene import count_classes, read_data, scene_settings
from frcnn.analyze.scene import Scene, draw_scene, read_scene
from frcnn.config import Config
from frcnn.model.build_detector import build_from_config
from frcnn.model.detector import FasterRCNN
from frcnn.model.speed.autocast import Precision
from frcnn.model.speed.placement import copy_for_detection, place_for_training
from frcnn.training.optimizer import optimizer_from_config

LEARNING_RATE = 1e-6
"""Small enough that timed steps hardly change the weights; the work of a step does not depend on it."""


@dataclass(frozen=True, kw_only=True)
class Sides:
    """The two sides of a comparison."""

    config: Config
    """The config of our side."""
    adapted: dict[str, Any]
    """Keys changed from the user's config, because the peer supports only one value."""
    num_classes: int
    scene: Scene
    ours: Ours
    peer: Side | None
    no_peer: list[str]
    """Reasons why there is no peer."""

    @property
    def both(self) -> list[Side]:
        return [self.ours] if self.peer is None else [self.ours, self.peer]


def build_sides(
    config: Config,
    what: str,
    *,
    against: str,
    size: tuple[int, int] | None,
    batch: int,
    objects: int | None,
    classes: int | None,
    is_drawn: bool,
    device: torch.device,
    precision: Precision,
) -> Sides:
    """Build the images, our detector with weights that behave like trained ones, and the peer with the same weights.

    Args:
        what: "train" or "detect"; our detector is placed for it.
        against: "torchvision" or "none".
        size: (height, width) of every image; None uses the size of evaluation.
        objects: number of generated objects per image; None uses the objects of the images.
        classes: K; None uses the number of classes of the data.
        is_drawn: draw images even if the images of the config can be read.

    Raises:
        ConfigError: settings that contradict each other.
    """
    no_peer = build_torchvision.obstacles(config) if against == "torchvision" else ["not requested"]
    changes = {} if no_peer else _differing(config, build_torchvision.adapted(config))
    config = _changed(config, changes)
    dataset, problem = (None, "") if is_drawn else read_data(config)
    num_classes = classes or count_classes(config, dataset)
    settings = scene_settings(config, num_classes=num_classes, size=size, batch=batch, objects=objects)
    scene = draw_scene(settings) if dataset is None else read_scene(dataset, settings)
    if problem:
        scene = scene._replace(origin=f"{scene.origin} ({problem})")
    scene = scene.to(device)
    model = build_calibrated(config, scene, num_classes=num_classes, device=device)
    peer = None
    if not no_peer:
        peer = _build_peer(config, model, scene, num_classes=num_classes, precision=precision)
    ours = _build_ours(config, model, scene, what=what, precision=precision)
    return Sides(
        config=config,
        adapted=changes,
        num_classes=num_classes,
        scene=scene,
        ours=ours,
        peer=peer,
        no_peer=no_peer,
    )


def _build_ours(config: Config, model: FasterRCNN, scene: Scene, *, what: str, precision: Precision) -> Ours:
    """Our side, placed on the device as `train` or `predict` does it."""
    if what == "detect":
        model = copy_for_detection(model)
    else:
        model = place_for_training(model, scene.batch.images.device, channels_last=config.train.channels_last)
    optimizer = optimizer_from_config(config, model, lr=LEARNING_RATE) if what == "train" else None
    return Ours(model, scene, optimizer=optimizer, precision=precision)


def _build_peer(config: Config, ours: FasterRCNN, scene: Scene, *, num_classes: int, precision: Precision) -> Side:
    train, device = config.train, scene.batch.images.device
    theirs = build_torchvision.build_torchvision(config, ours, num_classes=num_classes).to(device)
    optimizer = reference_optimizer(
        list(theirs.parameters()),
        kind=train.optimizer,
        lr=LEARNING_RATE,
        momentum=train.momentum,
        weight_decay=train.weight_decay,
    )
    return Torchvision(theirs, scene, optimizer=optimizer, precision=precision)


def build_calibrated(config: Config, scene: Scene, *, num_classes: int, device: torch.device) -> FasterRCNN:
    """Build the detector of a config with random weights that behave like trained ones, see `calibrate`."""
    torch.manual_seed(0)
    changes = {"model.backbone.norm": "bn", "model.backbone.frozen_stages": 0, "model.backbone.weights": None}
    free = build_from_config(_changed(config, changes), num_classes=num_classes, pretrained=False)
    calibrate(free.to(device), scene.batch)
    model = build_from_config(config, num_classes=num_classes, pretrained=False)
    model.load_state_dict(free.state_dict())
    return model.to(device)


def _differing(config: Config, wanted: dict[str, Any]) -> dict[str, Any]:
    """The entries of `wanted`, by dotted key, that differ from the config."""
    return {key: value for key, value in wanted.items() if not _is_same(_value(config, key), value)}


def _value(config: Config, key: str) -> Any:
    value: Any = config
    for part in key.split("."):
        value = getattr(value, part)
    return value


def _is_same(one: Any, two: Any) -> bool:
    return math.isclose(one, two, rel_tol=1e-6) if isinstance(one, float) and isinstance(two, float) else one == two


def _changed(config: Config, changes: dict[str, Any]) -> Config:
    """A copy of the config with new values at dotted keys."""
    for key, value in changes.items():
        config = _with(config, key.split("."), value)
    return config


def _with(section: Any, path: list[str], value: Any) -> Any:
    name, *rest = path
    return section.model_copy(update={name: _with(getattr(section, name), rest, value) if rest else value})
