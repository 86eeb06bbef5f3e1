"""The training loop.

`train_experiment` is the loop, `step.train_step` one step, and `evaluate_and_keep_best` one evaluation. Everything is
counted in optimizer steps. Comments mark host syncs: on a GPU they happen in the gradient scaler of fp16, at log
entries, at checkpoints and at evaluations only.
"""

import json
import math
from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn

from frcnn.config import to_yaml
from frcnn.evaluation.evaluate import flat_metrics, format_report
from frcnn.files.reading import read_json
from frcnn.training.batches import train_loader
from frcnn.training.build_experiment import Experiment
from frcnn.training.distributed import broadcast, gather
from frcnn.training.faults.guard import Guard
from frcnn.training.faults.nonfinite import Rewind, react, rewound
from frcnn.training.faults.stop import Stop
from frcnn.training.log import TrainingLog
from frcnn.training.metrics import Clock, LossMeter, memory_mib
from frcnn.training.run_folder import RunFolder, cut_metrics, remove_leftovers, write_environment, write_text
from frcnn.training.state import Progress, restore_state, save_last, save_weights, start_randomness
from frcnn.training.step import prepared, train_step
from frcnn.training.validation import draw_examples, validate
from frcnn.training.validation_loss import validation_losses


def train_experiment(
    experiment: Experiment,
    folder: RunFolder,
    *,
    resumed: dict[str, Any] | None = None,
    on_step: Callable[[int], None] = lambda step: None,
) -> Progress:
    """Train to the end and leave a complete run folder. Every rank calls it.

    1. Restore the state of the resumed run, or write the first checkpoint.
    2. Evaluate if an evaluation is due. Stop if the length is reached.
    3. Do one optimizer step. Write a log entry every `log_every` steps and last.pt every `checkpoint_every` steps. Go
       to 2.

    A run that is stopped at any moment and resumed ends with the same weights, bit-identical on a CPU. If
    train.on_nonfinite is rewind, training restarts from the last checkpoint with different random draws.

    Args:
        resumed: the checkpoint to resume from; None starts at step 0.
        on_step: called with the number of each step after the step is done and saved.

    Raises:
        TrainingError: a loss or weight is not finite, or the disk is full.
        Stopped: the process got SIGINT or SIGTERM. last.pt has the step at which it stopped.
    """
    model, stop = prepared(experiment), Stop(experiment.world)
    with stop.listening():
        while True:
            try:
                return train_on(experiment, folder, model, stop, resumed=resumed, on_step=on_step)
            except Rewind as rewind:
                reason = str(rewind)  # the exception would keep the frames of `train_on`, and so the loader, alive
            resumed = rewound(experiment, folder)
            if experiment.world.is_main:
                print(f"{reason}: back to step {resumed['step']}, continuing with other random draws", flush=True)


def train_on(
    experiment: Experiment,
    folder: RunFolder,
    model: nn.Module,
    stop: Stop,
    *,
    resumed: dict[str, Any] | None,
    on_step: Callable[[int], None],
) -> Progress:
    """Train until the end or until a Rewind, see `train_experiment`. `model` comes from `step.prepared`."""
    e, config, world = experiment, experiment.config.train, experiment.world
    progress = Progress() if resumed is None else restore_state(resumed, e, source=folder.last)
    model.train()
    batches = iter(train_loader(e, start_step=progress.step, rewinds=progress.rewinds))
    start_randomness(resumed, e)  # after everything is built, because building draws random numbers
    if resumed is None and e.average is not None:
        e.average.update(e.model, step=0)  # weights may have been loaded since the average was created
    if resumed is None or resumed["trainer"].get("is_rewound"):
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

    meter = LossMeter(world.device)
    guard = Guard(
        e.model,
        world,
        at_once=world.device.type == "cpu" or config.on_nonfinite != "stop",
        is_scaled=e.scaler.is_enabled(),
        memory=config.log_every,
    )
    clock = Clock()
    log = TrainingLog(folder, world=world, length=e.length, step=progress.step)
    try:
        while True:
            if e.is_evaluation_step(progress.step) and progress.evaluated_step < progress.step:
                with clock.paused():
                    evaluate_and_keep_best(e, folder, progress, log, stop)  # host sync
                    progress.standstill_evaluations = broadcast(progress.standstill_evaluations, world)
                    save_last(folder.last, e, progress)
            if progress.step == e.length or progress.has_stopped_early(config):
                break

            lr = e.lr(progress.step)
            guard.begin(progress.step + 1)
            losses, _ = train_step(model, batches, e, lr=lr, clock=clock, allows=guard.allows)
            progress.step += 1
            signal = stop.asked()
            is_logged = progress.step % config.log_every == 0 or progress.step == e.length
            is_kept = e.is_checkpoint_step(progress.step) or signal > 0
            bad_step = guard.bad_step(look=is_logged or is_kept)  # host sync if it looks
            if bad_step is None:
                meter.add(losses)
            else:
                log.message(react(e, folder, guard, progress, step=bad_step))
            if e.average is not None and bad_step is None:
                e.average.update(e.model, step=progress.step)
            log.advance()

            if is_logged:
                log_losses(e, progress, meter, clock, log, lr=lr)  # host sync
            if is_kept:
                with clock.paused():
                    save_last(folder.last, e, progress)  # host sync
            on_step(progress.step)
            stop.obey(signal, step=progress.step, resume=folder.resume)
    finally:
        log.close()
    sum_up(e, folder, progress, log)
    return progress


