"""A dry run: every part of training once, on little data, without a run folder."""

import math
import tempfile
from itertools import islice
from pathlib import Path

import torch

from frcnn.config import parse_config
from frcnn.data.build_data import build_eval_loader
from frcnn.errors import TrainingError
from frcnn.files.checkpoint import load_checkpoint
from frcnn.model.build_detector import build_from_config
from frcnn.training.batches import describe_image, train_loader
from frcnn.training.build_experiment import Experiment
from frcnn.training.distributed import gather
from frcnn.training.metrics import CURE, Clock, LossMeter, memory_mib
from frcnn.training.randomness import set_seed
from frcnn.training.state import Progress, restore_state, save_last
from frcnn.training.step import prepared, train_step
from frcnn.training.validation import detect_on, draw_examples, measure

NUM_EVALUATED = 2
"""Number of batches that are evaluated."""


def dry_run(experiment: Experiment) -> list[str]:
    """Do one training step, evaluate a few batches, and save and load a checkpoint in a temporary folder.

    Every rank calls it.

    Returns:
        one line for each part, on rank 0; [] on other ranks.

    Raises:
        TrainingError: the loss is not finite, or the loaded checkpoint differs from what was saved.
        UserError: as in training.
    """
    e, world = experiment, experiment.world
    checked = []

    model = prepared(e)
    model.train()
    batches = iter(train_loader(e, start_step=0))
    set_seed(e.config.train.seed, world.rank)
    meter = LossMeter(world.device)
    losses, images = train_step(model, batches, e, lr=e.lr(0), clock=Clock())
    if e.average is not None:
        e.average.update(e.model, step=1)
    meter.add(losses)
    means = meter.read(world)
    if not all(map(math.isfinite, means.values())):
        names = ", ".join(describe_image(e.train_set, index) for index in images)
        raise TrainingError(f"the loss of the first step is not finite (images: {names}). {CURE}")
    named = " ".join(f"{name} {value:.3f}" for name, value in means.items())
    checked.append(f"training    one optimizer step with {e.config.train.batch_size} images: {named}")
    checked.append(f"memory      peak {memory_mib(world.device):.0f} MiB")
    del batches

    loader = build_eval_loader(
        e.config.data,
        e.val_set,
        batch_size=e.config.eval.batch_size,
        rank=world.rank,
        world_size=world.size,
        pin_memory=False,
    )
    parts = gather(detect_on(e, islice(loader, NUM_EVALUATED)), world)
    if world.is_main:
        detections = {index: found for part in parts for index, found in part.items()}
        measure(e, detections)
        draw_examples(e, detections, number=1)
        checked.append(f"evaluation  {len(detections)} images: detected, evaluated and drawn")

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "last.pt"
        save_last(path, e, Progress(step=1))
        if world.is_main:
            checked.append(f"checkpoint  {path.stat().st_size / 2**20:.0f} MiB saved, loaded and compared")
            compare(path, e)
        checked.append("dry run done; nothing was saved")
    return checked if world.is_main else []


def compare(path: Path, experiment: Experiment) -> None:
    """Rebuild the detector from a checkpoint alone; raise TrainingError if its weights differ."""
    checkpoint = load_checkpoint(path)
    config = parse_config(checkpoint["config"], source=str(path))
    rebuilt = build_from_config(
        config,
        num_classes=len(checkpoint["class_names"]),
        pretrained=False,
    )
    rebuilt.load_state_dict(checkpoint["model"])
    restore_state(checkpoint, experiment, source=path)
    for name, value in experiment.model.state_dict().items():
        if not torch.equal(value.cpu(), rebuilt.state_dict()[name]):
            raise TrainingError(f"the loaded checkpoint differs from what was saved: {name}")
