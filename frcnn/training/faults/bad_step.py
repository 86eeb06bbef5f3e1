"""The step that was not finite, saved so that `frcnn replay` can repeat it.

bad_step/step.pt      a checkpoint with the weights before the step; "bad_step" holds the inputs of the step
bad_step/step.json    a summary: step, learning rate, losses, images
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from frcnn.config import dump_config
from frcnn.errors import CheckpointError
from frcnn.files.checkpoint import load_checkpoint
from frcnn.structures import Batch, GroundTruth
from frcnn.training.build_experiment import Experiment
from frcnn.training.distributed import gather
from frcnn.training.faults.guard import Guard
from frcnn.training.run_folder import RunFolder, write_text
from frcnn.training.state import write_checkpoint

OLD_LOSSES = ("rpn_class", "rpn_box", "roi_class", "roi_box")
"""Order of the losses in files that hold them without names."""


def save_bad_step(
    experiment: Experiment,
    folder: RunFolder,
    guard: Guard,
    *,
    step: int,
    lr: float,
    parts: Sequence[Batch],
    image_names: Sequence[str],
) -> list[dict[str, Any]]:
    """Write bad_step/. Every rank calls it, rank 0 writes.

    Args:
        parts: the batches of this rank in that step, on the CPU.
        image_names: names of the images of all parts, in order.

    Returns:
        on rank 0 the losses and images of each rank, as in the file; [] on other ranks.
    """
    weights, random, losses = guard.before(step)
    own = {"losses": losses, "random": random, "images": list(image_names), "parts": [pack(part) for part in parts]}
    ranks = gather(own, experiment.world)
    if not experiment.world.is_main:
        return []
    config = experiment.config
    write_checkpoint(
        folder.bad_step / "step.pt",
        {
            "model": weights,
            "config": dump_config(config),
            "class_names": list(experiment.train_set.class_names),
            "category_ids": list(experiment.train_set.category_ids),
            "step": step - 1,
            "bad_step": {"step": step, "lr": lr, "ranks": ranks},
        },
    )
    summary = {
        "step": step,
        "lr": lr,
        "precision": config.train.precision,
        "device": str(experiment.world.device),
        "ranks": [{"losses": show_losses(rank["losses"]), "images": rank["images"]} for rank in ranks],
    }
    write_text(folder.bad_step / "step.json", json.dumps(summary, indent=2) + "\n")
    return ranks


def load_bad_step(source: Path) -> dict[str, Any]:
    """Read a bad step from its folder, its file or the run folder.

    Raises:
        CheckpointError: there is no bad step, or the file is damaged.
    """
    candidates = (source, source / "step.pt", source / "bad_step" / "step.pt")
    path = next((path for path in candidates if path.is_file()), None)
    if path is None:
        raise CheckpointError(f"{source}: no step to replay (looked for step.pt and bad_step/step.pt)")
    saved = load_checkpoint(path)
    if "bad_step" not in saved:
        raise CheckpointError(f"{path}: a checkpoint, but not of a bad step. Pass RUN/bad_step")
    for rank in saved["bad_step"]["ranks"]:
        if isinstance(rank["losses"], list):  # an older file
            rank["losses"] = dict(zip(OLD_LOSSES, rank["losses"], strict=True))
    return saved


def show_losses(losses: Mapping[str, float]) -> dict[str, float | str]:
    """Losses by name. Non-finite values become strings, because JSON has no such numbers."""
    return {name: value if math.isfinite(value) else str(value) for name, value in losses.items()}


def pack(batch: Batch) -> dict[str, Any]:
    """Convert a batch to plain data that a checkpoint can hold."""
    return {**batch._asdict(), "ground_truth": batch.ground_truth._asdict()}


def unpack(packed: dict[str, Any]) -> Batch:
    """Inverse of `pack`."""
    tensors: dict[str, Tensor] = {name: value for name, value in packed.items() if name != "ground_truth"}
    return Batch(**tensors, ground_truth=GroundTruth(**packed["ground_truth"]))
