"""The batches of a rank, and the names of their images."""

from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from torch.utils.data import DataLoader

from frcnn.data.build_data import build_train_loader
from frcnn.data.dataset import DetectionDataset
from frcnn.data.sampler import mixed_seed
from frcnn.structures import Batch
from frcnn.training.build_experiment import Experiment


def train_loader(experiment: Experiment, *, start_step: int, rewinds: int = 0) -> DataLoader:
    """The endless loader of this rank's parts of each batch, starting with optimizer step `start_step` (from 0)."""
    config, world = experiment.config, experiment.world
    return build_train_loader(
        config.data,
        experiment.train_set,
        batch_size=config.train.batch_size,
        accumulate=config.train.accumulate,
        seed=seed_of(experiment, rewinds=rewinds),
        start_step=start_step,
        rank=world.rank,
        world_size=world.size,
        pin_memory=world.device.type == "cuda",
    )


def seed_of(experiment: Experiment, *, rewinds: int) -> int:
    """train.seed; after each rewind an unrelated seed."""
    seed = experiment.config.train.seed
    return mixed_seed(seed, rewinds) if rewinds else seed


def parts_of_step(experiment: Experiment, step: int, *, rewinds: int) -> list[Batch]:
    """Read the parts of optimizer step `step` (from 1) of this rank again."""
    loader = train_loader(experiment, start_step=step - 1, rewinds=rewinds)
    return list(islice(iter(loader), experiment.config.train.accumulate))


def image_names(dataset: DetectionDataset, parts: Sequence[Batch]) -> list[str]:
    return [describe_image(dataset, index) for part in parts for index in part.index.tolist()]


def describe_image(dataset: DetectionDataset, index: int) -> str:
    """The file of an image, or its id if it is drawn on the fly."""
    path: Path | None = dataset.records[index].path
    return str(path) if path is not None else f"{dataset.name} {dataset.records[index].image_id}"
