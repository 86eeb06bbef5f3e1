"""Detection on a whole data set."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import nn
from tqdm import tqdm

from frcnn.annotations import ImageDetections
from frcnn.data.dataset import DetectionDataset
from frcnn.model.detector import FasterRCNN
from frcnn.model.speed.autocast import Precision, autocast
from frcnn.model.speed.compiled import CompiledDetector
from frcnn.ops.boxes import to_original
from frcnn.structures import Batch


def detect(
    model: FasterRCNN | CompiledDetector,
    loader: Iterable[Batch | None],
    dataset: DetectionDataset,
    *,
    device: torch.device | str,
    precision: Precision = "float32",
) -> dict[int, ImageDetections]:
    """Detect on every image the loader gives.

    1. Put the model into evaluation mode.
    2. For each batch, find the detections and map them to the pixels of the original images.
    3. Put the model back into the mode it was in, after an error too.

    Args:
        loader: batches; None stands for one of which no image could be read.
        dataset: what the loader reads, named in the progress bar (which is shown on a terminal only).
        precision: autocast type; fp16 is float32 on a CPU.

    Returns:
        detections by position in the data set. Images that could not be read, and those filled in to complete a batch
        (index -1), are missing.
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


@torch.inference_mode()
def detect_batch(
    model: FasterRCNN | CompiledDetector,
    batch: Batch,
    *,
    device: torch.device | str,
    precision: Precision = "float32",
) -> list[ImageDetections]:
    """The detections of each image of a batch, in pixels of the original image. The model is in evaluation mode."""
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
    """Evaluation mode inside, and every module's own mode again afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
