"""Train a detector, from one seed or several: `frcnn train CONFIG [key=value ...]`, or `python tools/train.py ...`."""

import argparse
import shlex
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from frcnn.check.build_checks import preflight_lines
from frcnn.cli.arguments import positive
from frcnn.cli.run import guarded, memory_explained
from frcnn.config import Config, load_config
from frcnn.errors import TrainingError
from frcnn.evaluation.coco_packages import check_installed
from frcnn.files.checkpoint import find_checkpoint
from frcnn.runs.resume import (
    check_series,
    holds_what_can_go_on,
    is_finished,
    is_restarted,
    load_run,
    longer,
    own_config,
    put_in_place,
    with_seed,
)
from frcnn.runs.series import (
    SeriesFolder,
    format_summary,
    refuse_overwriting_series,
    refuse_series,
    start_series,
    write_summary,
)
from frcnn.training.build_experiment import Experiment, build_experiment, describe
from frcnn.training.distributed import World, done_by_main, join_world
from frcnn.training.dry_run import dry_run
from frcnn.training.faults.stop import Stopped
from frcnn.training.init_from import load_weights
from frcnn.training.lr_find import find_lr
from frcnn.training.run_folder import RunFolder, describe_environment, prepare_folder, refuse_overwriting
from frcnn.training.trainer import train

