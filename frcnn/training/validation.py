"""Evaluation during training, split over the ranks and without side effects on the training run."""

from collections.abc import Callable, Iterable
from typing import Any

from PIL import Image

from frcnn.annotations import ImageDetections
from frcnn.data.build_data import build_eval_loader
from frcnn.draw.boxes import draw_comparison
from frcnn.inference.detect_dataset import detect_dataset, evaluate_dataset
from frcnn.model.speed.placement import copy_for_detection
from frcnn.structures import Batch
from frcnn.training.build_experiment import Experiment
from frcnn.training.distributed import gather, share_buffers
from frcnn.training.faults.stop import Watched
from frcnn.training.randomness import kept_random_state


def validate(
    experiment: Experiment, *, before_batch: Callable[[], None] = lambda: None
) -> tuple[dict[str, Any], dict[int, ImageDetections]] | None:
    """Detect on the whole validation set and evaluate the detections.

    1. Rank r detects on the images r, r + size, ...
    2. Rank 0 collects the detections and evaluates them.

    The averaged weights are evaluated if there are any (train.ema_decay). The mode of the detector and the state of the
    random generators are restored at the end.

    Args:
        before_batch: called before each batch that every rank has. It may raise to end the evaluation on all ranks.

    Returns:
        on rank 0 the content of eval.json, and the detections by position in the dataset; None on other ranks. Images
        that could not be read (data.on_error=skip) are missing from both.
    """
    config, world = experiment.config, experiment.world
    share_buffers(experiment.evaluated_model, world)
    with kept_random_state():
        loader = build_eval_loader(
            config.data,
            experiment.val_set,
            batch_size=config.eval.batch_size,
            rank=world.rank,
            world_size=world.size,
            pin_memory=world.device.type == "cuda",
        )
        shared = -(-(len(experiment.val_set) // world.size) // config.eval.batch_size)
        parts = gather(detect_on(experiment, Watched(loader, before_batch, count=shared)), world)
        if not world.is_main:
            return None
        detections = {index: found for part in parts for index, found in part.items()}
        return measure(experiment, detections), detections


def detect_on(experiment: Experiment, loader: Iterable[Batch | None]) -> dict[int, ImageDetections]:
    """Detections by position in the validation set, in the precision of the training run."""
    return detect_dataset(
        copy_for_detection(experiment.evaluated_model),
        loader,
        experiment.val_set,
        device=experiment.world.device,
        precision=experiment.config.train.precision,
    )


def measure(experiment: Experiment, detections: dict[int, ImageDetections]) -> dict[str, Any]:
    """Evaluate detections on some or all images of the validation set; returns the content of eval.json."""
    return evaluate_dataset(experiment.val_set, detections, backend=experiment.config.eval.backend).report


def draw_examples(experiment: Experiment, detections: dict[int, ImageDetections], *, number: int) -> list[Image.Image]:
    """Draw detections next to the ground truth for `number` images, evenly spread over the set and always the same."""
    indices = sorted(detections)
    number = min(number, len(indices))
    chosen = [indices[position * len(indices) // number] for position in range(number)]
    return [
        draw_comparison(
            experiment.val_set.read_image(index),
            detections[index],
            experiment.val_set.records[index],
            experiment.val_set.class_names,
        )
        for index in chosen
    ]
