"""Reading and preparing images beside what torchvision's reference scripts do."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.transforms.v2 import functional as F

from benchmarks.timing import alternate, cpu_pressure, describe_machine, ratio_of, spread
from frcnn.data.augment.resize import resized_size
from frcnn.data.augment.transforms import TrainTransform
from frcnn.data.dataset import DetectionDataset
from frcnn.data.formats.shapes import CLASS_NAMES, ShapesDataset
from frcnn.data.loader import read_sample
from frcnn.data.problems import ErrorPolicy

DRAWN_SIZE = (480, 640)
QUALITY = 90
CHECKED, LEVELS = 8, 2.0
"""First images whose pixels are compared, and how far apart those of an image may be on average, of 255."""
RATIOS = {
    "ratio": ("PIL", "ours"),
    "ratio_normalised": ("references", "ours, normalised"),
    "ratio_of_loader": ("references", "ours"),
}
"""Each is the seconds of the first side over those of the second."""


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
    """Images a second of one process with one thread, the same images in each round on each side; none is flipped.

    Sides:
        ours: `read_image` and resize, as a training sample is made: resized uint8, which is what a process of the
            loader hands on.
        PIL: PIL's reader and PIL's resize, to uint8 pixels of the same size.
        ours, normalised: ours, then the normalised float32 that the detector makes on its device.
        references: PIL's reader, PILToTensor, float32, then torchvision's normalisation and resize, which its detector
            does: without antialias, and to a size that may differ by a pixel.

    Args:
        transform: resizes and does not flip.

    Returns:
        plain data; `ratio` is PIL / ours, `ratio_normalised` references / ours, normalised, and `ratio_of_loader`
        references / ours: all that is done to an image before the network, beside what is left to our loader. All are
        None, with the reason in `no_ratio`, where ours and PIL do not give the same pixels for the first images.
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
    with one_thread():
        no_ratio = differences(ours, pil, rows=range(min(CHECKED, count)))
        pressure = cpu_pressure()
        seconds = alternate(
            [_over(side, count) for side in sides.values()], warmup=1, rounds=rounds, synchronise=lambda: None
        )
    times_of = dict(zip(sides, seconds, strict=True))
    ratios = {
        name: None if no_ratio else ratio_of(times_of[peer], times_of[own]).as_dict()
        for name, (peer, own) in RATIOS.items()
    }
    return {
        "what": "data",
        "input": {"images": count, "data": dataset.name, "short_side": short_side, "long_side": long_side},
        "rounds": rounds,
        "sides": {
            name: {
                "seconds": spread(times).as_dict(),
                "images_per_second": float(f"{count / spread(times).median:.5g}"),
            }
            for name, times in times_of.items()
        },
        **ratios,
        "no_ratio": no_ratio,
        "cpu_pressure": [pressure, cpu_pressure()],
        "machine": describe_machine(torch.device("cpu")) | {"threads": 1},
    }


def open_by_pil(path: Path) -> Image.Image:
    """An image as the references' data sets give it: RGB, as it is stored."""
    with Image.open(path) as image:
        return image.convert("RGB")


def differences(ours: Callable[[int], Tensor], pil: Callable[[int], Tensor], *, rows: Iterable[int]) -> list[str]:
    """In what two ways to read differ: another size, or pixels further apart than two resizes round; empty if in none.

    Each gives the (3, H, W) uint8 pixels of a row.
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
    """JPEG files of drawn shapes and their COCO annotation; returns the folder of images and the file."""
    height, width = DRAWN_SIZE
    drawn = ShapesDataset(num_images=images, seed=0, height=height, width=width, problems=ErrorPolicy("raise"))
    pictures = folder / "images"
    pictures.mkdir()
    entries, annotations = [], []
    for row, record in enumerate(drawn.records):
        Image.fromarray(drawn.read_image(row).permute(1, 2, 0).numpy()).save(pictures / f"{row}.jpg", quality=QUALITY)
        entries.append({"id": row + 1, "file_name": f"{row}.jpg", "height": height, "width": width})
        for box, label in zip(record.boxes.tolist(), record.labels.tolist(), strict=True):
            xywh = [box[0], box[1], box[2] - box[0], box[3] - box[1]]
            entry = {"id": len(annotations) + 1, "image_id": row + 1, "category_id": label, "bbox": xywh}
            annotations.append(entry | {"area": xywh[2] * xywh[3], "iscrowd": 0})
    categories = [{"id": label, "name": name} for label, name in enumerate(CLASS_NAMES, start=1)]
    file = folder / "annotations.json"
    file.write_text(json.dumps({"images": entries, "annotations": annotations, "categories": categories}))
    return pictures, file


def _over(side: Callable[[int], Tensor], count: int) -> Callable[[], None]:
    def read_all() -> None:
        for row in range(count):
            side(row)

    return read_all


@contextmanager
def one_thread() -> Iterator[None]:
    """As in a loader's worker."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
