"""Detect objects in many image files: annotated images, and results that survive an interruption."""

import sys
from collections.abc import Iterable, Iterator, Sequence, Set
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor
from tqdm import tqdm

from frcnn.data.batching import Sample
from frcnn.data.images import read_image
from frcnn.draw.boxes import draw_detections
from frcnn.errors import DataError, UserError
from frcnn.files.checkpoint import find_checkpoint
from frcnn.files.writing import explaining, make_folder, save_picture
from frcnn.inference.predictor import Prediction, load
from frcnn.inference.prefetch import prefetched
from frcnn.runs.prediction_files import Earlier, PredictionFiles, checksum

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".pgm", ".ppm"}


class PredictionCounts(NamedTuple):
    """The result of `predict_files`."""

    objects: int
    images: int
    """Images that are done, including those of the run that was resumed."""
    unreadable: int
    """Images that could not be read."""


class LoadedImage(NamedTuple):
    """An image that was read."""

    path: Path
    picture: Path
    """Path of its annotated image."""
    pixels: Tensor
    """(3, H, W) uint8."""
    sample: Sample
    """`pixels` resized for the detector."""


def predict_files(
    source: str | Path,
    images: Sequence[Path],
    *,
    out: Path,
    score_threshold: float = 0.5,
    batch_size: int = 1,
    workers: int = 2,
    device: str = "auto",
    compiled: bool = False,
    resume: bool = False,
    overwrite: bool = False,
) -> PredictionCounts:
    """Detect objects in image files, as `frcnn predict` does.

    1. Find the images; skip those that the resumed run has finished.
    2. Read, detect, draw and write, batch by batch. An image that cannot be read is reported on stderr and skipped.
    3. Write predictions.json.

    To detect in memory, without files, use `frcnn.load`.

    Args:
        source: a run folder (its best checkpoint) or a checkpoint.
        images: files and folders. Folders are searched recursively.
        out: folder for the annotated images, predictions.jsonl and predictions.json.
        score_threshold: in 0..1; detections with a lower score are not written.
        batch_size: images per batch.
        workers: threads that decode and resize images; 0 does this in the main thread.
        device: auto, cpu, cuda or cuda:N.
        compiled: detect with a compiled graph; compiling takes minutes.
        resume: continue the interrupted run in `out`, if there is one.
        overwrite: delete the results of an earlier run in `out`. Other files in `out` are kept.

    Raises:
        CheckpointError: there is no such run or checkpoint, or it cannot be used.
        DataError: a folder holds no image, or no image could be read.
        UserError: `out` holds the results of an earlier run, or of one with other settings, or cannot be written.
    """
    files = PredictionFiles(out)
    settings = {
        "checkpoint": checksum(find_checkpoint(Path(source))),
        "score_threshold": score_threshold,
        "working folder": str(Path.cwd()),  # relative paths in the results start here
    }
    earlier = Earlier()
    if files.exist():
        if not (resume or overwrite):
            raise UserError(
                f"{files.lines}: holds the results of an earlier run. Continue it with --resume, replace it with "
                "--overwrite, or choose another folder with --out"
            )
        if resume:
            files.check_settings(settings)
        earlier = files.read()
    elif not overwrite:
        files.refuse_foreign()
    found = find_images(images, skip=earlier.pictures)
    replaced = earlier.pictures - {path.resolve() for path, _ in found} if overwrite else frozenset()
    if overwrite:
        earlier = Earlier()
    left = [(path, inner) for path, inner in found if path.resolve() not in earlier.finished]
    predictor = load(source, device=device, compiled=compiled)
    make_folder(out)
    remove_pictures(replaced, out)
    files.begin(settings, is_resumed=bool(earlier.finished))
    num_new, num_objects = 0, earlier.num_objects

    def read(paths: tuple[Path, Path]) -> LoadedImage | DataError:
        path, picture = paths
        try:
            pixels = read_image(path)
        except DataError as error:
            return error
        return LoadedImage(path, picture, pixels, predictor.prepare(pixels))

    pictures = picture_paths(left, out, taken=earlier.pictures)
    ahead = batch_size + 2 * workers
    num_skipped = len(found) - len(left)
    try:
        with (
            closing(prefetched(read, pictures, workers=workers, ahead=ahead)) as loaded,
            tqdm(
                total=len(found), initial=num_skipped, desc="predict", unit="image", disable=None, leave=False
            ) as progress,
        ):
            for batch in batches(readable(loaded, progress), batch_size):
                samples = [image.sample for image in batch]
                results = predictor.detect_samples(samples, score_threshold=score_threshold)
                for image, detections in zip(batch, results, strict=True):
                    picture = draw_detections(
                        image.pixels, detections, predictor.class_names, score_threshold=score_threshold
                    )
                    save_picture(image.picture, picture)
                    files.add(entry(image, predictor.with_names(detections)))
                    num_new += 1
                    num_objects += len(detections.boxes)
                    progress.update()
    except KeyboardInterrupt:
        print(f"{len(earlier.finished) + num_new} images are done; continue with --resume", file=sys.stderr)
        raise
    num_done = len(earlier.finished) + num_new
    if not num_done:
        raise DataError(f"none of the {len(found)} images could be read")
    files.write_list()
    return PredictionCounts(num_objects, num_done, unreadable=len(left) - num_new)


