"""A series: the same training run with several seeds, one after the other."""

import shlex
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

from frcnn.errors import TrainingError
from frcnn.evaluation.coco_packages import check_installed
from frcnn.runs.failures import memory_explained
from frcnn.runs.resume import check_series, is_restarted, with_seed
from frcnn.runs.series_folder import (
    SeriesFolder,
    find_series,
    format_summary,
    refuse_overwriting_series,
    start_series,
    write_summary,
)
from frcnn.runs.train import ConfigLike, announce, default_folder, open_config, train_run
from frcnn.training.distributed import done_by_main, join_world
from frcnn.training.faults.stop import Stopped
from frcnn.training.run_folder import RunFolder, prepare_folder


def train_series(
    config: ConfigLike | None,
    *,
    num_seeds: int,
    overrides: Sequence[str] = (),
    out: str | Path | None = None,
    resume: bool | Literal["auto"] = False,
    init_from: str | Path | None = None,
    overwrite: bool = False,
    check_data: bool = True,
) -> dict[str, Any]:
    """Train with the seeds train.seed, train.seed + 1, ..., each in its own run folder.

    1. Check every existing run before any training.
    2. Train or resume the run of each seed. Finished runs are skipped.
    3. After each run, write seeds.json and print its table.

    Args:
        num_seeds: number of runs.
        out: the folder of the series. Other arguments: see `runs.train.train`.

    Returns:
        the content of seeds.json, see `series_folder.write_summary`.

    Raises:
        ConfigError, DataError, CheckpointError, TrainingError, Stopped: see `runs.train.train`. The messages of the
            last two say how to continue the series.
    """
    series = SeriesFolder(default_folder(config, out))
    # Without a config, that of the first run is used; all runs have the same except for the seed.
    own = series.run(find_series(series)[0][0]) if config is None else RunFolder(series.path)
    settings, name = open_config(config, own, overrides)
    check_installed(settings.eval.backend)
    seeds = range(settings.train.seed, settings.train.seed + num_seeds)
    with join_world(settings.train.device) as world, memory_explained(settings, world):
        if resume == "auto" or is_restarted():
            resume = done_by_main(lambda: bool(series.begun()), world)
        begun: list[int] = []
        start_from = None if init_from is None else Path(init_from)
        if resume:
            begun, start_from = done_by_main(lambda: check_series(series, settings, seeds), world)
        else:
            done_by_main(lambda: refuse_overwriting_series(series, seeds, overwrite=overwrite), world)

        def prepare(folder: RunFolder) -> None:
            if not resume and folder == series.run(seeds[0]):
                start_series(series, seeds, overwrite=overwrite, init_from=start_from)
            prepare_folder(folder, overwrite=False)

        summary: dict[str, Any] = {}
        for number, seed in enumerate(seeds, start=1):
            folder = series.run(seed)
            announce(world, f"series run {number} of {num_seeds}, seed {seed}")
            try:
                result = train_run(
                    with_seed(settings, seed),
                    folder,
                    world,
                    name=name,
                    is_resumed=seed in begun,
                    init_from=None if seed in begun else start_from,
                    check_data=number == 1 and check_data,
                    prepare=partial(prepare, folder),
                )
            except TrainingError as error:
                raise TrainingError(
                    f"{error}\nThe series stopped at seed {seed}. Finished runs are kept; continue with: "
                    f"{resume_command(series, num_seeds)}"
                ) from error
            except Stopped as stopped:
                message = f"{stopped}, or continue the series with: {resume_command(series, num_seeds)}"
                raise Stopped(message, status=stopped.status) from stopped
            write = partial(write_summary, series, seeds[:number], seeds, init_from=start_from)
            summary = done_by_main(write, world)
            if result.steps_done or number == num_seeds:
                announce(world, f"\n{number} of {num_seeds} seeds, in percent\n{format_summary(summary)}\n")
        announce(world, f"done: {series.summary}")
        return summary


def resume_command(series: SeriesFolder, num_seeds: int) -> str:
    return f"frcnn train --seeds {num_seeds} --resume --out {shlex.quote(str(series.path))}"
