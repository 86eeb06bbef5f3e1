"""Handling of steps that are not finite: `train.on_nonfinite`."""

import math

from frcnn.errors import TrainingError
from frcnn.files.checkpoint import load_newest
from frcnn.training.batches import image_names, parts_of_step
from frcnn.training.build_experiment import Experiment
from frcnn.training.distributed import done_by_main
from frcnn.training.faults.bad_step import save_bad_step
from frcnn.training.faults.guard import Guard
from frcnn.training.metrics import CURE
from frcnn.training.run_folder import RunFolder
from frcnn.training.state import Progress


class Rewind(Exception):
    """Training must continue from its last checkpoint with other random draws. The message gives the reason."""


def react(experiment: Experiment, folder: RunFolder, guard: Guard, progress: Progress, *, step: int) -> str:
    """Handle a bad step as train.on_nonfinite says. Every rank calls it.

    skip: weights, buffers and optimizer keep their values. The batch is lost, but the step counts and the learning rate
    follows the schedule. bad_step/ is written for the first step that is skipped or rewound, and for the step that ends
    the run.

    Returns:
        a line for the log, if training continues.

    Raises:
        TrainingError: the run ends. Other ranks raise SystemExit.
        Rewind: training continues from the last checkpoint.
    """
    config = experiment.config.train
    choice, limit = config.on_nonfinite, config.nonfinite_limit
    is_end = choice == "stop" or (guard.in_a_row if choice == "skip" else progress.rewinds + 1) > limit
    parts = parts_of_step(experiment, step, rewinds=progress.rewinds)
    names = image_names(experiment.train_set, parts)
    if guard.at_once:
        guard.take_back()
    what = f"step {step} is not finite"
    if is_end or not (progress.skipped or progress.rewinds):
        ranks = save_bad_step(
            experiment, folder, guard, step=step, lr=experiment.lr(step - 1), parts=parts, image_names=names
        )
        has_loss = any(not math.isfinite(value) for rank in ranks for value in rank["losses"].values())
        names = [name for rank in ranks for name in rank["images"]]
        what = f"the {'loss' if has_loss else 'gradient'} of {what}"
    what = f"{what} (images: {', '.join(names)})"
    if choice == "skip":
        progress.skipped += 1
    if not is_end:
        if choice == "rewind":
            raise Rewind(what)
        return f"{what}: skipped"
    if not experiment.world.is_main:
        raise SystemExit(1)
    again = {
        "stop": "",
        "skip": f" {guard.in_a_row} steps in a row are more than train.nonfinite_limit={limit}.",
        "rewind": f" The run has already been rewound {progress.rewinds} times (train.nonfinite_limit={limit}).",
    }
    raise TrainingError(
        f"{what}.{again[choice]} The last checkpoint is valid. {CURE}. Otherwise check the boxes of these images. To "
        f"find the cause, run: frcnn replay {folder.bad_step}"
    )


def rewound(experiment: Experiment, folder: RunFolder) -> dict:
    """Load the last checkpoint and mark it as rewound. Every rank calls it."""
    checkpoint, _, _ = done_by_main(lambda: load_newest(folder.last, folder.previous), experiment.world)
    trainer = checkpoint["trainer"]
    trainer["rewinds"] = trainer.get("rewinds", 0) + 1
    trainer["is_rewound"] = True
    return checkpoint
