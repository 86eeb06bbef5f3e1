"""Analyze a detector: `frcnn analyze CONFIG [key=value ...]`, or `python tools/analyze.py ...`."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from frcnn.analyze.analyze import analyze
from frcnn.analyze.build_scene import count_classes, read_config, read_data
from frcnn.analyze.parts_table import format_analysis
from frcnn.cli.arguments import positive, size
from frcnn.cli.run import guarded
from frcnn.files.writing import write_json

EXAMPLES = """\
examples:
  frcnn analyze configs/base/resnet50_fpn.yaml --size 800x1333
  frcnn analyze configs/voc/vgg16.yaml --batch 2 --json vgg16.json

Nothing is trained or downloaded: the detector runs on fake tensors, which have a shape but no data. See
docs/benchmarking.md.
"""


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="frcnn analyze",
        description="Count parameters, arithmetic and activation memory of each part of a detector.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("config", type=Path, metavar="CONFIG", help="config file; it does not have to name data")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="changes to the config")
    parser.add_argument("--size", type=size, metavar="HxW", help="size of the images (default: as in evaluation)")
    parser.add_argument("--batch", type=positive, default=1, metavar="N", help="batch size (default: 1)")
    parser.add_argument("--classes", type=positive, metavar="K", help="foreground classes (default: from the data)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the results as JSON")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    options = build_parser().parse_intermixed_args(argv)
    return guarded(lambda: run(options))


def run(options: argparse.Namespace) -> int:
    """Count, print the table, and write JSON if requested."""
    config, names_data = read_config(options.config, options.overrides)
    num_classes = options.classes or count_classes(config, read_data(config)[0] if names_data else None)
    result = analyze(config, num_classes=num_classes, size=options.size, batch=options.batch)
    print(format_analysis(result))
    if options.json:
        write_json(options.json, {"config": str(options.config), "overrides": options.overrides, **result})
        print(f"written to {options.json}")
    return 0
