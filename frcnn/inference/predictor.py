"""A trained detector to be used from Python: `frcnn.load(path).predict(images)`."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from frcnn.config import Config, parse_config
from frcnn.data.augment.resize import resize_sample
from frcnn.data.batching import Sample, collate
from frcnn.data.images import from_pil, read_image
from frcnn.errors import CheckpointError, DataError
from frcnn.files.checkpoint import find_checkpoint, load_checkpoint, weights_to_use
from frcnn.inference.detect_dataset import detect_batch
from frcnn.model.build_detector import build_from_config
from frcnn.model.detector import FasterRCNN
from frcnn.model.speed.compiled import CompiledDetector, check_compiler, compiled_detector
from frcnn.model.speed.device import find_device, set_tf32
from frcnn.model.speed.placement import copy_for_detection

COMPILE = "--compile"
"""What detection is compiled by, for messages."""

ImageLike = str | Path | Image.Image | np.ndarray | Tensor
"""A file, a PIL image, RGB pixels (H, W, 3) as numpy array, or RGB pixels (3, H, W) as tensor; pixels are uint8."""


class Prediction(NamedTuple):
    """What was found in one image, best first."""

    boxes: np.ndarray
    """(n, 4) float32 xyxy pixels of the image as it was given, with continuous edges."""
    scores: np.ndarray
    """(n,) float32 in 0..1."""
    labels: np.ndarray
    """(n,) int64 in 1..K."""
    class_names: list[str]
    """n names, one for each detection."""

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON: {"detections": [{"class", "label", "score", "box"}]}; pixels to 2 decimals."""
        columns = zip(self.class_names, self.labels.tolist(), self.scores.tolist(), self.boxes.tolist(), strict=True)
        return {
            "detections": [
                {
                    "class": name,
                    "label": label,
                    "score": round(score, 4),
                    "box": [round(edge, 2) for edge in box],
                }
                for name, label, score, box in columns
            ]
        }


class Predictor:
    """A detector with its classes and preprocessing. Made by `load`.

    `predict` computes in float32, whatever train.precision is; `frcnn eval` uses train.precision. On a CUDA device,
    float32 convolutions use TensorFloat-32 unless train.tf32 is false. The setting is global to the process: the
    detector that was loaded last decides.
    """

    def __init__(
        self,
        model: FasterRCNN | CompiledDetector,
        config: Config,
        *,
        class_names: Sequence[str],
        category_ids: Sequence[int],
        device: torch.device,
    ) -> None:
        self.model = model.eval()
        self.config = config
        self.class_names = tuple(class_names)
        self.category_ids = tuple(category_ids)
        self.device = device
        self.short_side, self.long_side = config.data.test_sides

    def predict(
        self, images: ImageLike | Iterable[ImageLike], *, score_threshold: float = 0.5, batch_size: int = 1
    ) -> list[Prediction]:
        """Detect objects in images.

        Args:
            images: one image or several, of any kind of `ImageLike`, of any sizes.
            score_threshold: in 0..1. Below model.detect.score_threshold of the config (0.05 unless set) there is
                nothing more to be had.
            batch_size: images at a time. They share a canvas, so this pays for images of like size on a GPU.

        Returns:
            one prediction for each image, in order; a list of one for a single image.

        Raises:
            DataError: names the image that is missing, broken, or no 8-bit RGB.
        """
        images_in_order = [images] if isinstance(images, ImageLike) else list(images)
        predictions = []
        for start in range(0, len(images_in_order), batch_size):
            samples = [self.prepare(to_pixels(image)) for image in images_in_order[start : start + batch_size]]
            predictions += self.predict_batch(samples, score_threshold=score_threshold)
        return predictions

    def prepare(self, pixels: Tensor) -> Sample:
        """Resize (3, H, W) uint8 RGB pixels for `predict_batch`. May be called in several threads at a time."""
        nothing, size = torch.zeros(0, dtype=torch.int64), torch.tensor(pixels.shape[1:])
        sample = Sample(pixels, torch.zeros(0, 4), nothing, nothing.bool(), size, index=-1, seed=0)
        return resize_sample(sample, short_side=self.short_side, long_side=self.long_side)

    def predict_batch(self, samples: Sequence[Sample], *, score_threshold: float = 0.5) -> list[Prediction]:
        """Detect objects in images made by `prepare`, on one canvas that holds them all."""
        predictions = []
        for found in detect_batch(self.model, collate(samples), device=self.device):
            boxes, scores, labels = (column[found.scores >= score_threshold] for column in found)
            predictions.append(Prediction(boxes, scores, labels, [self.class_names[k - 1] for k in labels]))
        return predictions


