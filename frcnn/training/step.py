"""One optimizer step, and the model that it calls."""

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
    """The callable model: compiled with train.compile, wrapped in DistributedDataParallel for several processes.

    It shares weights, names and modes with `experiment.model`, which is the model that is saved and evaluated. The
    exchange of gradients between ranks is outside the compiled graph.
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
    """Do one optimizer step with the accumulated parts of one batch.

    Host syncs on a GPU happen in the gradient scaler of fp16, and in `allows` unless train.on_nonfinite is stop.

    Args:
        allows: gets the losses while the gradients are in the model; returns False to keep the weights unchanged.

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
