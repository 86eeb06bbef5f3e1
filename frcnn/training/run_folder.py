"""The folder of a training run: its files, when it may be written, and what a resume removes.

    config.yaml               resolved config
    env.json                  format number of the folder; versions, git commit, seed and command of the first start;
                              later starts under "resumed"
    metrics.jsonl             one JSON object per line
    events.out.tfevents.*     TensorBoard
    checkpoints/last.pt       everything needed to resume
    checkpoints/previous.pt   the last.pt before it, used if last.pt is damaged
    checkpoints/best.pt       the weights with the best evaluation
    images/                   detections next to ground truth at each evaluation
    eval.json                 evaluation of best.pt
    bad_step/                 the step whose loss or gradient was not finite, for `frcnn replay`

A folder is a run if it has last.pt, which is written first; everything else can be recreated from it. Replacing last.pt
takes two renames. Between them, the only complete checkpoint is previous.pt.
"""

import json
import platform
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torchvision

from frcnn.errors import ConfigError, TrainingError
from frcnn.files.run_format import RUN_FORMAT
from frcnn.files.writing import replacing
from frcnn.version import PACKAGE, __version__

LEFTOVERS = (
    ".config.yaml.*.tmp",
    ".env.json.*.tmp",
    ".metrics.jsonl.*.tmp",
    ".eval.json.*.tmp",
    "checkpoints/.best.pt.*.tmp",
    "checkpoints/.last.pt.*.tmp",
    "bad_step/.step.pt.*.tmp",
    "bad_step/.step.json.*.tmp",
)
"""Temporary files that a kill during a write leaves behind."""

OWN_FILES = (
    *LEFTOVERS,
    "images/step_*_*.jpg",
    "bad_step/step.pt",
    "bad_step/step.json",
    "events.out.tfevents.*",
    "metrics.jsonl",
    "eval.json",
    "env.json",
    "config.yaml",
    "checkpoints/best.pt",
    "checkpoints/previous.pt",
    "checkpoints/last.pt",
)
"""All files that a run writes, in the order in which --overwrite deletes them. last.pt comes last, so that the folder
counts as a run until everything is deleted."""


class RunFolder(NamedTuple):
    """Paths of one run."""

    path: Path

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    @property
    def environment(self) -> Path:
        return self.path / "env.json"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def evaluation(self) -> Path:
        return self.path / "eval.json"

    @property
    def last(self) -> Path:
        return self.path / "checkpoints" / "last.pt"

    @property
    def previous(self) -> Path:
        return self.path / "checkpoints" / "previous.pt"

    @property
    def best(self) -> Path:
        return self.path / "checkpoints" / "best.pt"

    @property
    def images(self) -> Path:
        return self.path / "images"

    @property
    def bad_step(self) -> Path:
        return self.path / "bad_step"

    @property
    def resume(self) -> str:
        """Arguments of `frcnn train` that resume the run."""
        return f"--resume --out {shlex.quote(str(self.path))}"

    def can_resume(self) -> bool:
        """True if there is a checkpoint to resume from."""
        return self.last.exists() or self.previous.exists()

    def holds_run(self) -> bool:
        """True if there is any checkpoint of a training run."""
        return self.can_resume() or self.best.exists()


def refuse_overwriting(folder: RunFolder, *, overwrite: bool) -> None:
    """Raise ConfigError if a new run would overwrite another run, or files that do not belong to a run."""
    if folder.holds_run():
        if not overwrite:
            raise ConfigError(
                f"{folder.path} already holds a run. Resume it with --resume, choose another folder with --out, or "
                "delete the run with --overwrite"
            )
        return
    foreign = (folder.config, folder.environment, folder.metrics, folder.evaluation)
    names = [path.name for path in foreign if path.exists()]
    if names:
        raise ConfigError(
            f"{folder.path} holds no run, but it holds {' and '.join(names)}, which a run would overwrite. Choose "
            "another folder with --out, or move the file away"
        )


