"""Training runs small enough for tests: shapes of 128 pixels, three stages of ResNet-18, few channels and regions."""

from pathlib import Path
from typing import Any

import torch

from frcnn.config import Config, parse_config
from frcnn.files.checkpoint import load_checkpoint
from frcnn.training.build_experiment import Experiment, build_experiment
from frcnn.training.distributed import World
from frcnn.training.run_folder import RunFolder, prepare_folder
from frcnn.training.state import Progress
from frcnn.training.trainer import train_experiment

WORLD = World(rank=0, size=1, device=torch.device("cpu"))


def tiny_settings(*, data: dict[str, Any] | None = None, **train_settings: Any) -> dict[str, Any]:
    """Eight images in batches of two: four steps per epoch."""
    source = {"format": "shapes", "height": 128, "width": 128}
    return {
        "data": {
            "train": source | {"num_images": 8, "seed": 1},
            "val": source | {"num_images": 3, "seed": 2},
            "short_side": [96, 128],
            "long_side": 128,
            "jitter": {"brightness": 0.2},
            "workers": 0,
        }
        | (data or {}),
        "model": {
            "backbone": {
                "name": "resnet18",
                "weights": None,
                "frozen_stages": 0,
                "norm": "bn",
                "neck": "fpn",
                "strides": [8, 16],
                "neck_channels": 16,
            },
            "anchors": {"sizes": [[16.0, 24.0], [32.0, 48.0], [64.0, 96.0]]},
            "rpn": {"pre_nms_top_n": {"train": 100, "test": 50}, "post_nms_top_n": {"train": 50, "test": 20}},
            "roi": {"samples_per_image": 16, "head": {"channels": 32}},
        },
        "train": {
            "steps": 8,
            "batch_size": 2,
            "lr": 0.002,
            "log_every": 2,
            "num_logged_images": 1,
            "schedule": {"kind": "cosine", "warmup_steps": 3},
        }
        | train_settings,
    }


def tiny_config(**settings: Any) -> Config:
    return parse_config(tiny_settings(**settings), source="test")


def tiny_experiment(*, world: World = WORLD, **settings: Any) -> Experiment:
    return build_experiment(tiny_config(**settings), world)


class Killed(BaseException):
    """Like a kill: no handler catches it, nothing is cleaned up."""


def run(path: Path, *, world: World = WORLD, kill_at: int | None = None, **settings: Any) -> Progress:
    """Start a new run; raise `Killed` after step `kill_at`."""

    def on_step(step: int) -> None:
        if step == kill_at:
            raise Killed

    folder = RunFolder(path)
    if world.is_main:
        prepare_folder(folder, overwrite=False)
    return train_experiment(tiny_experiment(world=world, **settings), folder, on_step=on_step)


def resume(path: Path, *, world: World = WORLD, kill_at: int | None = None, **settings: Any) -> Progress:
    def on_step(step: int) -> None:
        if step == kill_at:
            raise Killed

    folder = RunFolder(path)
    experiment = build_experiment(tiny_config(**settings), world, pretrained=True)
    return train_experiment(experiment, folder, resumed=load_checkpoint(folder.last), on_step=on_step)


def weights(path: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(RunFolder(path).last)["model"]


def differing(left: Path, right: Path) -> list[str]:
    """Names of the tensors that differ between two runs, by at least one bit."""
    first, second = weights(left), weights(right)
    assert first.keys() == second.keys()
    return [name for name, value in first.items() if not torch.equal(value, second[name])]
