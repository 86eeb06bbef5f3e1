"""Repeat a step that was not finite: `frcnn replay RUN/bad_step`, or `python tools/replay.py ...`."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from frcnn.cli.run import guarded
from frcnn.model.speed.device import find_device
from frcnn.training.faults.bad_step import load_bad_step
from frcnn.training.faults.replay import replay


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="frcnn replay",
        description="Repeat the step whose loss or gradient was not finite, and find the module and the image.",
    )
    parser.add_argument("source", type=Path, metavar="RUN/bad_step", help="bad step that a training run saved")
    parser.add_argument("--device", default="cpu", help="cpu (default), cuda, cuda:N or auto")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    options = build_parser().parse_args(argv)

    def run() -> int:
        device = find_device(options.device, setting="--device")
        for line in replay(load_bad_step(options.source), device=device):
            print(line, flush=True)
        return 0

    return guarded(run)
