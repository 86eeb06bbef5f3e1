"""Train a detector with one seed or several: `frcnn train CONFIG [key=value ...]`, or `python tools/train.py ...`."""

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from frcnn.cli.arguments import positive
from frcnn.cli.run import guarded
from frcnn.runs.series import train_series
from frcnn.runs.train import default_folder, rehearse, train
from frcnn.training.build_experiment import Experiment
from frcnn.training.dry_run import dry_run
from frcnn.training.lr_find import find_lr

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

series of seeds:
  --seeds N trains with the seeds train.seed, train.seed + 1, ..., one after the other. DIR/seed_0, DIR/seed_1, ... are
  normal run folders. DIR/seeds.json holds the metrics of each best checkpoint, and their mean, standard deviation
  (n - 1) and range. --resume skips finished runs, continues the interrupted run and trains the remaining seeds with the
  same initial weights. N may be larger than before.
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
        help="config file, and config keys to override; CONFIG may be omitted with --resume",
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="run folder (default: runs/NAME_OF_CONFIG)")
    parser.add_argument("--seeds", type=positive, metavar="N", help="train N runs that differ only in the seed")
    parser.add_argument("--resume", action="store_true", help="continue the run in DIR exactly where it stopped")
    parser.add_argument(
        "--auto-resume",
        action="store_true",
        help="continue the run in DIR, or start it if there is none (always on when torchrun restarts a process)",
    )
    parser.add_argument(
        "--init-from",
        type=Path,
        metavar="RUN_OR_CKPT",
        help="initialize the weights that fit from a run, a checkpoint or a weight file",
    )
    parser.add_argument("--overwrite", action="store_true", help="delete the run in DIR first")
    parser.add_argument(
        "--dry-run", action="store_true", help="run every part once on little data, without a run folder, and stop"
    )
    parser.add_argument("--no-check", action="store_true", help="skip the short data check before a new run")
    parser.add_argument(
        "--lr-find",
        action="store_true",
        help="try learning rates from 1e-6 to 1 on the first batches, suggest one, and stop; writes DIR/lr_find.png",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    parser = build_parser()
    options = parser.parse_intermixed_args(argv)
    if options.resume and (options.init_from or options.overwrite):
        parser.error("--resume cannot be combined with --init-from or --overwrite")
    if options.auto_resume and (options.resume or options.overwrite):
        parser.error("--auto-resume cannot be combined with --resume or --overwrite")
    if options.lr_find and (
        options.resume or options.auto_resume or options.overwrite or options.dry_run or options.seeds
    ):
        parser.error("--lr-find can be combined with --out, --init-from and --no-check only")
    if options.dry_run and options.seeds and options.resume:
        parser.error("--dry-run with --seeds cannot be combined with --resume")
    paths = [argument for argument in options.arguments if "=" not in argument]
    overrides = [argument for argument in options.arguments if "=" in argument]
    if len(paths) > 1:
        parser.error(f"expected one CONFIG, not {' '.join(paths)}")
    if not paths and not (options.resume and options.out):
        parser.error("CONFIG is missing (it may be omitted only with --resume --out DIR)")

    config = paths[0] if paths else None
    resume = "auto" if options.auto_resume else options.resume

    def run() -> int:
        if options.dry_run or options.lr_find:
            work: Callable[[Experiment], list[str]] = dry_run
            if options.lr_find:
                work = partial(find_lr, folder=default_folder(config, options.out))
            elif options.seeds:
                work = dry_run_of_series
            rehearse(
                work,
                config,
                overrides=overrides,
                out=options.out,
                resume=options.resume,
                init_from=options.init_from,
                check_data=not options.no_check,
            )
            return 0
        command = partial(train_series, num_seeds=options.seeds) if options.seeds else train
        command(
            config,
            overrides=overrides,
            out=options.out,
            resume=resume,
            init_from=options.init_from,
            overwrite=options.overwrite,
            check_data=not options.no_check,
        )
        return 0

    return guarded(run)


def dry_run_of_series(experiment: Experiment) -> list[str]:
    """A dry run of the first seed."""
    seed = experiment.config.train.seed
    return [*dry_run(experiment), f"only seed {seed} was tried; the other runs differ only in the seed"]
