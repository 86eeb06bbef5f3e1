"""Training, in reading order.

`train` is the loop, `train_step` one step, `evaluate_and_keep_best` what is done at each evaluation. Everything is
counted in optimiser steps. Host syncs are marked: on a GPU there is none but inside NMS and fp16's scaler, and at log
entries, checkpoints and evaluations.
"""

import json
import math
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from frcnn.config import to_yaml
from frcnn.data.build import build_train_loader
from frcnn.data.dataset import DetectionDataset
from frcnn.evaluation.report import format_report
from frcnn.inference.run import autocast
from frcnn.structures import Batch, Losses
from frcnn.train.build import Experiment
from frcnn.train.distributed import World, gather
from frcnn.train.log import TrainingLog
from frcnn.train.metrics import Clock, LossMeter, mean_losses, memory_mib
from frcnn.train.optimizer import set_lr
from frcnn.train.run_folder import RunFolder, cut_metrics, remove_leftovers, write_environment, write_text
from frcnn.train.state import Progress, restore, save_last, save_weights, start_randomness
from frcnn.train.validation import draw_examples, flat_metrics, validate


def train(
    experiment: Experiment,
    folder: RunFolder,
    *,
    resumed: dict[str, Any] | None = None,
    on_step: Callable[[int], None] = lambda step: None,
) -> Progress:
    """Train to the end and leave a whole run folder behind; every rank calls it.

    1. Put the state of the resumed run back, or write the first checkpoint.
    2. Evaluate where an evaluation is due; stop where the length is reached.
    3. One optimiser step. Every `log_every` steps an entry, every `checkpoint_every` steps last.pt. Back to 2.

    A run that is stopped at any moment and resumed ends with the same weights, to the bit on a CPU.

    Args:
        resumed: the checkpoint to go on from; None starts at step 0.
        on_step: called with the number of each step once it is done and kept.

    Raises:
        TrainingError: a loss or weight that is not finite, a full disk.
    """
    e, config, world = experiment, experiment.config.train, experiment.world
    progress = Progress() if resumed is None else restore(resumed, e, source=folder.last)
    model = parallel(e.model, world)
    model.train()
    batches = iter(train_loader(e, start_step=progress.step))
    start_randomness(resumed, e)  # last of what is built: building draws numbers too
    if resumed is None:
        save_last(folder.last, e, progress)
    if world.is_main:
        remove_leftovers(folder)
        cut_metrics(folder.metrics, step=progress.step, evaluated_step=progress.evaluated_step)
        write_text(folder.config, to_yaml(e.config))
        write_environment(
            folder.environment,
            seed=config.seed,
            device=world.device,
            world_size=world.size,
            is_resumed=resumed is not None,
        )

    meter = LossMeter(world.device, describe_image=lambda index: describe_image(e.train_set, index))
    clock = Clock()
    log = TrainingLog(folder, world=world, length=e.length, step=progress.step)
    try:
        while True:
            if e.is_evaluation_step(progress.step) and progress.evaluated_step < progress.step:
                with clock.paused():
                    evaluate_and_keep_best(e, folder, progress, log)  # host sync
                    save_last(folder.last, e, progress)
            if progress.step == e.length:
                break

            lr = e.lr(progress.step)
            losses, images = train_step(model, batches, e, lr=lr, clock=clock)
            progress.step += 1
            meter.add(losses, step=progress.step, images=images)
            log.advance()

            if progress.step % config.log_every == 0 or progress.step == e.length:
                log_losses(e, progress, meter, clock, log, lr=lr)  # host sync
            if e.is_checkpoint_step(progress.step):
                with clock.paused():
                    meter.check_finite()  # host sync: never keep weights that are not sound
                    save_last(folder.last, e, progress)
            on_step(progress.step)
    finally:
        log.close()
    sum_up(e, folder, progress, log)
    return progress