def load(path: str | Path, *, device: str = "auto", compiled: bool = False) -> Predictor:
    """Load a trained detector.

    Args:
        path: a checkpoint, or a run folder (its best checkpoint, else its last).
        device: auto is the GPU where there is one, else the CPU.
        compiled: detect by a compiled graph, one for all sizes of images and each number of them in a batch. The first
            batch takes minutes; a line on stdout says when a graph is compiled.

    Raises:
        CheckpointError: names the file and what is wrong with it.
        ConfigError: there is no such device, or nothing to compile with.
    """
    source = find_checkpoint(Path(path))
    checkpoint = load_checkpoint(source)
    config = parse_config(checkpoint["config"], source=str(source))
    return restore(checkpoint, config, device=find_device(device), source=source, compiled=compiled)


def restore(
    checkpoint: dict[str, Any], config: Config, *, device: torch.device, source: Path, compiled: bool = False
) -> Predictor:
    """The detector of a checkpoint, built by `config`, which may differ from the checkpoint's own in its numbers.

    Weights are the averaged ones where there are such (train.ema_decay), in float32, changed into the form that detects
    fastest (`model.placement`). `compiled`: see `load`. Sets TensorFloat-32 for this process by `train.tf32`.

    Raises:
        CheckpointError: the weights do not fit the model of the config.
        ConfigError: there is nothing to compile with.
    """
    check_compiler(compiled, device, setting=COMPILE)
    set_tf32(config.train.tf32)
    weights = weights_to_use(checkpoint)
    build = partial(
        build_from_config,
        config,
        num_classes=len(checkpoint["class_names"]),
        pretrained=False,
    )
    _refuse_far_larger(build, weights, source=source)
    model = build()
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise CheckpointError(
            f"{source}: its weights do not fit the model of the config; an override of model... must not change "
            f"layers. {error}"
        ) from None
    model.to(device)
    if config.train.channels_last:
        model.to(memory_format=torch.channels_last)
    return Predictor(
        compiled_detector(copy_for_detection(model), compiled, device=device, setting=COMPILE),
        config,
        class_names=checkpoint["class_names"],
        category_ids=checkpoint["category_ids"],
        device=device,
    )


def _refuse_far_larger(build: Callable[[], FasterRCNN], weights: dict[str, Any], *, source: Path) -> None:
    """Raise CheckpointError where the config asks for a model for which the file cannot hold the weights.

    The model is built without memory for its weights: a config from elsewhere may ask for more than there is.
    """
    held = sum(value.numel() for value in weights.values() if isinstance(value, Tensor))
    try:
        with torch.device("meta"):
            wanted = sum(value.numel() for value in build().state_dict().values())
    except RuntimeError as error:  # a number of elements beyond 64 bits
        raise CheckpointError(f"{source}: the model of the config cannot be built: {error}") from None
    if wanted > 2 * held + 1_000_000:
        raise CheckpointError(
            f"{source}: its weights do not fit the model of the config, which has {wanted:,} numbers, the file {held:,}"
        )


def to_pixels(image: ImageLike) -> Tensor:
    """The pixels of an image given in any way: (3, H, W) uint8 RGB.

    Raises:
        DataError: an unreadable file, or pixels of another type or shape.
    """
    if isinstance(image, str | Path):
        return read_image(image)
    if isinstance(image, Image.Image):
        try:
            return from_pil(image)
        except ValueError as error:
            raise DataError(f"a PIL image of mode {image.mode} cannot be used: {error}") from error
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
            raise DataError(f"a numpy image must be uint8 RGB (H, W, 3), not {image.dtype} {image.shape}")
        return torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)  # (H, W, 3) -> (3, H, W)
    if isinstance(image, Tensor):
        if image.dtype != torch.uint8 or image.ndim != 3 or image.shape[0] != 3 or 0 in image.shape:
            raise DataError(f"a tensor image must be uint8 RGB (3, H, W), not {image.dtype} {tuple(image.shape)}")
        return image.cpu()
    raise DataError(f"an image is a path, a PIL image, a numpy array or a tensor, not {type(image).__name__}")
