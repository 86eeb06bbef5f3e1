"""`frcnn COMMAND ...`: the program for all commands. `python tools/COMMAND.py ...` runs the same command."""

import argparse
import importlib
import sys
from collections.abc import Sequence

from frcnn.version import __version__

COMMANDS = {
    "train": "train a detector from a config, or resume a run",
    "eval": "evaluate a run, a checkpoint or saved detections",
    "predict": "detect objects in images",
    "check-data": "find problems in a dataset, and check how the anchors fit it",
    "convert": "convert checkpoints from and to other programs",
    "analyze": "count parameters, operations and activation memory of each part",
    "replay": "repeat a training step whose loss was not finite, and find the cause",
    "schema": "print all keys of config files, as JSON Schema or Markdown",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command with the remaining arguments.

    Only the module of the command is imported, so that `frcnn --help` does not import torch.

    Returns:
        the exit status of the command: 0 done; 1 failed; 2 arguments, config or data cannot be used.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(
        prog="frcnn",
        description="Train, evaluate and use Faster R-CNN detectors.",
        epilog="commands:\n"
        + "\n".join(f"  {name:10}  {what}" for name, what in COMMANDS.items())
        + "\n\nRun `frcnn COMMAND --help` for the arguments of a command.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"frcnn {__version__}")
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND", help="one of the commands below")
    command = parser.parse_args(arguments[:1]).command
    return importlib.import_module(f"frcnn.cli.{command.replace('-', '_')}").main(arguments[1:])


if __name__ == "__main__":
    sys.exit(main())