def prepare_folder(folder: RunFolder, *, overwrite: bool) -> None:
    """Create the folder of a new run.

    With `overwrite`, the files of an earlier run are deleted one by one, by name. Other files in the folder are kept.
    Nothing is deleted if the folder holds no run.

    Raises:
        ConfigError: the folder holds a run (without `overwrite`) or foreign files, or cannot be written.
    """
    refuse_overwriting(folder, overwrite=overwrite)
    try:
        if folder.holds_run():
            remove(folder, OWN_FILES)
        folder.last.parent.mkdir(parents=True, exist_ok=True)
        folder.images.mkdir(exist_ok=True)
        with tempfile.TemporaryFile(dir=folder.path):
            pass  # the folder can be written
    except OSError as error:
        raise ConfigError(
            f"cannot write to the run folder {folder.path}: {error.strerror or error}. Choose another folder with --out"
        ) from error


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Convert an OSError, such as a full disk, to a TrainingError that names the file."""
    try:
        yield
    except OSError as error:
        raise TrainingError(
            f"cannot write {path}: {error.strerror or error}. Fix this, then continue with --resume"
        ) from error


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with writing(path), replacing(path) as file:
        file.write(text.encode())


def remove_leftovers(folder: RunFolder) -> None:
    """Delete the temporary files of interrupted writes; parts of checkpoints can be large."""
    with writing(folder.path):
        remove(folder, LEFTOVERS)


def remove(folder: RunFolder, patterns: Iterable[str]) -> None:
    """Delete the files that match the patterns; never a folder."""
    for pattern in patterns:
        for path in folder.path.glob(pattern):
            if not path.is_dir():
                path.unlink(missing_ok=True)


def cut_metrics(path: Path, *, step: int, evaluated_step: int) -> None:
    """Drop the entries that a resumed run will write again.

    These are the steps after `step`, the evaluations after `evaluated_step`, and an incomplete last line.
    """
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            entry = json.loads(line)
            is_evaluation = any(key.startswith("eval/") for key in entry)
            if entry["step"] <= (evaluated_step if is_evaluation else step):
                kept.append(line + "\n")
        except (ValueError, KeyError, AttributeError, TypeError):
            continue
    write_text(path, "".join(kept))


def write_environment(path: Path, *, seed: int, device: torch.device, world_size: int, is_resumed: bool) -> None:
    """Write env.json. A resumed start is added to the description of the first start."""
    environment = describe_environment(seed=seed, device=device, world_size=world_size)
    if is_resumed and path.exists():
        try:
            first = json.loads(path.read_text(encoding="utf-8"))
            first.setdefault("resumed", []).append(environment)
            environment = first
        except (ValueError, AttributeError):
            pass  # a damaged env.json is replaced
    write_text(path, json.dumps({**environment, "format": RUN_FORMAT}, indent=2) + "\n")


def describe_environment(*, seed: int, device: torch.device, world_size: int) -> dict[str, Any]:
    """Versions, commit, seed, command and device of this start, as plain data."""
    commit, is_dirty = git_commit()
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "numpy": np.__version__,
        "frcnn": __version__,
        "platform": platform.platform(),
        "git_commit": commit,
        "git_dirty": is_dirty,
        "seed": seed,
        "command": shlex.join(sys.argv),
        "device": str(device),
        "device_name": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine(),
        "world_size": world_size,
        "threads": torch.get_num_threads(),
    }


def git_commit() -> tuple[str | None, bool | None]:
    """Commit of the package's checkout, and whether tracked files are modified; None if there is no checkout."""

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=PACKAGE, capture_output=True, text=True, timeout=10, check=True)
        return done.stdout.strip()

    try:
        if not git("ls-files", "__init__.py"):  # installed inside another repository
            return None, None
        return git("rev-parse", "HEAD"), bool(git("status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.SubprocessError):
        return None, None