def readable(images: Iterable[LoadedImage | DataError], progress: tqdm) -> Iterator[LoadedImage]:
    """The images that could be read; the errors of the others are printed to stderr."""
    for image in images:
        if isinstance(image, DataError):
            tqdm.write(f"error: {image}", file=sys.stderr)
            progress.update()
        else:
            yield image


def batches(images: Iterable[LoadedImage], size: int) -> Iterator[list[LoadedImage]]:
    """Lists of `size` images in order; the last list may be shorter."""
    images = iter(images)
    while batch := list(islice(images, size)):
        yield batch


def entry(image: LoadedImage, prediction: Prediction) -> dict[str, Any]:
    """The image's entry in predictions.json."""
    height, width = image.pixels.shape[1:]
    return {
        "path": str(image.path),
        "picture": str(image.picture),
        "width": width,
        "height": height,
        **prediction.to_dict(),
    }


def find_images(sources: Sequence[Path], *, skip: Set[Path] = frozenset()) -> list[tuple[Path, Path]]:
    """Find the images of files and folders; returns the path of each image, and its path relative to its folder.

    Each image is listed once. Files keep the given order; those of a folder are sorted. A file is listed regardless
    of its name. A missing file is listed too, and reported when it is read.

    Args:
        skip: resolved paths that are not input images.

    Raises:
        DataError: there is no image in a folder and its subfolders.
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


def remove_pictures(pictures: Set[Path], out: Path) -> None:
    """Delete the annotated images of an earlier run, given as resolved paths, if they are JPEG files inside `out`."""
    for picture in pictures:
        if picture.suffix == ".jpg" and picture.is_relative_to(out.resolve()):
            with explaining(picture):
                picture.unlink(missing_ok=True)


def picture_paths(
    images: Sequence[tuple[Path, Path]], out: Path, *, taken: Set[Path] = frozenset()
) -> list[tuple[Path, Path]]:
    """Choose the path of each annotated image: OUT/INNER.jpg, or INNER_2.jpg and so on if that path is taken.

    The paths of existing files, other annotated images and input images are taken, and so are the resolved `taken`.
    """
    taken = {path.resolve() for path, _ in images} | taken
    pictures = []
    for path, inner in images:
        number = 1
        picture = out / inner.with_suffix(".jpg")
        while picture.resolve() in taken or picture.exists():
            number += 1
            picture = out / inner.with_name(f"{inner.stem}_{number}.jpg")
        taken.add(picture.resolve())
        pictures.append((path, picture))
    return pictures
