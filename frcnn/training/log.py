"""Output of a training run: messages, a progress bar, metrics.jsonl and TensorBoard."""

import json
import math
import os
import sys
from typing import Any

from tqdm import tqdm

from frcnn.training.distributed import World
from frcnn.training.run_folder import RunFolder, writing


class TrainingLog:
    """The log of a training run. It writes on rank 0 only.

    Messages go to stdout. Progress goes to stderr: as a bar on a terminal, else as one line per entry. Entries go to
    metrics.jsonl, one JSON object per line, and together with images to TensorBoard.
    """

    def __init__(self, folder: RunFolder, *, world: World, length: int, step: int) -> None:
        self.is_silent = not world.is_main
        self.folder = folder
        self.length = length
        if self.is_silent:
            return
        self.bar = tqdm(
            total=length,
            initial=step,
            dynamic_ncols=True,
            bar_format="{percentage:3.0f}% |{bar:20}| {n_fmt}/{total_fmt}{postfix}",
            disable=not is_terminal(),
            file=sys.stderr,
        )
        with writing(folder.metrics):
            self.metrics = open(folder.metrics, "a", encoding="utf-8")  # noqa: SIM115 (closed in `close`)
        self.tensorboard = open_tensorboard(folder, purge_step=step + 1)

    def message(self, text: str) -> None:
        if not self.is_silent:
            tqdm.write(text)
            sys.stdout.flush()

    def advance(self) -> None:
        """Move the bar by one step."""
        if not self.is_silent:
            self.bar.update()

    def entry(self, step: int, values: dict[str, Any]) -> None:
        """Write one line of metrics.jsonl and the same numbers to TensorBoard; nan becomes null."""
        if self.is_silent:
            return
        clean = {key: tidy(value) for key, value in {"step": step, **values}.items()}
        with writing(self.folder.metrics):
            self.metrics.write(json.dumps(clean) + "\n")
            self.metrics.flush()
        if self.tensorboard is not None:
            with writing(self.folder.path):
                for key, value in clean.items():
                    if isinstance(value, int | float) and key != "step":
                        self.tensorboard.add_scalar(key if "/" in key else f"train/{key}", value, step)

    def progress(self, step: int, values: dict[str, Any], *, losses: dict[str, float], seconds_per_step: float) -> None:
        """Show a log entry: the total loss, lr, images/s, ETA, memory and the single `losses`."""
        if self.is_silent:
            return
        shown_losses = " ".join(f"{name} {loss:.3f}" for name, loss in losses.items())
        eta = show_seconds(seconds_per_step * (self.length - step))
        text = (
            f"loss {values['loss']:.3f}  lr {values['lr']:.2e}  {values['images_per_second']:.1f} images/s  "
            f"ETA {eta}  {values['memory_mib']:.0f} MiB  {shown_losses}"
        )
        if self.bar.disable:
            print(f"step {step}/{self.length}  epoch {values['epoch']:.2f}  {text}", file=sys.stderr, flush=True)
        else:
            self.bar.set_postfix_str(text)

    def image(self, step: int, number: int, picture: Any) -> None:
        """Save a PIL picture as images/step_N_k.jpg and in TensorBoard."""
        if self.is_silent:
            return
        path = self.folder.images / f"step_{step:06d}_{number}.jpg"
        with writing(path):
            picture.convert("RGB").save(path, quality=90)
        if self.tensorboard is not None:
            from torchvision.transforms.functional import pil_to_tensor

            with writing(self.folder.path):
                self.tensorboard.add_image(f"detections/{number}", pil_to_tensor(picture.convert("RGB")), step)

    def close(self) -> None:
        if self.is_silent:
            return
        self.bar.close()
        self.metrics.close()
        if self.tensorboard is not None:
            self.tensorboard.close()


def open_tensorboard(folder: RunFolder, *, purge_step: int) -> Any:
    """A TensorBoard writer that hides earlier entries from `purge_step` on; None if tensorboard is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    with writing(folder.path):
        return SummaryWriter(str(folder.path), purge_step=purge_step)


def is_terminal() -> bool:
    """True if stderr can show a progress bar: it is a terminal with a known width."""
    try:
        return sys.stderr.isatty() and os.get_terminal_size(sys.stderr.fileno()).columns > 0
    except OSError:
        return False


def tidy(value: Any) -> Any:
    """Round a float to seven significant digits; None for nan and infinity, which JSON does not have."""
    if isinstance(value, float):
        return float(f"{value:.7g}") if math.isfinite(value) else None
    return value


def show_seconds(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"
