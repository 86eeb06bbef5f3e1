"""Reading and resizing images, compared with Pillow and with torchvision's reference scripts."""

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.benchmark import set_torch_threads
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.transforms.v2 import functional as F

from benchmarks.evaluation import annotation_file
from benchmarks.timing import alternate, spread
from frcnn.data.augment.resize import resized_size
from frcnn.data.augment.transforms import TrainTransform
from frcnn.data.dataset import DetectionDataset
from frcnn.data.formats.shapes import CLASS_NAMES, ShapesDataset
from frcnn.data.loader import read_sample
from frcnn.data.problems import ErrorPolicy

DRAWN_SIZE = (480, 640)
QUALITY = 90
CHECKED, LEVELS = 8, 2.0
"""Number of images whose pixels are compared, and the largest mean difference of an image in levels of 255."""
RATIOS = {
    "ratio": ("PIL", "ours"),
    "ratio_normalised": ("references", "ours, normalised"),
    "ratio_of_loader": ("references", "ours"),
}
"""Seconds of the first side divided by seconds of the second."""


def compare_loading(
    dataset: DetectionDataset,
    transform: TrainTransform,
    *,
    short_side: int,
    long_side: int,
    mean: Sequence[float],
    std: Sequence[float],
    images: int,
    rounds: int,
) -> dict[str, Any]:
    """Measure images per second of one process with one thread, on the same images in each round.

    Sides:
        ours: `read_sample`, as for training: resized uint8, which is what a worker process of the loader returns.
        PIL: Pillow's decoder and Pillow's resize, to uint8 pixels of the same size.
        ours, normalised: ours, then the normalized float32 that the detector computes on its device.
        references: Pillow's decoder, PILToTensor, float32, then torchvision's normalization and resize as in its
            detector: without antialiasing, and to a size that may differ by a pixel.

    Args:
        transform: resizes and does not flip.

    Returns:
        Plain data. `ratio` is PIL / ours, `ratio_normalised` is references / ours, normalised, and `ratio_of_loader`
        is references / ours: the references' work before the network compared with our loader's. All are None if the
        pixels of ours and PIL differ.
    """
    count = min(images, len(dataset))
    paths = [Path(record.path) for record in dataset.records[:count] if record.path is not None]
    assert len(paths) == count
    reference = GeneralizedRCNNTransform(
        short_side, long_side, [value / 255 for value in mean], [value / 255 for value in std]
    )
    mean_of_255, std_of_255 = (torch.tensor(values)[:, None, None] for values in (mean, std))

    def ours(row: int) -> Tensor:
        generator = torch.Generator().manual_seed(row)
        return read_sample(dataset, row, lambda sample: transform(sample, generator), seed=row).image

    def pil(row: int) -> Tensor:
        image = open_by_pil(paths[row])
        height, width = resized_size(image.height, image.width, short_side=short_side, long_side=long_side)
        return F.pil_to_tensor(image.resize((width, height), Image.Resampling.BILINEAR))

    def ours_normalised(row: int) -> Tensor:
        return (ours(row).float() - mean_of_255) / std_of_255

    def references(row: int) -> Tensor:
        image = F.pil_to_tensor(open_by_pil(paths[row])).float() / 255
        return reference.resize(reference.normalize(image))[0]

    sides = {"ours": ours, "PIL": pil, "ours, normalised": ours_normalised, "references": references}
    steps = {name: _over(side, count) for name, side in sides.items()}
    with set_torch_threads(1):  # as in a worker process of the loader
        no_ratio = differences(ours, pil, rows=range(min(CHECKED, count)))
        timings = alternate(steps, warmup=1, rounds=rounds)
    return {
        "what": "data",
        "input": {"images": count, "data": dataset.name, "short_side": short_side, "long_side": long_side},
        "sides": {
            name: {
                "seconds": spread(seconds).as_dict(),
                "images_per_second": float(f"{count / spread(seconds).median:.5g}"),
            }
            for name, seconds in timings.seconds.items()
        },
        **{name: None if no_ratio else timings.ratio(*pair) for name, pair in RATIOS.items()},
        "no_ratio": no_ratio,
        **timings.conditions,
    }


def open_by_pil(path: Path) -> Image.Image:
    """Decode an image to RGB as the references' datasets do."""
    with Image.open(path) as image:
        return image.convert("RGB")


def differences(ours: Callable[[int], Tensor], pil: Callable[[int], Tensor], *, rows: Iterable[int]) -> list[str]:
    """Describe the first difference in size or, beyond the rounding of two resizes, in pixels; empty if none.

    Args:
        ours, pil: row -> (3, H, W) uint8 pixels.
        rows: compared one by one.
    """
    for row in rows:
        mine, other = ours(row), pil(row)
        if mine.shape != other.shape:
            return [f"image {row} is {tuple(mine.shape)} by ours and {tuple(other.shape)} by PIL"]
        distance = float((mine.float() - other.float()).abs().mean())
        if not distance < LEVELS:
            return [f"the pixels of image {row} are {distance:.2g} levels of 255 apart on average"]
    return []


def write_drawn(folder: Path, *, images: int) -> tuple[Path, Path]:
    """Write drawn shapes as JPEG files and a COCO annotation file; return the image folder and the file."""
    height, width = DRAWN_SIZE
    drawn = ShapesDataset(num_images=images, seed=0, height=height, width=width, problems=ErrorPolicy("raise"))
    content = annotation_file(drawn.records, CLASS_NAMES)
    pictures, file = folder / "images", folder / "annotations.json"
    pictures.mkdir()
    for row, entry in enumerate(content["images"]):
        entry["file_name"] = f"{row}.jpg"
        pixels = drawn.read_image(row).permute(1, 2, 0).numpy()  # (3, H, W) -> (H, W, 3)
        Image.fromarray(pixels).save(pictures / entry["file_name"], quality=QUALITY)
    file.write_text(json.dumps(content))
    return pictures, file


def _over(side: Callable[[int], Tensor], count: int) -> Callable[[], None]:
    def read_all() -> None:
        for row in range(count):
            side(row)

    return read_all