def evaluate_and_keep_best(
    experiment: Experiment, folder: RunFolder, progress: Progress, log: TrainingLog, stop: Stop
) -> None:
    """Evaluate. If the result is the best so far, write best.pt and its evaluation eval.json.

    Every rank calls it. `progress` is complete on rank 0 only, which writes it.
    """
    e = experiment
    check = partial(stop.check, step=progress.step, resume=folder.resume)
    result = validate(e, before_batch=check)
    losses = validation_losses(e, before_image=check) if e.config.eval.loss else {}
    progress.evaluated_step = progress.step
    if result is None:
        return
    report, detections = result
    metrics = {f"eval/{name}": value for name, value in flat_metrics(report).items()} | losses
    metric = metrics[f"eval/{e.config.train.best_metric}"]
    metric = -math.inf if metric is None else metric  # no object to measure it on
    log.entry(progress.step, {"epoch": epoch(e, progress.step), **metrics})
    for number, picture in enumerate(draw_examples(e, detections, number=e.config.train.num_logged_images)):
        log.image(progress.step, number, picture)
    early_stop = e.config.train.early_stop
    if early_stop is not None:
        progress.count_evaluation(metric, min_delta=early_stop.min_delta)
    is_best = progress.best_metric is None or metric > progress.best_metric
    if is_best:
        progress.best_metric, progress.best_step = metric, progress.step
        save_weights(folder.best, e, progress.step)
        write_text(folder.evaluation, json.dumps(report, indent=2) + "\n")
    log.message(
        f"step {progress.step}: "
        + "  ".join(f"{name} {show(metrics[f'eval/{name}'])}" for name in ("AP", "AP50", "voc_mAP"))
        + (f"  loss {losses['eval/loss/total']:.4f}" if losses else "")
        + ("  (best so far)" if is_best else "")
    )


def sum_up(experiment: Experiment, folder: RunFolder, progress: Progress, log: TrainingLog) -> None:
    """Log the evaluation of best.pt and the number of skipped images and annotations. Every rank calls it."""
    datasets = (experiment.train_set, experiment.val_set)
    skipped = gather([dataset.problems.summary() for dataset in datasets], experiment.world)
    config = experiment.config.train
    if config.early_stop is not None and progress.has_stopped_early(config) and progress.step < experiment.length:
        log.message(
            f"stopped early at step {progress.step} of {experiment.length}: {config.best_metric} has not improved by "
            f"more than {config.early_stop.min_delta:g} over {show(progress.standstill_reference)} for "
            f"{progress.standstill_evaluations} evaluations (train.early_stop)"
        )
    if experiment.world.is_main:
        log.message(f"best.pt has the weights of step {progress.best_step}:")
        if folder.evaluation.exists():
            log.message(format_report(read_json(folder.evaluation)))
        else:
            log.message(f"{folder.evaluation} is missing; evaluate {folder.path} to create it")
    for rank, summaries in enumerate(skipped):
        for summary in filter(None, summaries):
            log.message(summary if experiment.world.size == 1 else f"process {rank}: {summary}")


def log_losses(
    experiment: Experiment, progress: Progress, meter: LossMeter, clock: Clock, log: TrainingLog, *, lr: float
) -> None:
    """Write one log entry: mean losses since the last entry, learning rate, speed. Every rank calls it."""
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
    del losses["loss"]  # the total, which is shown first
    log.progress(progress.step, values, losses=losses, seconds_per_step=seconds / max(1, num_steps))


def epoch(experiment: Experiment, step: int) -> float:
    """Number of passes over the training set in `step` steps."""
    return step / experiment.steps_per_epoch


def show(metric: float | None) -> str:
    return "-" if metric is None else f"{metric:.4f}"
