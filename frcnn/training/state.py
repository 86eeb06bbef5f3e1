"""What a checkpoint knows of a training beside the weights, and how a training goes on from it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from frcnn.config import Config, dump_config
from frcnn.config.schema import TrainConfig
from frcnn.errors import CheckpointError, ConfigError, TrainingError
from frcnn.files.checkpoint import save_checkpoint
from frcnn.training.batches import seed_of
from frcnn.training.build_experiment import Experiment
from frcnn.training.distributed import gather
from frcnn.training.metrics import check_finite_weights
from frcnn.training.randomness import random_state, set_random_state, set_seed

FREE_KEYS = (
    "data.workers",
    "data.prefetch",
    "data.on_error",
    "train.device",
    "train.log_every",
    "train.eval_every",
    "train.checkpoint_every",
    "train.num_logged_images",
    "train.early_stop",
    "train.early_stop.patience",
    "train.early_stop.min_delta",
    "train.on_nonfinite",
    "train.nonfinite_limit",
    "train.epochs",
    "train.steps",
    "eval.backend",
    "eval.batch_size",
    "eval.loss",
)
"""Keys that may differ when a run is resumed: they do not change what a step computes. Longer training is allowed;
the schedule is a function of the length and is then that of the longer one, and a run that stopped early goes on where
it is given more patience."""


@dataclass
class Progress:
    """How far a training has come."""

    step: int = 0
    """Optimiser steps done."""
    evaluated_step: int = 0
    """The step of the last evaluation whose result is kept; behind `step` where a run stopped while evaluating."""
    best_metric: float | None = None
    best_step: int = 0
    skipped: int = 0
    """Steps that were left out because they were not finite."""
    rewinds: int = 0
    """Times the run went back to a checkpoint for that reason; each gives other draws."""
    standstill_reference: float | None = None
    """With `standstill_evaluations` what train.early_stop counts, see `early_stop.Standstill`."""
    standstill_evaluations: int = 0
    """Every rank knows it."""

    def has_stopped_early(self, config: TrainConfig) -> bool:
        """Whether train.early_stop ends the training here."""
        return config.early_stop is not None and self.standstill_evaluations >= config.early_stop.patience


def save_last(path: Path, experiment: Experiment, progress: Progress) -> None:
    """Write everything a resume needs, and keep the last one as previous.pt; every rank calls it, rank 0 writes."""
    states = gather(random_state(), experiment.world)
    if experiment.world.is_main:
        trainer = {
            **vars(progress),
            "optimizer": experiment.optimizer.state_dict(),
            "scaler": experiment.scaler.state_dict(),
            "random_states": states,
            "num_images": len(experiment.train_set),
        }
        checkpoint = weights_checkpoint(experiment, experiment.model, progress.step)
        if experiment.average is not None:
            checkpoint["ema"] = experiment.average.model.state_dict()
        write_checkpoint(path, {**checkpoint, "trainer": trainer}, keep=path.with_name("previous.pt"))


def save_weights(path: Path, experiment: Experiment, step: int) -> None:
    """Write a checkpoint to predict, evaluate and initialise from, without the trainer's state.

    With train.ema_decay its weights are the averaged ones, and `is_averaged` says so.
    """
    checkpoint = weights_checkpoint(experiment, experiment.evaluated_model, step)
    write_checkpoint(path, {**checkpoint, "is_averaged": experiment.average is not None})


def write_checkpoint(path: Path, checkpoint: dict[str, Any], *, keep: Path | None = None) -> None:
    """Write a checkpoint; a disk that refuses it is a TrainingError."""
    try:
        save_checkpoint(path, checkpoint, keep=keep)
    except CheckpointError as error:
        raise TrainingError(f"{error}. Mend that, then go on with --resume") from error


def weights_checkpoint(experiment: Experiment, model: nn.Module, step: int) -> dict[str, Any]:
    """A detector and all it takes to use it. TrainingError where a weight is not finite. Host sync."""
    check_finite_weights(model, step=step)
    return {
        "format": 1,
        "model": model.state_dict(),
        "config": dump_config(experiment.config),
        "class_names": list(experiment.train_set.class_names),
        "category_ids": list(experiment.train_set.category_ids),
        "step": step,
    }


def restore(checkpoint: dict[str, Any], experiment: Experiment, *, source: Path) -> Progress:
    """Put weights, optimiser and scaler back; `start_randomness` does the rest once the loader has started.

    Raises:
        CheckpointError: a checkpoint without trainer state, of other classes, images or number of processes.
    """
    trainer = checkpoint.get("trainer")
    if trainer is None:
        raise CheckpointError(f"{source} holds weights only; a run cannot go on from it. Use --init-from {source}")
    world, train_set = experiment.world, experiment.train_set
    if tuple(checkpoint["class_names"]) != train_set.class_names:
        raise CheckpointError(
            f"{source} was trained on the classes {checkpoint['class_names']}, the data now has "
            f"{list(train_set.class_names)}"
        )
    if trainer["num_images"] != len(train_set):
        raise CheckpointError(
            f"{source} was trained on {trainer['num_images']} images, {train_set.name} now has {len(train_set)}"
        )
    if len(trainer["random_states"]) != world.size:
        raise CheckpointError(
            f"{source} was written by {len(trainer['random_states'])} process(es), this is {world.size}: resume "
            f"with the same number, or start another run by --init-from {source}"
        )
    if trainer["step"] > experiment.length:
        raise CheckpointError(
            f"{source} stands at step {trainer['step']}, past the {experiment.length} steps that are asked for"
        )
    experiment.model.load_state_dict(checkpoint["model"])
    if experiment.average is not None:
        experiment.average.model.load_state_dict(checkpoint["ema"])
    for saved, own in zip(trainer["optimizer"]["param_groups"], experiment.optimizer.param_groups, strict=False):
        saved["fused"] = own["fused"]  # how a step is run belongs to this machine, not to the checkpoint
    experiment.optimizer.load_state_dict(trainer["optimizer"])
    experiment.scaler.load_state_dict(trainer["scaler"])
    return Progress(**{name: trainer.get(name, value) for name, value in vars(Progress()).items()})


def start_randomness(checkpoint: dict[str, Any] | None, experiment: Experiment) -> None:
    """Set this rank's generators: to the checkpoint's state, or from the seed where there is none.

    After a rewind (`nonfinite.rewound`) they begin anew, from another seed than all before.
    """
    if checkpoint is None:
        set_seed(experiment.config.train.seed, experiment.world.rank)
    elif checkpoint["trainer"].get("is_rewound"):
        set_seed(seed_of(experiment, rewinds=checkpoint["trainer"]["rewinds"]), experiment.world.rank)
    else:
        set_random_state(checkpoint["trainer"]["random_states"][experiment.world.rank])


def check_same_config(now: Config, then: Config, *, source: Path) -> None:
    """Raise ConfigError that lists the keys in which a resumed run's config differs, `FREE_KEYS` aside."""
    now_keys, then_keys = flatten(dump_config(now)), flatten(dump_config(then))
    changed = [
        f"  {key}: {then_keys.get(key)!r} in the run, {now_keys.get(key)!r} now"
        for key in sorted(now_keys.keys() | then_keys.keys())
        if key not in FREE_KEYS and now_keys.get(key) != then_keys.get(key)
    ]
    if changed:
        raise ConfigError(
            f"a run is resumed with its own config, but this one differs from that of {source}:\n"
            + "\n".join(changed)
            + "\nTake these back, or start another run (--out, with --init-from for the weights)"
        )


def flatten(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested sections as one level of dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
