"""Reading and preparing images beside what torchvision's reference scripts do."""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.transforms.v2 import functional as F

from frcnn.benchmark.timing import alternate, cpu_pressure, describe_machine, ratio_of, spread
from frcnn.data.dataset import DetectionDataset
from frcnn.data.loader import BatchLoader, read_sample
from frcnn.data.problems import ErrorPolicy
from frcnn.data.shapes import CLASS_NAMES, ShapesDataset
from frcnn.data.transforms import TrainTransform, resized_size

DRAWN_SIZE = (480, 640)
QUALITY = 90
FLIP = 0.5


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
    """Images a second of one process with one thread, the same images in each round on each side.

    Sides:
        ours: `read_image`, resize and flip on uint8, as a training sample is made.
        PIL, uint8: PIL's reader, flip and PILToTensor as in the references, then the same resize on uint8.
        ours, normalised: ours, then the normalised float32 that the detector makes on its device.
        references: PIL's reader, flip, PILToTensor, float32, then torchvision's normalisation and resize, which its
            detector does.

    Returns:
        plain data; `ratio` is that of the first two, which end with the same uint8 pixels, `ratio_normalised` that of
        the last two.
    """
    count = min(images, len(dataset))
    paths = [dataset.records[row].path for row in range(count)]
    assert all(path is not None for path in paths)
    reference = GeneralizedRCNNTransform(
        short_side, long_side, [value / 255 for value in mean], [value / 255 for value in std]
    )
    mean_of_255, std_of_255 = (torch.tensor(values)[:, None, None] for values in (mean, std))

    def ours(row: int) -> Tensor:
        generator = torch.Generator().manual_seed(row)
        return read_sample(dataset, row, lambda *sample: transform(*sample, generator=generator), seed=row).image

    def pil(row: int) -> Tensor:
        image = read_by_pil(Path(paths[row]), is_flipped=row % 2 == 0)  # type: ignore[arg-type]
        size = resized_size(image.shape[1], image.shape[2], short_side=short_side, long_side=long_side)
        return F.resize(image, list(size), antialias=True)

    def ours_normalised(row: int) -> Tensor:
        return (ours(row).float() - mean_of_255) / std_of_255

    def references(row: int) -> Tensor:
        image = read_by_pil(Path(paths[row]), is_flipped=row % 2 == 0).float() / 255  # type: ignore[arg-type]
        return reference.resize(reference.normalize(image))[0]

    sides = {"ours": ours, "PIL, uint8": pil, "ours, normalised": ours_normalised, "references": references}
    with one_thread():
        pressure = cpu_pressure()
        seconds = alternate(
            [_over(side, count) for side in sides.values()], warmup=1, rounds=rounds, synchronise=lambda: None
        )
    return {
        "what": "data",
        "input": {"images": count, "data": dataset.name, "short_side": short_side, "long_side": long_side},
        "rounds": rounds,
        "sides": {
            name: {
                "seconds": spread(times).as_dict(),
                "images_per_second": float(f"{count / spread(times).median:.5g}"),
            }
            for name, times in zip(sides, seconds, strict=True)
        },
        "ratio": ratio_of(seconds[1], seconds[0]).as_dict(),
        "ratio_normalised": ratio_of(seconds[3], seconds[2]).as_dict(),
        "cpu_pressure": [pressure, cpu_pressure()],
        "machine": describe_machine(torch.device("cpu")) | {"threads": 1},
    }


def compare_workers(
    loader: BatchLoader, dataset: DetectionDataset, *, batch: int, workers: int, batches: int
) -> dict[str, Any]:
    """Images a second of whole loaders with worker processes: ours, and PyTorch's over the references' reader.

    The first batches, which wait for the processes to start, do not count. One run each: worker processes of two
    loaders cannot alternate, so this is a hint and no ratio.
    """
    theirs = DataLoader(
        ReferenceImages([Path(record.path) for record in dataset.records if record.path is not None]),
        batch_size=batch,
        shuffle=True,
        num_workers=workers,
        collate_fn=tuple,
        drop_last=True,
        worker_init_fn=_one_thread_each,
    )
    return {
        "workers": workers,
        "batch": batch,
        "images_per_second": {
            "ours": _speed(iter(loader), batch=batch, batches=batches, warmup=workers * 2),
            "references": _speed(_endless(theirs), batch=batch, batches=batches, warmup=workers * 2),
        },
    }


class ReferenceImages(Dataset[Tensor]):
    """Images as the references' data sets give them: float32 of the file's own size."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, row: int) -> Tensor:
        return read_by_pil(self.paths[row], is_flipped=row % 2 == 0).float() / 255


def read_by_pil(path: Path, *, is_flipped: bool) -> Tensor:
    """PIL's pixels as (3, H, W) uint8, mirrored or not."""
    with Image.open(path) as image:
        tensor = F.pil_to_tensor(image.convert("RGB"))
    return F.horizontal_flip(tensor) if is_flipped else tensor


def write_drawn(folder: Path, *, images: int, seed: int = 0) -> tuple[Path, Path]:
    """JPEG files of drawn shapes and their COCO annotation; returns the folder of images and the file."""
    height, width = DRAWN_SIZE
    drawn = ShapesDataset(num_images=images, seed=seed, height=height, width=width, problems=ErrorPolicy("raise"))
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


def _speed(loader: Iterator[Any], *, batch: int, batches: int, warmup: int) -> float:
    for _ in range(warmup):
        next(loader)
    start = time.perf_counter()
    for _ in range(batches):
        next(loader)
    return float(f"{batches * batch / (time.perf_counter() - start):.5g}")


def _endless(loader: DataLoader) -> Iterator[Any]:
    while True:
        yield from loader


def _one_thread_each(worker: int) -> None:
    torch.set_num_threads(1)


@contextmanager
def one_thread() -> Iterator[None]:
    """As in a loader's worker."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
