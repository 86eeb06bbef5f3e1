"""Train a detector: `frcnn train CONFIG [key=value ...]`, or `python tools/train.py ...`."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from frcnn.checkpoint import find_checkpoint, load_checkpoint
from frcnn.cli.run import guarded
from frcnn.config import Config, load_config, parse_config
from frcnn.errors import CheckpointError
from frcnn.train.build import Experiment, build_experiment, describe
from frcnn.train.distributed import World, done_by_main, join_world
from frcnn.train.dry_run import dry_run
from frcnn.train.initialize import load_weights
from frcnn.train.run_folder import RunFolder, describe_environment, prepare_folder, refuse_overwriting
from frcnn.train.state import check_same_config
from frcnn.train.trainer import train

EXAMPLES = """\
examples:
  frcnn train configs/demo.yaml
  frcnn train configs/demo.yaml train.lr=0.01 data.workers=4 --out runs/faster
  frcnn train --resume --out runs/faster
  torchrun --nproc-per-node 2 tools/train.py configs/demo.yaml
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

    config_path = Path(paths[0]) if paths else options.out / "config.yaml"
    folder = RunFolder(options.out or Path("runs") / config_path.stem)
    return guarded(lambda: run(config_path, overrides, folder, options))


def run(config_path: Path, overrides: Sequence[str], folder: RunFolder, options: argparse.Namespace) -> int:
    """Read the config, build everything, and train, resume or rehearse."""
    if config_path == folder.config:
        require_run(folder)
    config = load_config(config_path, overrides)
    with join_world(config.train.device) as world:
        announce(world, head_line(config, world, config_path, folder))
        resumed = None
        if options.resume:
            resumed = load_run(folder, config, world)
        elif not options.dry_run:
            done_by_main(lambda: refuse_overwriting(folder, overwrite=options.overwrite), world)
        weights_follow = options.init_from is not None and config.model.backbone.weights is None
        experiment = build_experiment(config, world, pretrained=resumed is None and not weights_follow)
        announce(world, describe(experiment))
        if options.init_from:
            source = find_checkpoint(options.init_from) if options.init_from.is_dir() else options.init_from
            report = load_weights(experiment.model, source, class_names=experiment.train_set.class_names)
            announce(world, report.text(source))

        if options.dry_run:
            announce(world, "\n".join([*dry_run(experiment), "dry run done: nothing was kept"]))
            return 0
        if resumed is not None and is_finished(resumed, experiment):
            announce(world, f"the run in {folder.path} is finished ({experiment.length} steps); nothing to do")
            return 0
        if resumed is None:
            done_by_main(lambda: prepare_folder(folder, overwrite=options.overwrite), world)
        else:
            announce(world, f"resume at step {resumed['step']} of {experiment.length}{longer(resumed, config)}")
        train(experiment, folder, resumed=resumed)
        announce(world, f"done: {folder.path}")
    return 0


def require_run(folder: RunFolder) -> None:
    if not folder.last.exists():
        raise CheckpointError(f"{folder.path} holds no run to resume (no {folder.last}); start it without --resume")


def load_run(folder: RunFolder, config: Config, world: World) -> dict[str, Any]:
    """The checkpoint to go on from, read by rank 0 for all; its config must be this one."""

    def read() -> dict[str, Any]:
        require_run(folder)
        checkpoint = load_checkpoint(folder.last)
        then = parse_config(checkpoint["config"], source=str(folder.last))
        check_same_config(config, then, source=folder.last)
        return checkpoint

    return done_by_main(read, world)


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
