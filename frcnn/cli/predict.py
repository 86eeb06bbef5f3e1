"""Detect objects in images: `frcnn predict RUN_OR_CKPT IMAGE_OR_FOLDER ...`, or `python tools/predict.py ...`."""

import argparse
import sys
from collections.abc import Iterable, Iterator, Sequence, Set
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import PIL.Image
import torch
from tqdm import tqdm

from frcnn.annotations import ImageDetections
from frcnn.cli.predictions import Earlier, Predictions, checksum
from frcnn.cli.run import guarded
from frcnn.data.batching import Sample
from frcnn.data.images import read_image
from frcnn.draw.boxes import draw_detections
from frcnn.errors import DataError, UserError
from frcnn.files.checkpoint import find_checkpoint
from frcnn.files.output import make_folder, save_picture
from frcnn.inference.predictor import Prediction, Predictor, load
from frcnn.inference.prefetch import prefetched

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".pgm", ".ppm"}

EXAMPLES = """\
examples:
  frcnn predict runs/demo street.jpg
  frcnn predict runs/demo/checkpoints/last.pt photos more/photo.png --out found --score-threshold 0.7

  frcnn predict runs/demo photos --batch-size 8 --workers 6
  frcnn predict runs/demo photos --resume

Folders are searched recursively. DIR then holds an annotated picture of each image, in the same folders, and
predictions.json. Each result is also written to predictions.jsonl as soon as it is known, so an interrupted run loses
nothing: --resume skips the images that are finished. It needs the same checkpoint and --score-threshold; batch size,
workers and device may differ. Images that could not be read are tried again.

The images of a batch are padded to one canvas. Where their canvases are equal, --batch-size does not change the results
except for rounding. Otherwise, objects near the edge of the smaller images may change slightly.

Exit status: 0 all images done, 1 some image could not be read, 2 none could be read, or unusable arguments.
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
    parser.add_argument("--batch-size", type=positive, default=1, metavar="N", help="images at a time (default: 1)")
    parser.add_argument(
        "--workers",
        type=not_negative,
        default=2,
        metavar="N",
        help="threads that decode and resize images while the model runs (default: 2; 0: none)",
    )
    parser.add_argument("--device", default="auto", help="auto (default), cpu, cuda or cuda:N")
    parser.add_argument(
        "--compile",
        action="store_true",
        help="detect by a compiled graph, the same for all sizes of images; it takes minutes before the first image",
    )
    existing = parser.add_mutually_exclusive_group()
    existing.add_argument("--resume", action="store_true", help="continue the interrupted run in DIR, if there is one")
    existing.add_argument("--overwrite", action="store_true", help="replace the results of the earlier run in DIR")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    options = build_parser().parse_intermixed_args(argv)
    return guarded(lambda: run(options))


class Image(NamedTuple):
    """An image that was read."""

    path: Path
    picture: Path
    """Where its annotated picture goes."""
    pixels: torch.Tensor
    """(3, H, W) uint8."""
    sample: Sample
    """`pixels` resized for the detector."""


def run(options: argparse.Namespace) -> int:
    """Find the images; read, detect, write and draw batch by batch; report what cannot be read and continue."""
    predictions = Predictions(options.out)
    settings = {"checkpoint": checksum(find_checkpoint(options.source)), "score_threshold": options.score_threshold}
    earlier = Earlier()
    if predictions.exist():
        if not (options.resume or options.overwrite):
            raise UserError(
                f"{predictions.lines}: holds the results of an earlier run; --resume continues it, --overwrite "
                "replaces it, or choose another folder by --out"
            )
        if options.resume:
            predictions.check_settings(settings)
        earlier = predictions.read()
    found = find_images(options.images, skip=earlier.pictures)
    if options.overwrite:
        earlier = Earlier()
    left = [(path, inner) for path, inner in found if path.resolve() not in earlier.finished]
    predictor = load(options.source, device=options.device, compiled=options.compile)
    make_folder(options.out)
    predictions.begin(settings, is_resumed=bool(earlier.finished))
    num_done, num_objects = len(earlier.finished), earlier.num_objects

    def read(places: tuple[Path, Path]) -> Image | DataError:
        path, picture = places
        try:
            pixels = read_image(path)
        except DataError as error:
            return error
        return Image(path, picture, pixels, predictor.prepare(pixels))

    places = picture_paths(left, options.out, taken=earlier.pictures)
    ahead = options.batch_size + 2 * options.workers
    num_skipped = len(found) - len(left)
    try:
        with (
            closing(prefetched(read, places, workers=options.workers, ahead=ahead)) as images,
            tqdm(
                total=len(found), initial=num_skipped, desc="predict", unit="image", disable=None, leave=False
            ) as progress,
        ):
            for batch in batches(told(images, progress), options.batch_size):
                samples = [image.sample for image in batch]
                results = predictor.predict_batch(samples, score_threshold=options.score_threshold)
                for image, prediction in zip(batch, results, strict=True):
                    save_picture(image.picture, draw(image, prediction, predictor, options.score_threshold))
                    predictions.add(entry(image, prediction))
                    num_done += 1
                    num_objects += len(prediction.boxes)
                    progress.update()
    except KeyboardInterrupt:
        print(f"{num_done} images are done; --resume continues with the others", file=sys.stderr)
        raise
    if not num_done:
        raise DataError(f"none of the {len(found)} images could be read")
    predictions.write_list()
    print(f"{num_objects} objects in {num_done} images, written to {options.out}")
    problems = len(left) - (num_done - len(earlier.finished))
    if problems:
        print(f"{problems} of {len(found)} images could not be read", file=sys.stderr)
    return 1 if problems else 0


def told(images: Iterable[Image | DataError], progress: tqdm) -> Iterator[Image]:
    """The images that could be read; one line on stderr for each of the others."""
    for image in images:
        if isinstance(image, DataError):
            tqdm.write(f"error: {image}", file=sys.stderr)
            progress.update()
        else:
            yield image


def batches(images: Iterable[Image], size: int) -> Iterator[list[Image]]:
    """Lists of `size` images in order; the last one may be shorter."""
    images = iter(images)
    while batch := list(islice(images, size)):
        yield batch


def entry(image: Image, prediction: Prediction) -> dict[str, Any]:
    """The image's entry of predictions.json."""
    height, width = image.pixels.shape[1:]
    return {
        "path": str(image.path),
        "picture": str(image.picture),
        "width": width,
        "height": height,
        **prediction.to_dict(),
    }


