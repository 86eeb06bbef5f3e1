"""The state of a training run in a checkpoint, and how a resumed run restores it."""

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
"""Keys that may differ when a run is resumed, because they do not change what a step computes. A longer run is allowed:
the schedule is a function of the length and then follows the new length. A run that stopped early continues if it gets
more patience."""


@dataclass
class Progress:
    """The progress of a training run. The fields are stored in last.pt under their names."""

    step: int = 0
    """Optimizer steps done."""
    evaluated_step: int = 0
    """Step of the last evaluation whose result was saved; less than `step` if the run stopped during an evaluation."""
    best_metric: float | None = None
    best_step: int = 0
    skipped: int = 0
    """Steps that were skipped because they were not finite."""
    rewinds: int = 0
    """Number of times the run went back to a checkpoint for that reason. Each rewind changes the random draws."""
    standstill_reference: float | None = None
    """Metric of the last evaluation that was an improvement; None before the first evaluation."""
    standstill_evaluations: int = 0
    """Evaluations since then. Known on every rank; `standstill_reference` is known on rank 0 only."""

    def count_evaluation(self, metric: float, *, min_delta: float) -> None:
        """Update the standstill counters, on which train.early_stop decides.

        An evaluation is an improvement if its metric is more than `min_delta` above the reference. Many small
        improvements count once their sum is large enough.

        Args:
            metric: higher is better; -inf if there was no object to measure it on.

        >>> progress = Progress()
        >>> for metric in (0.10, 0.30, 0.305, 0.32, 0.2):
        ...     progress.count_evaluation(metric, min_delta=0.01)
        ...     print(progress.standstill_reference, progress.standstill_evaluations)
        0.1 0
        0.3 0
        0.3 1
        0.32 0
        0.32 1
        """
        if self.standstill_reference is None or metric > self.standstill_reference + min_delta:
            self.standstill_reference, self.standstill_evaluations = metric, 0
        else:
            self.standstill_evaluations += 1

    def has_stopped_early(self, config: TrainConfig) -> bool:
        """Whether train.early_stop ends the run now."""
        return config.early_stop is not None and self.standstill_evaluations >= config.early_stop.patience


def save_last(path: Path, experiment: Experiment, progress: Progress) -> None:
    """Write everything needed to resume and keep the previous file as previous.pt.

    Every rank calls it, rank 0 writes.
    """
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
    """Write a checkpoint for evaluation, prediction and initialization, without the state of the trainer.

    With train.ema_decay it holds the averaged weights, and `is_averaged` is True.
    """
    checkpoint = weights_checkpoint(experiment, experiment.evaluated_model, step)
    write_checkpoint(path, {**checkpoint, "is_averaged": experiment.average is not None})


def write_checkpoint(path: Path, checkpoint: dict[str, Any], *, keep: Path | None = None) -> None:
    """Write a checkpoint; raise TrainingError if the disk refuses it."""
    try:
        save_checkpoint(path, checkpoint, keep=keep)
    except CheckpointError as error:
        raise TrainingError(f"{error}. Fix this, then continue with --resume") from error


def weights_checkpoint(experiment: Experiment, model: nn.Module, step: int) -> dict[str, Any]:
    """A detector and everything needed to use it. TrainingError if a weight is not finite. Host sync."""
    check_finite_weights(model, step=step)
    return {
        "model": model.state_dict(),
        "config": dump_config(experiment.config),
        "class_names": list(experiment.train_set.class_names),
        "category_ids": list(experiment.train_set.category_ids),
        "step": step,
    }


def restore_state(checkpoint: dict[str, Any], experiment: Experiment, *, source: Path) -> Progress:
    """Restore weights, optimizer and scaler. `start_randomness` restores the rest after the loader has started.

    Raises:
        CheckpointError: the checkpoint has no trainer state, or was written with other classes, other images or another
            number of processes.
    """
    trainer = checkpoint.get("trainer")
    if trainer is None:
        raise CheckpointError(f"{source} holds weights only and cannot be resumed. Use --init-from {source}")
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
            f"{source} was written by {len(trainer['random_states'])} process(es), but there are {world.size} now. "
            f"Resume with the same number, or start a new run with --init-from {source}"
        )
    if trainer["step"] > experiment.length:
        raise CheckpointError(
            f"{source} is at step {trainer['step']}, beyond the requested length of {experiment.length} steps"
        )
    experiment.model.load_state_dict(checkpoint["model"])
    if experiment.average is not None:
        experiment.average.model.load_state_dict(checkpoint["ema"])
    for saved, own in zip(trainer["optimizer"]["param_groups"], experiment.optimizer.param_groups, strict=False):
        saved["fused"] = own["fused"]  # depends on this machine, not on the checkpoint
    experiment.optimizer.load_state_dict(trainer["optimizer"])
    experiment.scaler.load_state_dict(trainer["scaler"])
    return Progress(**{name: trainer.get(name, value) for name, value in vars(Progress()).items()})


def start_randomness(checkpoint: dict[str, Any] | None, experiment: Experiment) -> None:
    """Set the random generators of this rank: to the state in the checkpoint, or from the seed without a checkpoint.

    After a rewind (`nonfinite.rewound`) they start from a new seed, different from all earlier ones.
    """
    if checkpoint is None:
        set_seed(experiment.config.train.seed, experiment.world.rank)
    elif checkpoint["trainer"].get("is_rewound"):
        set_seed(seed_of(experiment, rewinds=checkpoint["trainer"]["rewinds"]), experiment.world.rank)
    else:
        set_random_state(checkpoint["trainer"]["random_states"][experiment.world.rank])


def check_same_config(now: Config, then: Config, *, source: Path) -> None:
    """Raise ConfigError with the keys in which the config of a resumed run differs, except `FREE_KEYS`."""
    now_keys, then_keys = flatten(dump_config(now)), flatten(dump_config(then))
    changed = [
        f"  {key}: {then_keys.get(key)!r} in the run, {now_keys.get(key)!r} now"
        for key in sorted(now_keys.keys() | then_keys.keys())
        if key not in FREE_KEYS and now_keys.get(key) != then_keys.get(key)
    ]
    if changed:
        raise ConfigError(
            f"a run can be resumed only with its own config, but this config differs from that of {source}:\n"
            + "\n".join(changed)
            + "\nUndo these changes, or start a new run (--out, with --init-from for the weights)"
        )


def flatten(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested sections to one level of dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