EXAMPLES = """\
examples:
  frcnn train configs/demo.yaml
  frcnn train configs/demo.yaml train.lr=0.01 data.workers=4 --out runs/faster
  frcnn train --resume --out runs/faster
  torchrun --nproc-per-node 2 --max-restarts 3 tools/train.py configs/demo.yaml
  frcnn train configs/demo.yaml --auto-resume
  frcnn train configs/demo.yaml --seeds 3 --out runs/demo_seeds
  frcnn train --seeds 5 --resume --out runs/demo_seeds
  frcnn train configs/demo.yaml --lr-find

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
        "--auto-resume",
        action="store_true",
        help="go on with the run in DIR, or start it where there is none; what torchrun restarts does so anyway",
    )
    parser.add_argument(
        "--init-from", type=Path, metavar="RUN_OR_CKPT", help="start from these weights, as far as they fit"
    )
    parser.add_argument("--overwrite", action="store_true", help="throw away the run that DIR holds")
    parser.add_argument(
        "--dry-run", action="store_true", help="try every part on a little data and stop; writes no run folder"
    )
    parser.add_argument("--no-check", action="store_true", help="leave out the short look at the data before a new run")
    parser.add_argument(
        "--lr-find",
        action="store_true",
        help="try learning rates from 1e-6 to 1 on the first batches, suggest one and stop; writes DIR/lr_find.png",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    parser = build_parser()
    options = parser.parse_intermixed_args(argv)
    if options.resume and (options.init_from or options.overwrite):
        parser.error("--resume goes on with a run; it cannot be joined with --init-from or --overwrite")
    if options.auto_resume and (options.resume or options.overwrite):
        parser.error("--auto-resume goes on with a run or starts one; it cannot be joined with --resume or --overwrite")
    if options.lr_find and (
        options.resume or options.auto_resume or options.overwrite or options.dry_run or options.seeds
    ):
        parser.error("--lr-find trains nothing; of the other flags only --out and --init-from go with it")
    paths = [argument for argument in options.arguments if "=" not in argument]
    overrides = [argument for argument in options.arguments if "=" in argument]
    if len(paths) > 1:
        parser.error(f"one config at a time, not {' '.join(paths)}")
    if not paths and not (options.resume and options.out):
        parser.error("which CONFIG? (it may be left out only with --resume --out DIR)")

    config_path = Path(paths[0]) if paths else None
    out = options.out or Path("runs") / Path(paths[0]).stem
    return guarded(lambda: run(config_path, overrides, out, options))


def run(config_path: Path | None, overrides: Sequence[str], out: Path, options: argparse.Namespace) -> int:
    """Read the config, and train, resume or rehearse one run or a series. Without a path it is the config of `out`."""
    is_series, folder = options.seeds is not None, RunFolder(out)
    is_rehearsal = options.dry_run or options.lr_find
    if not is_series and not is_rehearsal:
        refuse_series(out)
    if config_path is None or (config_path == folder.config and not is_series):
        config_path = own_config(out, is_series=is_series)
    config = load_config(config_path, overrides)
    check_installed(config.eval.backend)  # else it would be missed after the first epoch
    with join_world(config.train.device) as world, memory_explained(config, world):
        if not is_rehearsal and (options.auto_resume or is_restarted()):
            options.resume = done_by_main(lambda: holds_what_can_go_on(out, is_series=is_series), world)
        if is_series:
            train_series(config, SeriesFolder(out), world, config_path=config_path, options=options)
            return 0
        if not (options.resume or is_rehearsal):
            done_by_main(lambda: refuse_overwriting(folder, overwrite=options.overwrite), world)
        train_run(
            config,
            folder,
            world,
            config_path=config_path,
            is_resumed=options.resume,
            rehearse=partial(find_lr, folder=out) if options.lr_find else dry_run if options.dry_run else None,
            init_from=None if options.resume else options.init_from,
            is_checked=not options.no_check,
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
                rehearse=dry_run if options.dry_run else None,
                init_from=None if seed in begun else init_from,
                is_checked=number == 1 and not options.no_check,
                prepare=partial(prepare, folder),
            )
        except TrainingError as error:
            command = series_command(series, options)
            raise TrainingError(
                f"{error}\nThe series stopped at seed {seed}. Finished runs are kept; go on by: {command}"
            ) from error
        except Stopped as stopped:
            message = f"{stopped}, or with the whole series by: {series_command(series, options)}"
            raise Stopped(message, status=stopped.status) from stopped
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
    rehearse: Callable[[Experiment], list[str]] | None,
    init_from: Path | None,
    is_checked: bool,
    prepare: Callable[[], None],
) -> bool:
    """Build everything, and train, resume or rehearse one run. `prepare` makes the folder of a new one.

    `is_checked`: look at the data before a new one (see `check.preflight`).

    Returns:
        whether it was trained; False for a rehearsal and where nothing was left to do.
    """
    announce(world, head_line(config, world, config_path, folder))
    resumed, source = load_run(folder, config, world) if is_resumed else (None, folder.last)
    weights_follow = init_from is not None and config.model.backbone.weights is None
    experiment = build_experiment(config, world, pretrained=resumed is None and not weights_follow)
    announce(world, describe(experiment))
    if init_from:
        source = find_checkpoint(init_from) if init_from.is_dir() else init_from
        report = load_weights(experiment.model, source, class_names=experiment.train_set.class_names)
        announce(world, report.text(source))
    if is_checked and resumed is None:
        done_by_main(lambda: announce(world, "\n".join(look_at_data(experiment))), world)

    if rehearse is not None:
        announce(world, "\n".join(rehearse(experiment)))
        return False
    if resumed is not None and is_finished(resumed, experiment):
        early = "" if resumed["step"] == experiment.length else ", stopped early"
        announce(world, f"the run in {folder.path} is finished ({resumed['step']} steps{early}); nothing to do")
        return False
    if resumed is None:
        done_by_main(prepare, world)
    else:
        done_by_main(lambda: put_in_place(source, folder), world)
        announce(world, f"resume at step {resumed['step']} of {experiment.length}{longer(resumed, config)}")
    train(experiment, folder, resumed=resumed)
    announce(world, f"done: {folder.path}")
    return True


def series_command(series: SeriesFolder, options: argparse.Namespace) -> str:
    return f"frcnn train --seeds {options.seeds} --resume --out {shlex.quote(str(series.path))}"


def look_at_data(experiment: Experiment) -> list[str]:
    """The lines of the preflight, which touches no random state."""
    strides = experiment.model.backbone.strides
    return preflight_lines(experiment.config, experiment.train_set, experiment.val_set, strides)


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
