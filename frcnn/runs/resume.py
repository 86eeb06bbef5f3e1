"""Going on with a run or a series: what there is to go on from, and whether it fits."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from frcnn.config import Config, parse_config, to_yaml
from frcnn.errors import CheckpointError
from frcnn.files.checkpoint import load_newest
from frcnn.runs.series import SeriesFolder, find_series
from frcnn.training.build_experiment import Experiment
from frcnn.training.distributed import World, done_by_main
from frcnn.training.run_folder import RunFolder, write_text, writing
from frcnn.training.state import check_same_config


def own_config(out: Path, *, is_series: bool) -> Path:
    """The config of the run in a folder, or of the first run of the series in it.

    Where a kill came between the first checkpoint and config.yaml, that is written again from the checkpoint.
    """
    folder = RunFolder(out)
    if is_series:
        begun, _ = find_series(SeriesFolder(out))
        folder = SeriesFolder(out).run(begun[0])
    require_run(folder)
    if not folder.config.exists():
        checkpoint, source, _ = load_newest(folder.last, folder.previous)
        config = parse_config(checkpoint["config"], source=str(source))
        if config.data.import_paths:  # a config file may name code, a checkpoint may not
            raise CheckpointError(
                f"{folder.config} is missing, and the config in {source} names code to import: "
                f"{', '.join(config.data.import_paths)}. Pass the config file: frcnn train CONFIG --resume --out {out}"
            )
        write_text(folder.config, to_yaml(config))
    return folder.config


def require_run(folder: RunFolder) -> None:
    if not folder.can_resume():
        raise CheckpointError(f"{folder.path} holds no run to resume (no {folder.last}); start it without --resume")


def is_restarted() -> bool:
    """True where torchrun (--max-restarts) has started this process again after a failure."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


def holds_what_can_go_on(out: Path, *, is_series: bool) -> bool:
    return bool(SeriesFolder(out).begun()) if is_series else RunFolder(out).can_resume()


def put_in_place(source: Path, folder: RunFolder) -> None:
    """Let the checkpoint before the last, where that is gone on from, take the place of the damaged last one.

    Else the next write would put the damaged one into the place of the whole one.
    """
    if source != folder.last:
        with writing(folder.last):
            os.replace(source, folder.last)


def load_run(folder: RunFolder, config: Config, world: World) -> tuple[dict[str, Any], Path]:
    """The checkpoint to go on from, and its file, read by rank 0 for all; its config must be this one."""
    return done_by_main(lambda: read_run(folder, config), world)


def read_run(folder: RunFolder, config: Config) -> tuple[dict[str, Any], Path]:
    require_run(folder)
    checkpoint, source, problem = load_newest(folder.last, folder.previous)
    if problem:
        warning = f"warning: {problem}. Going on from {source} instead, step {checkpoint['step']}"
        print(warning, file=sys.stderr, flush=True)
    then = parse_config(checkpoint["config"], source=str(source))
    check_same_config(config, then, source=source)
    return checkpoint, source


def check_series(series: SeriesFolder, config: Config, seeds: Sequence[int]) -> tuple[list[int], Path | None]:
    """Of a series to resume: the seeds that were begun, all with this config, and what the others start from."""
    begun, init_from = find_series(series, seeds)
    for seed in begun:
        read_run(series.run(seed), with_seed(config, seed))
    return begun, init_from


def with_seed(config: Config, seed: int) -> Config:
    return config.model_copy(update={"train": config.train.model_copy(update={"seed": seed})})


def is_finished(checkpoint: dict[str, Any], experiment: Experiment) -> bool:
    """Whether the run has reached its length, or the end that train.early_stop of now gives it."""
    trainer, early_stop = checkpoint.get("trainer") or {}, experiment.config.train.early_stop
    is_early = early_stop is not None and trainer.get("standstill_evaluations", 0) >= early_stop.patience
    is_at_end = is_early or trainer.get("step") == experiment.length
    return trainer.get("step") == trainer.get("evaluated_step") and is_at_end


def longer(checkpoint: dict[str, Any], config: Config) -> str:
    """A note where a resumed run is given another length than it had."""
    then = checkpoint["config"]["train"]
    if (then["epochs"], then["steps"]) == (config.train.epochs, config.train.steps):
        return ""
    return "; the length is changed, and the learning rate now follows the schedule of the new one"
