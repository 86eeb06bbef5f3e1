"""`frcnn COMMAND ...`: one program for all commands; each is the same program as tools/COMMAND.py."""

import argparse
import importlib
import sys
from collections.abc import Sequence

import frcnn

COMMANDS = {
    "train": "train a detector from a config, or resume a run",
    "eval": "evaluate a run, a checkpoint or saved detections",
    "predict": "detect objects in images",
    "check-data": "find what is wrong in a data set, and how the anchors fit it",
    "convert": "take over other programs' checkpoints, and give ours to torchvision",
    "analyze": "count parameters, arithmetic and activation memory of each part",
    "replay": "repeat a training step whose loss was not finite, and say where it began",
    "schema": "print all keys of config files, as JSON Schema or Markdown",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command with the rest of the arguments.

    Only the command's own module is imported, so that `frcnn --help` need not wait for torch.

    Returns:
        The command's exit status: 0 done, 1 failed, 2 unusable arguments, config or data.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(
        prog="frcnn",
        description="Faster R-CNN: train, evaluate, predict.",
        epilog="\n".join(f"  {name:10} {what}" for name, what in COMMANDS.items())
        + "\n\nfrcnn COMMAND --help describes the arguments of a command.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"frcnn {frcnn.__version__}")
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND")
    command = parser.parse_args(arguments[:1]).command
    return importlib.import_module(f"frcnn.cli.{command.replace('-', '_')}").main(arguments[1:])


if __name__ == "__main__":
    sys.exit(main())
