"""Run a detector on a whole dataset, and evaluate the detections."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import nn
from tqdm import tqdm

from frcnn.annotations import ImageDetections, ImageRecord
from frcnn.data.dataset import DetectionDataset
from frcnn.errors import DataError
from frcnn.evaluation.evaluate import compute_metrics
from frcnn.model.detector import FasterRCNN
from frcnn.model.speed.autocast import Precision, autocast
from frcnn.model.speed.compiled import CompiledDetector
from frcnn.ops.boxes import to_original
from frcnn.structures import Batch


class Evaluation(NamedTuple):
    """Metrics of detections on a dataset, and what they were computed from."""

    report: dict[str, Any]
    """The content of eval.json: `report["coco"]["AP"]`, `report["voc"]["mAP"]`, `report["per_class"]`; see
    `evaluation.evaluate.compute_metrics`."""
    records: list[ImageRecord]
    """Annotations of the n evaluated images."""
    detections: list[ImageDetections]
    """Detections of the same images in the same order."""
    class_names: tuple[str, ...]
    """K names; label k is class_names[k - 1]."""
    notes: list[str]
    """Facts about the dataset that change what is evaluated, such as classes that data.classes does not list."""
    skipped: str
    """Summary of the images and annotations that were skipped as unusable (data.on_error=skip); "" if none."""


def detect_dataset(
    model: FasterRCNN | CompiledDetector,
    loader: Iterable[Batch | None],
    dataset: DetectionDataset,
    *,
    device: torch.device | str,
    precision: Precision = "float32",
) -> dict[int, ImageDetections]:
    """Detect objects in every image of a loader.

    1. Put the model into evaluation mode.
    2. For each batch, detect and map the boxes to the pixels of the original images.
    3. Restore the mode of each module, also after an error.

    Args:
        loader: batches; None stands for a batch without a readable image.
        dataset: the dataset of the loader. The progress bar, shown on a terminal only, gives its name.
        precision: autocast type. On a CPU, fp16 means float32.

    Returns:
        detections by position in the dataset. Images that could not be read, and images that fill up a batch (index
        -1), are missing.
    """
    found: dict[int, ImageDetections] = {}
    with (
        evaluation_mode(model),
        tqdm(loader, desc=f"detect on {dataset.name}", unit="batch", disable=None, leave=False) as batches,
    ):
        for batch in batches:
            if batch is None:
                continue
            detections = detect_batch(model, batch, device=device, precision=precision)
            found |= {index: each for index, each in zip(batch.index.tolist(), detections, strict=True) if index >= 0}
    return found


def evaluate_dataset(
    dataset: DetectionDataset, detections: Mapping[int, ImageDetections], *, backend: str
) -> Evaluation:
    """Evaluate detections of some or all images of a dataset.

    Args:
        detections: by position in the dataset, as from `detect_dataset`. Other images are not counted.
        backend: implementation of COCO's metrics (eval.backend).

    Raises:
        DataError: there are no detections, because no image could be read.
        ConfigError: the package of the backend is not installed.
    """
    if not detections:
        raise DataError(f"{dataset.name}: no image could be read, so there is nothing to evaluate")
    indices = sorted(detections)
    records, found = [dataset.records[index] for index in indices], [detections[index] for index in indices]
    report = compute_metrics(records, found, class_names=dataset.class_names, backend=backend)
    names, notes = tuple(dataset.class_names), list(dataset.notes)
    return Evaluation(report, records, found, names, notes, dataset.problems.summary())


@torch.inference_mode()
def detect_batch(
    model: FasterRCNN | CompiledDetector,
    batch: Batch,
    *,
    device: torch.device | str,
    precision: Precision = "float32",
) -> list[ImageDetections]:
    """Detect objects in one batch. The model must be in evaluation mode.

    Returns:
        detections of each image, in pixels of the original image.
    """
    device = torch.device(device)
    batch = batch.to(device)
    with autocast(device, precision):
        detections = model.forward_detect(batch.images, batch.image_sizes, batch.original_sizes)
    boxes = to_original(detections.boxes.float(), batch.image_sizes, batch.original_sizes).cpu().numpy()
    scores, labels, valid = (each.cpu().numpy() for each in (detections.scores.float(), *detections[2:]))
    return [
        ImageDetections(boxes[image][keep], scores[image][keep], labels[image][keep])
        for image, keep in enumerate(valid)
    ]


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Put the model into evaluation mode, and restore the mode of every module at the end."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
