"""Check data before training: `frcnn check-data CONFIG [key=value ...]`, or `python tools/check_data.py ...`."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from frcnn.check.build_checks import check_config
from frcnn.check.findings import SEVERITIES
from frcnn.check.findings_text import format_report, summary
from frcnn.check.fix import require_new, write_fixed
from frcnn.check.pictures import draw_findings
from frcnn.check.run_checks import Check
from frcnn.cli.arguments import not_negative
from frcnn.cli.run import guarded
from frcnn.config import load_config
from frcnn.files.writing import make_folder, save_picture, write_json

PICTURES = 3
"""Largest number of pictures for each finding."""

EXAMPLES = """\
examples:
  frcnn check-data configs/voc/resnet50_fpn.yaml
  frcnn check-data configs/demo.yaml data.train.num_images=100
  frcnn check-data configs/coco/resnet50_fpn_1x.yaml --images 1000 --json check.json
  frcnn check-data mine.yaml --pictures wrong --fix cleaned

exit status:
  0 no error or warning was found (there may be notes), 1 at least one error or warning was found, 2 the arguments,
  the config or the data cannot be used. With --fail-on error, warnings do not count; with --fail-on note, notes count.

cleaned annotations:
  --fix OUT writes cleaned annotations to the new folder OUT. The original files do not change. Images are not copied;
  for VOC, OUT/JPEGImages is a link to the images; for YOLO, each image is a link. See docs/check_data.md.
"""


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="frcnn check-data",
        description="Find problems in the training and validation data of a config, and check how the anchors fit it.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("config", type=Path, metavar="CONFIG", help="config file")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="config keys to override")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write all findings to a JSON file")
    parser.add_argument("--pictures", type=Path, metavar="DIR", help="draw the first cases of each finding to DIR")
    parser.add_argument("--fix", type=Path, metavar="OUT", help="write a cleaned copy of the annotations to OUT")
    parser.add_argument(
        "--images", type=not_negative, metavar="N", help="read N images of each source, evenly spread (default: all)"
    )
    parser.add_argument(
        "--workers", type=not_negative, default=4, metavar="N", help="threads that read images (default: 4)"
    )
    parser.add_argument(
        "--examples", type=not_negative, default=3, metavar="N", help="cases to show for each finding (default: 3)"
    )
    parser.add_argument(
        "--fail-on", choices=SEVERITIES, default="warning", help="lowest severity that sets exit status 1"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    options = build_parser().parse_intermixed_args(argv)
    return guarded(lambda: run(options))


def run(options: argparse.Namespace) -> int:
    """Run the check, print the report, and write the requested files."""
    config = load_config(options.config, options.overrides)
    if options.fix:
        require_new(options.fix)
    if options.pictures:
        make_folder(options.pictures)
    check = check_config(config, most_images=options.images, workers=options.workers)
    print(format_report(check, most_examples=options.examples))
    if options.json:
        write_json(options.json, summary(check))
        print(f"written to {options.json}")
    if options.pictures:
        num_pictures = 0
        for name, picture in draw_findings(check.findings, most=PICTURES):
            save_picture(options.pictures / f"{name}.jpg", picture)
            num_pictures += 1
        print(f"{num_pictures} pictures in {options.pictures}")
    if options.fix:
        print("\n".join(write_fixed(check, options.fix)))
    return 1 if has_failed(check, fail_on=options.fail_on) else 0


def has_failed(check: Check, *, fail_on: str) -> bool:
    """Whether there is a finding of this or a higher severity."""
    counted = SEVERITIES[: SEVERITIES.index(fail_on) + 1]  # type: ignore[arg-type]
    return any(check.of_severity(severity) for severity in counted)
