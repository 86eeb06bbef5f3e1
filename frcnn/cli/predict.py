"""Detect objects in images: `frcnn predict RUN_OR_CKPT IMAGE_OR_FOLDER ...`, or `python tools/predict.py ...`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from frcnn.cli.arguments import not_negative, positive
from frcnn.cli.run import guarded
from frcnn.runs.predict import predict_files

EXAMPLES = """\
examples:
  frcnn predict runs/demo street.jpg
  frcnn predict runs/demo/checkpoints/last.pt photos more/photo.png --out found --score-threshold 0.7
  frcnn predict runs/demo photos --batch-size 8 --workers 6
  frcnn predict runs/demo photos --resume

output:
  Folders are searched recursively. DIR receives an annotated copy of each image, in the same subfolders, and
  predictions.json. Each result is also written to predictions.jsonl as soon as it is ready, so an interrupted run loses
  nothing: --resume skips the images that are finished. It needs the same checkpoint and --score-threshold; batch size,
  workers and device may differ. Images that could not be read are tried again.

batches:
  The images of a batch are padded to one canvas. If their canvases are equal, --batch-size does not change the results
  except for rounding. Otherwise, objects near the edge of the smaller images may change slightly.

exit status:
  0 all images are done, 1 some images could not be read, 2 no image could be read or the arguments cannot be used
"""


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="frcnn predict",
        description="Detect objects in images. Writes annotated images and a JSON file with the results.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "source", type=Path, metavar="RUN_OR_CKPT", help="run folder (its best checkpoint) or checkpoint"
    )
    parser.add_argument("images", type=Path, nargs="+", metavar="IMAGE_OR_FOLDER", help="image files and folders")
    parser.add_argument(
        "--out", type=Path, default=Path("predictions"), metavar="DIR", help="output folder (default: predictions)"
    )
    parser.add_argument(
        "--score-threshold", type=score, default=0.5, metavar="0..1", help="lowest score to write (default: 0.5)"
    )
    parser.add_argument("--batch-size", type=positive, default=1, metavar="N", help="images per batch (default: 1)")
    parser.add_argument(
        "--workers",
        type=not_negative,
        default=2,
        metavar="N",
        help="threads that decode and resize images while the model runs (default: 2; 0 uses the main thread)",
    )
    parser.add_argument("--device", default="auto", help="auto (default), cpu, cuda or cuda:N")
    parser.add_argument(
        "--compile",
        action="store_true",
        help="detect with a compiled graph, which serves all image sizes; compiling takes minutes",
    )
    existing = parser.add_mutually_exclusive_group()
    existing.add_argument("--resume", action="store_true", help="continue the interrupted run in DIR, if there is one")
    existing.add_argument("--overwrite", action="store_true", help="replace the results of the earlier run in DIR")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    options = build_parser().parse_intermixed_args(argv)

    def run() -> int:
        counts = predict_files(
            options.source,
            options.images,
            out=options.out,
            score_threshold=options.score_threshold,
            batch_size=options.batch_size,
            workers=options.workers,
            device=options.device,
            compiled=options.compile,
            resume=options.resume,
            overwrite=options.overwrite,
        )
        print(f"{counts.objects} objects in {counts.images} images, written to {options.out}")
        if counts.unreadable:
            print(
                f"{counts.unreadable} of {counts.images + counts.unreadable} images could not be read", file=sys.stderr
            )
        return 1 if counts.unreadable else 0

    return guarded(run)


def score(text: str) -> float:
    """A number in 0..1."""
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not in 0..1")
    return value
