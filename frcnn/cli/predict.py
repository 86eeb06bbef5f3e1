"""Detect objects in images: `frcnn predict RUN_OR_CKPT IMAGE_OR_FOLDER ...`, or `python tools/predict.py ...`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from frcnn.cli.output import make_folder, save_picture, write_json
from frcnn.cli.run import guarded
from frcnn.data.images import read_image
from frcnn.errors import DataError
from frcnn.inference.draw import draw_detections
from frcnn.inference.predictor import Predictor, load
from frcnn.records import ImageDetections

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".pgm", ".ppm"}

EXAMPLES = """\
examples:
  frcnn predict runs/demo street.jpg
  frcnn predict runs/demo/checkpoints/last.pt photos more/photo.png --out found --score-threshold 0.7

Of a folder all images are taken, those in folders below it too. DIR then holds an annotated picture of each image, in
the same order of folders, and predictions.json. Exit status: 0 all done, 1 some image could not be read, 2 none.
"""


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="frcnn predict",
        description="Detect objects in images: annotated pictures and a JSON of results.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "source", type=Path, metavar="RUN_OR_CKPT", help="run folder (its best checkpoint) or checkpoint"
    )
    parser.add_argument("images", type=Path, nargs="+", metavar="IMAGE_OR_FOLDER")
    parser.add_argument("--out", type=Path, default=Path("predictions"), metavar="DIR", help="default: predictions")
    parser.add_argument("--score-threshold", type=score, default=0.5, metavar="0..1", help="default: 0.5")
    parser.add_argument("--device", default="auto", help="auto (default), cpu, cuda or cuda:N")
    parser.add_argument(
        "--compile",
        action="store_true",
        help="detect by a compiled graph, the same for all sizes of images; it takes minutes before the first image",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    options = build_parser().parse_intermixed_args(argv)
    return guarded(lambda: run(options))


def run(options: argparse.Namespace) -> int:
    """Find the images, then read, detect, draw and write one after the other; report what cannot be read and go on."""
    found = find_images(options.images)
    predictor = load(options.source, device=options.device, compiled=options.compile)
    make_folder(options.out)
    results: list[dict[str, Any]] = []
    problems = 0
    pictures = picture_paths(found, options.out)
    for path, picture in tqdm(pictures, desc="predict", unit="image", disable=None, leave=False):
        try:
            pixels = read_image(path)
        except DataError as error:
            tqdm.write(f"error: {error}", file=sys.stderr)
            problems += 1
            continue
        results.append(predict_one(predictor, path, pixels, picture, score_threshold=options.score_threshold))
    if not results:
        raise DataError(f"none of the {len(found)} images could be read")
    write_json(options.out / "predictions.json", results)
    objects = sum(len(result["detections"]) for result in results)
    print(f"{objects} objects in {len(results)} images, written to {options.out}")
    if problems:
        print(f"{problems} of {len(found)} images could not be read", file=sys.stderr)
    return 1 if problems else 0


def predict_one(
    predictor: Predictor, path: Path, pixels: torch.Tensor, picture: Path, *, score_threshold: float
) -> dict[str, Any]:
    """Detect in one image, write the annotated picture, and give the image's entry of predictions.json."""
    prediction = predictor.predict(pixels, score_threshold=score_threshold)[0]
    detections = ImageDetections(prediction.boxes, prediction.scores, prediction.labels)
    save_picture(picture, draw_detections(pixels, detections, predictor.class_names, score_threshold=score_threshold))
    height, width = pixels.shape[1:]
    return {"path": str(path), "picture": str(picture), "width": width, "height": height, **prediction.to_dict()}


def find_images(sources: Sequence[Path]) -> list[tuple[Path, Path]]:
    """Each image once, in the order given, those of a folder sorted: its path, and its path within its folder.

    A file is taken whatever its name, and even where it is missing, which is reported when it is read.

    Raises:
        DataError: a folder without images, at any depth.
    """
    images: dict[Path, tuple[Path, Path]] = {}
    for source in sources:
        if source.is_dir():
            files = sorted(
                path for path in source.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()
            )
            if not files:
                raise DataError(f"{source}: no image in this folder (looked for {' '.join(sorted(IMAGE_SUFFIXES))})")
            entries = [(path, path.relative_to(source)) for path in files]
        else:
            entries = [(source, Path(source.name))]
        for path, inner in entries:
            images.setdefault(path.resolve(), (path, inner))
    return list(images.values())


def picture_paths(images: Sequence[tuple[Path, Path]], out: Path) -> list[tuple[Path, Path]]:
    """Each image with the path of its annotated picture: OUT/INNER.jpg, or INNER_2.jpg and so on where that is taken.

    No picture takes the name of another, nor that of an image which is read.
    """
    taken = {path.resolve() for path, _ in images}
    pictures = []
    for path, inner in images:
        number = 1
        picture = out / inner.with_suffix(".jpg")
        while picture.resolve() in taken:
            number += 1
            picture = out / inner.with_name(f"{inner.stem}_{number}.jpg")
        taken.add(picture.resolve())
        pictures.append((path, picture))
    return pictures


def score(text: str) -> float:
    """A number in 0..1, for argparse."""
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not in 0..1")
    return value