def train_step(
    model: nn.Module, batches: Iterator[Batch], experiment: Experiment, *, lr: float, clock: Clock
) -> tuple[Losses, list[int]]:
    """One optimiser step over the accumulated parts of one batch.

    No host sync on a GPU but inside NMS and fp16's scaler.

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
        batch = batch.to(device)
        is_last = part == config.accumulate - 1
        with nullcontext() if is_last or not isinstance(model, DistributedDataParallel) else model.no_sync():
            with autocast(device, config.precision):
                losses: Losses = model(batch)
            scaler.scale(losses.total / config.accumulate).backward()
        losses_of_parts.append(losses)
    if config.clip_grad_norm is not None:
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(experiment.model.parameters(), config.clip_grad_norm)
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad(set_to_none=True)
    return mean_losses(losses_of_parts), images


def evaluate_and_keep_best(experiment: Experiment, folder: RunFolder, progress: Progress, log: TrainingLog) -> None:
    """Evaluate; where it is the best so far, write best.pt and, as its evaluation, eval.json.

    Every rank calls it. `progress` is brought up to date on rank 0 alone, which writes it.
    """
    e = experiment
    result = validate(e)
    progress.evaluated_step = progress.step
    if result is None:
        return
    report, detections = result
    metrics = flat_metrics(report)
    metric = metrics[f"eval/{e.config.train.best_metric}"]
    metric = -math.inf if metric is None else metric  # no object to measure by
    log.entry(progress.step, {"epoch": epoch(e, progress.step), **metrics})
    for number, picture in enumerate(draw_examples(e, detections, number=e.config.train.num_logged_images)):
        log.image(progress.step, number, picture)
    is_best = progress.best_metric is None or metric > progress.best_metric
    if is_best:
        progress.best_metric, progress.best_step = metric, progress.step
        save_weights(folder.best, e, progress.step)
        write_text(folder.evaluation, json.dumps(report, indent=2) + "\n")
    log.message(
        f"step {progress.step}: "
        + "  ".join(f"{name} {show(metrics[f'eval/{name}'])}" for name in ("AP", "AP50", "voc_mAP"))
        + ("  (best so far)" if is_best else "")
    )


def sum_up(experiment: Experiment, folder: RunFolder, progress: Progress, log: TrainingLog) -> None:
    """The last lines of the log: the evaluation of best.pt and what was left out of the data. Every rank calls it."""
    datasets = (experiment.train_set, experiment.val_set)
    left_out = gather([dataset.problems.summary() for dataset in datasets], experiment.world)
    if experiment.world.is_main:
        log.message(f"best.pt is of step {progress.best_step}:")
        if folder.evaluation.exists():
            log.message(format_report(json.loads(folder.evaluation.read_text(encoding="utf-8"))))
        else:
            log.message(f"{folder.evaluation} is gone; evaluate {folder.path} to have it again")
    for rank, summaries in enumerate(left_out):
        for summary in filter(None, summaries):
            log.message(summary if experiment.world.size == 1 else f"process {rank}: {summary}")


def log_losses(
    experiment: Experiment, progress: Progress, meter: LossMeter, clock: Clock, log: TrainingLog, *, lr: float
) -> None:
    """One entry: mean losses since the last one, lr, speed. Every rank calls it."""
    num_steps = meter.num_steps
    losses = meter.read(experiment.world)
    seconds, data_seconds = clock.read()
    values = {
        "epoch": epoch(experiment, progress.step),
        **losses,
        "lr": lr,
        "images_per_second": num_steps * experiment.config.train.batch_size / max(seconds, 1e-9),
        "data_share": data_seconds / max(seconds, 1e-9),
        "memory_mib": memory_mib(experiment.world.device),
    }
    log.entry(progress.step, values)
    log.progress(progress.step, values, seconds_per_step=seconds / max(1, num_steps))


def parallel(model: nn.Module, world: World) -> nn.Module:
    """The model, wrapped for several processes; frozen parameters are left alone."""
    return DistributedDataParallel(model) if world.size > 1 else model


def train_loader(experiment: Experiment, *, start_step: int) -> torch.utils.data.DataLoader:
    """The endless loader of this rank's parts, from the batch of optimiser step `start_step` (from 0) on."""
    config, world = experiment.config, experiment.world
    return build_train_loader(
        config.data,
        experiment.train_set,
        batch_size=config.train.batch_size,
        accumulate=config.train.accumulate,
        seed=config.train.seed,
        start_step=start_step,
        rank=world.rank,
        world_size=world.size,
        pin_memory=world.device.type == "cuda",
    )


def epoch(experiment: Experiment, step: int) -> float:
    """Passes over the training set that `step` steps make."""
    return step / experiment.steps_per_epoch


def show(metric: float | None) -> str:
    return "-" if metric is None else f"{metric:.4f}"


def describe_image(dataset: DetectionDataset, index: int) -> str:
    """The file of an image, or its id where it is drawn on the fly."""
    path: Path | None = dataset.records[index].path
    return str(path) if path is not None else f"{dataset.name} {dataset.records[index].image_id}"
