"""Use a trained detector from Python: `frcnn.load(path).predict(images)`."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from frcnn.annotations import ImageDetections
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
"""The option that requests compilation, for messages."""

ImageLike = str | Path | Image.Image | np.ndarray | Tensor
"""A file, a PIL image, RGB pixels (H, W, 3) as a NumPy array, or RGB pixels (3, H, W) as a tensor; pixels are uint8."""


class Prediction(NamedTuple):
    """The detections of one image, sorted by descending score."""

    boxes: np.ndarray
    """(n, 4) float32 xyxy in pixels of the given image, with continuous edges."""
    scores: np.ndarray
    """(n,) float32 in 0..1."""
    labels: np.ndarray
    """(n,) int64 in 1..K."""
    class_names: list[str]
    """n names, one per detection."""

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON: {"detections": [{"class", "label", "score", "box"}]}; boxes have 2 decimals."""
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
    """A detector with its class names and preprocessing, created by `load`.

    `predict` computes in float32, regardless of the precision of the training run. (`frcnn eval` uses train.precision.)
    On a CUDA device, float32 convolutions use TensorFloat-32 unless train.tf32 is false. The setting is global to the
    process: the detector that was loaded last decides.
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
            images: one image or several images, of any type in `ImageLike` and any size.
            score_threshold: in 0..1. Values below model.detect.score_threshold of the config (default 0.05) have no
                effect.
            batch_size: images per batch. They are padded to one canvas, so batches help on a GPU if the images have
                similar sizes.

        Returns:
            one prediction per image, in order; a list of one prediction for a single image.

        Raises:
            DataError: an image is missing, damaged, or not 8-bit RGB. The message names the file, or the position in
                `images`.
            ValueError: batch_size is less than 1.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {batch_size}")
        images_in_order = [images] if isinstance(images, ImageLike) else list(images)
        predictions = []
        for start in range(0, len(images_in_order), batch_size):
            batch = enumerate(images_in_order[start : start + batch_size], start=start)
            samples = [self.prepare(to_pixels(image, name=f"image {position}")) for position, image in batch]
            found = self.detect_samples(samples, score_threshold=score_threshold)
            predictions += [self.with_names(each) for each in found]
        return predictions

    def prepare(self, pixels: Tensor) -> Sample:
        """Resize (3, H, W) uint8 RGB pixels for `detect_samples`. Several threads may call it at the same time."""
        nothing, size = torch.zeros(0, dtype=torch.int64), torch.tensor(pixels.shape[1:])
        sample = Sample(pixels, torch.zeros(0, 4), nothing, nothing.bool(), size, index=-1, seed=0)
        return resize_sample(sample, short_side=self.short_side, long_side=self.long_side)

    def detect_samples(self, samples: Sequence[Sample], *, score_threshold: float = 0.5) -> list[ImageDetections]:
        """Detect objects in images from `prepare`, padded to one canvas."""
        return [
            ImageDetections(*(column[found.scores >= score_threshold] for column in found))
            for found in detect_batch(self.model, collate(samples), device=self.device)
        ]

    def with_names(self, detections: ImageDetections) -> Prediction:
        """Add the class names to detections."""
        return Prediction(*detections, class_names=[self.class_names[label - 1] for label in detections.labels])


def load(path: str | Path, *, device: str = "auto", compiled: bool = False) -> Predictor:
    """Load a trained detector.

    Args:
        path: a run folder (its best checkpoint) or a checkpoint.
        device: auto, cpu, cuda or cuda:N. auto is the GPU if there is one, else the CPU.
        compiled: detect with a compiled graph: one graph for all image sizes, and one for each number of images in a
            batch. Compiling takes minutes. A line on stdout reports each compiled graph.

    Raises:
        CheckpointError: the checkpoint is missing or cannot be used. The message names the file and the reason.
        ConfigError: there is no such device, or no compiler.

    Example:

        predictor = frcnn.load("runs/demo")
        for prediction in predictor.predict(["street.jpg", "park.jpg"], score_threshold=0.7):
            print(prediction.class_names, prediction.scores, prediction.boxes)
    """
    source = find_checkpoint(Path(path))
    checkpoint = load_checkpoint(source)
    config = parse_config(checkpoint["config"], source=str(source))
    return build_predictor(checkpoint, config, device=find_device(device), source=source, compiled=compiled)


def build_predictor(
    checkpoint: dict[str, Any], config: Config, *, device: torch.device, source: Path, compiled: bool = False
) -> Predictor:
    """Build the detector of a checkpoint with a config, which may differ from the checkpoint's config except in layers.

    The averaged weights are used if there are any (train.ema_decay), in float32, converted to the form that detects
    fastest (`model.speed.placement`). `compiled`: see `load`. Sets TensorFloat-32 for this process by `train.tf32`.

    Raises:
        CheckpointError: the weights do not fit the model of the config.
        ConfigError: there is no compiler.
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
            f"{source}: its weights do not fit the model of the config. Overrides of model... must not change layers. "
            f"{error}"
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
    """Raise CheckpointError if the model of the config has far more weights than the file.

    The model is built on the meta device, because a config from an untrusted source can ask for any amount of memory.
    """
    held = sum(value.numel() for value in weights.values() if isinstance(value, Tensor))
    try:
        with torch.device("meta"):
            wanted = sum(value.numel() for value in build().state_dict().values())
    except RuntimeError as error:  # the number of elements exceeds 64 bits
        raise CheckpointError(f"{source}: the model of the config cannot be built: {error}") from None
    if wanted > 2 * held + 1_000_000:
        raise CheckpointError(
            f"{source}: its weights do not fit the model of the config: the model has {wanted:,} values, the file "
            f"{held:,}"
        )


def to_pixels(image: ImageLike, *, name: str) -> Tensor:
    """Convert an image of any type in `ImageLike` to pixels (3, H, W) uint8 RGB.

    Args:
        name: of an image that is not a file, for messages.

    Raises:
        DataError: the file cannot be read, or the pixels have another type or shape.
    """
    if isinstance(image, str | Path):
        return read_image(image)
    if isinstance(image, Image.Image):
        try:
            return from_pil(image)
        except ValueError as error:
            raise DataError(f"{name}: a PIL image of mode {image.mode} is not supported: {error}") from error
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
            raise DataError(f"{name}: a NumPy image must be uint8 RGB (H, W, 3), not {image.dtype} {image.shape}")
        return torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)  # (H, W, 3) -> (3, H, W)
    if isinstance(image, Tensor):
        if image.dtype != torch.uint8 or image.ndim != 3 or image.shape[0] != 3 or 0 in image.shape:
            raise DataError(
                f"{name}: a tensor image must be uint8 RGB (3, H, W), not {image.dtype} {tuple(image.shape)}"
            )
        return image.cpu()
    raise DataError(
        f"{name}: an image must be a path, a PIL image, a NumPy array or a tensor, not {type(image).__name__}"
    )
