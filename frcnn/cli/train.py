"""Train a detector, from one seed or several: `frcnn train CONFIG [key=value ...]`, or `python tools/train.py ...`."""

import argparse
import shlex
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from frcnn.checkpoint import find_checkpoint, load_checkpoint
from frcnn.cli.run import guarded
from frcnn.config import Config, load_config, parse_config
from frcnn.errors import CheckpointError, TrainingError
from frcnn.train.build import Experiment, build_experiment, describe
from frcnn.train.distributed import World, done_by_main, join_world
from frcnn.train.dry_run import dry_run
from frcnn.train.initialize import load_weights
from frcnn.train.run_folder import RunFolder, describe_environment, prepare_folder, refuse_overwriting
from frcnn.train.seeds import (
    SeriesFolder,
    find_series,
    format_summary,
    refuse_overwriting_series,
    refuse_series,
    start_series,
    write_summary,
)
from frcnn.train.state import check_same_config
from frcnn.train.trainer import train

EXAMPLES = """\
examples:
  frcnn train configs/demo.yaml
  frcnn train configs/demo.yaml train.lr=0.01 data.workers=4 --out runs/faster
  frcnn train --resume --out runs/faster
  torchrun --nproc-per-node 2 tools/train.py configs/demo.yaml
  frcnn train configs/demo.yaml --seeds 3 --out runs/demo_seeds
  frcnn train --seeds 5 --resume --out runs/demo_seeds

--seeds N trains with train.seed, train.seed + 1, ... one after the other. DIR/seed_0, DIR/seed_1, ... are run folders
like any other, and DIR/seeds.json holds the metrics of each seed, their mean, standard deviation (n - 1) and range, of
the best checkpoints. With --resume finished runs are passed over, the one that was stopped goes on, and the rest is
trained from what the first began with; N may be more than before.
"""


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="frcnn train",
        description="Train a detector and evaluate it.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "arguments",
        nargs="*",
        metavar="CONFIG key=value",
        help="config file and overrides; the file may be left out with --resume",
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="run folder (default: runs/NAME_OF_CONFIG)")
    parser.add_argument("--seeds", type=positive, metavar="N", help="train a series of N runs that differ in the seed")
    parser.add_argument("--resume", action="store_true", help="go on exactly where the run in DIR stopped")
    parser.add_argument(
        "--init-from", type=Path, metavar="RUN_OR_CKPT", help="start from these weights, as far as they fit"
    )
    parser.add_argument("--overwrite", action="store_true", help="throw away the run that DIR holds")
    parser.add_argument(
        "--dry-run", action="store_true", help="try every part on a little data and stop; writes no run folder"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    parser = build_parser()
    options = parser.parse_intermixed_args(argv)
    if options.resume and (options.init_from or options.overwrite):
        parser.error("--resume goes on with a run; it cannot be joined with --init-from or --overwrite")
    paths = [argument for argument in options.arguments if "=" not in argument]
    overrides = [argument for argument in options.arguments if "=" in argument]
    if len(paths) > 1:
        parser.error(f"one config at a time, not {' '.join(paths)}")
    if not paths and not (options.resume and options.out):
        parser.error("which CONFIG? (it may be left out only with --resume --out DIR)")

    config_path = Path(paths[0]) if paths else None
    out = options.out or Path("runs") / Path(paths[0]).stem
    return guarded(lambda: run(config_path, overrides, out, options))


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number above 0")
    return int(text)


def run(config_path: Path | None, overrides: Sequence[str], out: Path, options: argparse.Namespace) -> int:
    """Read the config, and train, resume or rehearse one run or a series. Without a path it is the config of `out`."""
    is_series, folder = options.seeds is not None, RunFolder(out)
    if not is_series and not options.dry_run:
        refuse_series(out)
    if config_path is None or (config_path == folder.config and not is_series):
        config_path = own_config(out, is_series=is_series)
    config = load_config(config_path, overrides)
    with join_world(config.train.device) as world:
        if is_series:
            train_series(config, SeriesFolder(out), world, config_path=config_path, options=options)
            return 0
        if not (options.resume or options.dry_run):
            done_by_main(lambda: refuse_overwriting(folder, overwrite=options.overwrite), world)
        train_run(
            config,
            folder,
            world,
            config_path=config_path,
            is_resumed=options.resume,
            is_rehearsal=options.dry_run,
            init_from=options.init_from,
            prepare=lambda: prepare_folder(folder, overwrite=options.overwrite),
        )
    return 0


def train_series(
    config: Config, series: SeriesFolder, world: World, *, config_path: Path, options: argparse.Namespace
) -> None:
    """One run after the other, each in a folder of its own; seeds.json and its table after each.

    1. Look at every run that is there before anything is trained.
    2. Train, resume or pass over the run of each seed; a dry run ends with the first.
    3. Summarise the runs that are finished.
    """
    seeds = range(config.train.seed, config.train.seed + options.seeds)
    begun, init_from = [], options.init_from
    if options.resume:
        begun, init_from = done_by_main(lambda: check_series(series, config, seeds), world)
    elif not options.dry_run:
        done_by_main(lambda: refuse_overwriting_series(series, seeds, overwrite=options.overwrite), world)

    def prepare(folder: RunFolder) -> None:
        if not options.resume and folder == series.run(seeds[0]):
            start_series(series, seeds, overwrite=options.overwrite, init_from=init_from)
        prepare_folder(folder, overwrite=False)

    for number, seed in enumerate(seeds, start=1):
        folder = series.run(seed)
        announce(world, f"series run {number} of {len(seeds)}, seed {seed}")
        try:
            has_trained = train_run(
                with_seed(config, seed),
                folder,
                world,
                config_path=config_path,
                is_resumed=seed in begun,
                is_rehearsal=options.dry_run,
                init_from=None if seed in begun else init_from,
                prepare=partial(prepare, folder),
            )
        except TrainingError as error:
            command = f"frcnn train --seeds {options.seeds} --resume --out {shlex.quote(str(series.path))}"
            raise TrainingError(
                f"{error}\nThe series stopped at seed {seed}. Finished runs are kept; go on by: {command}"
            ) from error
        if options.dry_run:
            announce(world, f"of the series only seed {seed} was tried: the others differ in nothing else")
            return
        summary = done_by_main(partial(write_summary, series, seeds[:number], seeds, init_from=init_from), world)
        if has_trained or number == len(seeds):
            announce(world, f"\n{number} of {len(seeds)} seeds, in percent\n{format_summary(summary)}\n")
    announce(world, f"done: {series.summary}")


def train_run(
    config: Config,
    folder: RunFolder,
    world: World,
    *,
    config_path: Path,
    is_resumed: bool,
    is_rehearsal: bool,
    init_from: Path | None,
    prepare: Callable[[], None],
) -> bool:
    """Build everything, and train, resume or rehearse one run. `prepare` makes the folder of a new one.

    Returns:
        whether it was trained; False for a rehearsal and where nothing was left to do.
    """
    announce(world, head_line(config, world, config_path, folder))
    resumed = load_run(folder, config, world) if is_resumed else None
    weights_follow = init_from is not None and config.model.backbone.weights is None
    experiment = build_experiment(config, world, pretrained=resumed is None and not weights_follow)
    announce(world, describe(experiment))
    if init_from:
        source = find_checkpoint(init_from) if init_from.is_dir() else init_from
        report = load_weights(experiment.model, source, class_names=experiment.train_set.class_names)
        announce(world, report.text(source))

    if is_rehearsal:
        announce(world, "\n".join([*dry_run(experiment), "dry run done: nothing was kept"]))
        return False
    if resumed is not None and is_finished(resumed, experiment):
        announce(world, f"the run in {folder.path} is finished ({experiment.length} steps); nothing to do")
        return False
    if resumed is None:
        done_by_main(prepare, world)
    else:
        announce(world, f"resume at step {resumed['step']} of {experiment.length}{longer(resumed, config)}")
    train(experiment, folder, resumed=resumed)
    announce(world, f"done: {folder.path}")
    return True


def own_config(out: Path, *, is_series: bool) -> Path:
    """The config of the run in a folder, or of the first run of the series in it."""
    folder = RunFolder(out)
    if is_series:
        begun, _ = find_series(SeriesFolder(out))
        folder = SeriesFolder(out).run(begun[0])
    require_run(folder)
    return folder.config


def require_run(folder: RunFolder) -> None:
    if not folder.last.exists():
        raise CheckpointError(f"{folder.path} holds no run to resume (no {folder.last}); start it without --resume")


def load_run(folder: RunFolder, config: Config, world: World) -> dict[str, Any]:
    """The checkpoint to go on from, read by rank 0 for all; its config must be this one."""
    return done_by_main(lambda: read_run(folder, config), world)


def read_run(folder: RunFolder, config: Config) -> dict[str, Any]:
    require_run(folder)
    checkpoint = load_checkpoint(folder.last)
    then = parse_config(checkpoint["config"], source=str(folder.last))
    check_same_config(config, then, source=folder.last)
    return checkpoint


def check_series(series: SeriesFolder, config: Config, seeds: Sequence[int]) -> tuple[list[int], Path | None]:
    """Of a series to resume: the seeds that were begun, all with this config, and what the others start from."""
    begun, init_from = find_series(series, seeds)
    for seed in begun:
        read_run(series.run(seed), with_seed(config, seed))
    return begun, init_from


def with_seed(config: Config, seed: int) -> Config:
    return config.model_copy(update={"train": config.train.model_copy(update={"seed": seed})})


def is_finished(checkpoint: dict[str, Any], experiment: Experiment) -> bool:
    trainer = checkpoint.get("trainer") or {}
    return trainer.get("step") == trainer.get("evaluated_step") == experiment.length


def longer(checkpoint: dict[str, Any], config: Config) -> str:
    """A note where a resumed run is given another length than it had."""
    then = checkpoint["config"]["train"]
    if (then["epochs"], then["steps"]) == (config.train.epochs, config.train.steps):
        return ""
    return "; the length is changed, and the learning rate now follows the schedule of the new one"


def head_line(config: Config, world: World, config_path: Path, folder: RunFolder) -> str:
    """The first line of the log: version, commit, device, config."""
    about = describe_environment(seed=config.train.seed, device=world.device, world_size=world.size)
    commit = (about["git_commit"] or "unknown")[:10] + (" with changes" if about["git_dirty"] else "")
    return (
        f"frcnn  {about['frcnn']}, commit {commit}, torch {about['torch']}, device {world.device}, "
        f"seed {config.train.seed}, config {config_path} -> {folder.path}"
    )


def announce(world: World, text: str) -> None:
    if world.is_main:
        print(text, flush=True)
