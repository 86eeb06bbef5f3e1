"""The losses on the validation set, for comparison only."""

from collections.abc import Callable

import torch

from frcnn.data.build_data import build_eval_loader
from frcnn.inference.detect_dataset import evaluation_mode
from frcnn.model.speed.autocast import autocast
from frcnn.training.build_experiment import Experiment
from frcnn.training.distributed import gather, share_buffers
from frcnn.training.faults.stop import Watched
from frcnn.training.randomness import kept_random_state


def validation_losses(experiment: Experiment, *, before_image: Callable[[], None] = lambda: None) -> dict[str, float]:
    """Mean losses of the evaluated weights over the images of data.val. Every rank calls it.

    1. Rank r processes the images r, r + size, ..., resized as for evaluation, one at a time: the other images on a
       canvas would change which anchors can be sampled.
    2. Compute the losses of each image in evaluation mode, with generators seeded by its position.
    3. Rank 0 averages them in the order of the dataset.

    Therefore the same weights have the same losses in every run, for any eval.batch_size and any number of processes
    (up to rounding on a GPU). Modes, batch-norm statistics and random generators are restored at the end.

    Args:
        before_image: called before each image that every rank has. It may raise to end the evaluation on all ranks.

    Returns:
        eval/loss/NAME of each loss and eval/loss/total, on rank 0; {} on other ranks, and if no image can be read.
    """
    model, world = experiment.evaluated_model, experiment.world
    share_buffers(model, world)
    with kept_random_state(), evaluation_mode(model):
        parts = gather(_losses_per_image(experiment, before_image), world)
    losses = [values for part in parts for values in part.items()]
    if not losses:
        return {}
    losses.sort(key=lambda item: item[0])
    rows = torch.tensor([list(values.values()) for _, values in losses], dtype=torch.float64)  # (images, losses)
    means = dict(zip(losses[0][1], rows.mean(dim=0).tolist(), strict=True))
    return {f"eval/loss/{name}": value for name, value in (means | {"total": sum(means.values())}).items()}


@torch.no_grad()
def _losses_per_image(experiment: Experiment, before_image: Callable[[], None]) -> dict[int, dict[str, float]]:
    """The losses of each image of this rank, by position in the validation set."""
    config, world = experiment.config, experiment.world
    loader = build_eval_loader(
        config.data,
        experiment.val_set,
        batch_size=1,
        rank=world.rank,
        world_size=world.size,
        pin_memory=world.device.type == "cuda",
    )
    devices = [world.device] if world.device.type == "cuda" else []
    losses = {}
    for batch in Watched(loader, before_image, count=len(experiment.val_set) // world.size):
        if batch is None:  # could not be read
            continue
        index = int(batch.index[0])
        batch = batch.to(world.device)
        with torch.random.fork_rng(devices), autocast(world.device, config.train.precision):
            torch.manual_seed(index)
            found = experiment.evaluated_model.forward_train(batch)
        losses[index] = dict(zip(found, torch.stack([*found.values()]).tolist(), strict=True))  # host sync
    return losses
