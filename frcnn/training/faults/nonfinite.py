"""What happens to a step that is not finite: `train.on_nonfinite`."""

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
    """The training is to go back to its last checkpoint and on from there with other draws; says why."""


def react(experiment: Experiment, folder: RunFolder, guard: Guard, progress: Progress, *, step: int) -> str:
    """Do with a bad step what train.on_nonfinite says; every rank calls it.

    skip leaves it out: weights, buffers and optimiser are what they were, its batch is lost, the step counts and the
    learning rate goes on. bad_step/ is written for the first step of a run that is left out or gone back from, and for
    the one that ends it.

    Returns:
        a line for the log, where the training goes on.

    Raises:
        TrainingError: the training ends; on ranks other than 0 SystemExit.
        Rewind: it goes back.
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
        return f"{what}: left out"
    if not experiment.world.is_main:
        raise SystemExit(1)
    again = {
        "stop": "",
        "skip": f" {guard.in_a_row} steps in a row are more than train.nonfinite_limit={limit}.",
        "rewind": f" The run has gone back {progress.rewinds} times already (train.nonfinite_limit={limit}).",
    }
    raise TrainingError(
        f"{what}.{again[choice]} The weights of the last checkpoint are sound. {CURE}; otherwise look at these images' "
        f"boxes. Where it begins: frcnn replay {folder.bad_step}"
    )


def rewound(experiment: Experiment, folder: RunFolder) -> dict:
    """The last checkpoint, told that it is gone back to. Every rank calls it."""
    checkpoint, _, _ = done_by_main(lambda: load_newest(folder.last, folder.previous), experiment.world)
    trainer = checkpoint["trainer"]
    trainer["rewinds"] = trainer.get("rewinds", 0) + 1
    trainer["is_rewound"] = True
    return checkpoint