def draw(image: Image, prediction: Prediction, predictor: Predictor, score_threshold: float) -> PIL.Image.Image:
    """The annotated picture."""
    detections = ImageDetections(prediction.boxes, prediction.scores, prediction.labels)
    return draw_detections(image.pixels, detections, predictor.class_names, score_threshold=score_threshold)


def find_images(sources: Sequence[Path], *, skip: Set[Path] = frozenset()) -> list[tuple[Path, Path]]:
    """Each image once, in the order given, those of a folder sorted: its path, and its path within its folder.

    A file is taken whatever its name, and even where it is missing, which is reported when it is read.

    Args:
        skip: resolved paths that are not images to predict on.

    Raises:
        DataError: a folder without images, at any depth.
    """
    images: dict[Path, tuple[Path, Path]] = {}
    for source in sources:
        if source.is_dir():
            files = sorted(
                path
                for path in source.rglob("*")
                if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file() and path.resolve() not in skip
            )
            if not files:
                raise DataError(f"{source}: no image in this folder (looked for {' '.join(sorted(IMAGE_SUFFIXES))})")
            entries = [(path, path.relative_to(source)) for path in files]
        else:
            entries = [(source, Path(source.name))]
        for path, inner in entries:
            images.setdefault(path.resolve(), (path, inner))
    return list(images.values())


def picture_paths(
    images: Sequence[tuple[Path, Path]], out: Path, *, taken: Set[Path] = frozenset()
) -> list[tuple[Path, Path]]:
    """Each image with the path of its annotated picture: OUT/INNER.jpg, or INNER_2.jpg and so on where that is taken.

    No picture takes the name of another, of an image that is read, or one in `taken` (resolved).
    """
    taken = {path.resolve() for path, _ in images} | taken
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


def positive(text: str) -> int:
    """A whole number of 1 or more, for argparse."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return value


def not_negative(text: str) -> int:
    """A whole number of 0 or more, for argparse."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} is less than 0")
    return value
