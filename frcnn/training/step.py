"""One optimiser step, and the detector made ready for it."""

from collections.abc import Callable, Iterator
from contextlib import nullcontext

from torch import nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from frcnn.model.speed.autocast import autocast
from frcnn.model.speed.compiled import compiled_detector
from frcnn.structures import Batch, Losses, total_loss
from frcnn.training.build_experiment import Experiment
from frcnn.training.determinism import explained
from frcnn.training.metrics import Clock, mean_losses
from frcnn.training.optimizer import set_lr
from frcnn.training.transfer import to_device


def prepared(experiment: Experiment) -> nn.Module:
    """The model to be called: compiled with train.compile, and wrapped for several processes.

    Weights, names and modes are those of `experiment.model`, which is what is saved and evaluated. Compiled first: the
    ranks' exchange of gradients stays outside the graph. Frozen parameters are left alone.
    """
    world = experiment.world
    model = compiled_detector(
        experiment.model,
        experiment.config.train.compile,
        device=world.device,
        tell=tqdm.write if world.is_main else lambda text: None,
        setting="train.compile",
    )
    return DistributedDataParallel(model) if world.size > 1 else model


@explained()
def train_step(
    model: nn.Module,
    batches: Iterator[Batch],
    experiment: Experiment,
    *,
    lr: float,
    clock: Clock,
    allows: Callable[[Losses], bool] = lambda losses: True,
) -> tuple[Losses, list[int]]:
    """One optimiser step over the accumulated parts of one batch.

    No host sync on a GPU but in fp16's scaler, and in `allows` where train.on_nonfinite is not stop.

    Args:
        allows: given the losses, with the gradients in the model, says whether the weights may be changed.

    Returns:
        the mean losses of the parts, on the device, and the positions of their images in the training set.
    """
    config, device, optimizer, scaler = (
        experiment.config.train,
        experiment.world.device,
        experiment.optimizer,
        experiment.scaler,
    )
    losses_of_parts, images = [], []
    set_lr(optimizer, lr)
    for part in range(config.accumulate):
        with clock.waiting_for_data():
            batch = next(batches)
        images += batch.index.tolist()  # still on the host
        batch = to_device(batch, device)
        is_last = part == config.accumulate - 1
        with nullcontext() if is_last or not isinstance(model, DistributedDataParallel) else model.no_sync():
            with autocast(device, config.precision):
                losses: Losses = model(batch)
            scaler.scale(total_loss(losses) / config.accumulate).backward()
        losses_of_parts.append(losses)
    losses = mean_losses(losses_of_parts)
    if allows(losses):
        if config.clip_grad_norm is not None:
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(experiment.model.parameters(), config.clip_grad_norm)
        scaler.step(optimizer)
        scaler.update()
    optimizer.zero_grad(set_to_none=True)
    return losses, images
