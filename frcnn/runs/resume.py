"""Resume a run or a series: find its checkpoints and check that they fit the config."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from frcnn.config import Config, parse_config, to_yaml
from frcnn.errors import CheckpointError
from frcnn.files.checkpoint import load_newest
from frcnn.files.run_format import check_run_format
from frcnn.runs.series_folder import SeriesFolder, find_series
from frcnn.training.build_experiment import Experiment
from frcnn.training.distributed import World, done_by_main
from frcnn.training.run_folder import RunFolder, write_text, writing
from frcnn.training.state import check_same_config


def own_config(folder: RunFolder) -> Path:
    """The config file of a run. If it is missing, it is written again from the checkpoint.

    It is missing if the run was killed between its first checkpoint and config.yaml.

    Raises:
        CheckpointError: the folder holds no run.
    """
    require_run(folder)
    if not folder.config.exists():
        checkpoint, source, _ = load_newest(folder.last, folder.previous)
        config = parse_config(checkpoint["config"], source=str(source))
        if config.data.import_paths:  # a config file may name code, a checkpoint may not
            raise CheckpointError(
                f"{folder.config} is missing, and the config in {source} names code to import: "
                f"{', '.join(config.data.import_paths)}. Pass the config file: frcnn train CONFIG --resume --out "
                f"{folder.path}"
            )
        write_text(folder.config, to_yaml(config))
    return folder.config


def require_run(folder: RunFolder) -> None:
    """Raise CheckpointError if the folder holds no run, or a run of a newer version of frcnn."""
    if not folder.can_resume():
        raise CheckpointError(f"{folder.path} holds no run to resume (no {folder.last}). Start it without --resume")
    check_run_format(folder.environment)


def is_restarted() -> bool:
    """True if torchrun (--max-restarts) has restarted this process after a failure."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


def keep_source(source: Path, folder: RunFolder) -> None:
    """Rename previous.pt to last.pt if the run resumes from it because last.pt is damaged.

    Otherwise the next write would replace previous.pt with the damaged last.pt.
    """
    if source != folder.last:
        with writing(folder.last):
            os.replace(source, folder.last)


def load_run(folder: RunFolder, config: Config, world: World) -> tuple[dict[str, Any], Path]:
    """`read_run` on rank 0; returns the result on every rank."""
    return done_by_main(lambda: read_run(folder, config), world)


def read_run(folder: RunFolder, config: Config) -> tuple[dict[str, Any], Path]:
    """The checkpoint to resume from, and its file.

    Raises:
        CheckpointError: there is no readable checkpoint.
        ConfigError: the run has another config.
    """
    require_run(folder)
    checkpoint, source, problem = load_newest(folder.last, folder.previous)
    if problem:
        warning = f"warning: {problem}. Resuming from {source} instead, step {checkpoint['step']}"
        print(warning, file=sys.stderr, flush=True)
    then = parse_config(checkpoint["config"], source=str(source))
    check_same_config(config, then, source=source)
    return checkpoint, source


def check_series(series: SeriesFolder, config: Config, seeds: Sequence[int]) -> tuple[list[int], Path | None]:
    """Check a series that is resumed.

    Returns:
        the seeds whose runs exist, all with this config, and the weights that new runs are initialized from.

    Raises:
        CheckpointError, ConfigError, DataError: as `find_series` and `read_run`.
    """
    begun, init_from = find_series(series, seeds)
    for seed in begun:
        read_run(series.run(seed), with_seed(config, seed))
    return begun, init_from


def with_seed(config: Config, seed: int) -> Config:
    """The config with another train.seed."""
    return config.model_copy(update={"train": config.train.model_copy(update={"seed": seed})})


def is_finished(checkpoint: dict[str, Any], experiment: Experiment) -> bool:
    """Whether the run has reached its length, or the early end of the current train.early_stop."""
    trainer, early_stop = checkpoint.get("trainer") or {}, experiment.config.train.early_stop
    is_early = early_stop is not None and trainer.get("standstill_evaluations", 0) >= early_stop.patience
    is_at_end = is_early or trainer.get("step") == experiment.length
    return trainer.get("step") == trainer.get("evaluated_step") and is_at_end


def changed_length(checkpoint: dict[str, Any], config: Config) -> str:
    """A note for the log if a resumed run gets another length; else ""."""
    then = checkpoint["config"]["train"]
    if (then["epochs"], then["steps"]) == (config.train.epochs, config.train.steps):
        return ""
    return "; its length has changed, and the learning rate follows the schedule of the new length"
