"""The folder of a run: what lies in it, when it may be written, and what is cut off when a run is resumed.

    config.yaml               resolved config
    env.json                  versions, git commit, seed and command of the first start; later ones under "resumed"
    metrics.jsonl             one JSON object a line
    events.out.tfevents.*     TensorBoard
    checkpoints/last.pt       everything a resume needs
    checkpoints/previous.pt   the last.pt before it, in case that is damaged
    checkpoints/best.pt       the weights that evaluated best
    images/                   detections beside ground truth at each evaluation
    eval.json                 evaluation of best.pt
    bad_step/                 the step whose loss or gradients were not finite, for `frcnn replay`

last.pt is what makes a folder a run: it is written first, and everything else can be made again from it. Between the
two renames that put a new one in its place it stands under the name previous.pt.
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

import frcnn
from frcnn.errors import ConfigError, TrainingError
from frcnn.files.writing import replacing

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
"""What a kill in the middle of a write leaves."""

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
"""All that a run writes, in the order in which it is thrown away: the folder holds a run to the end."""


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
        """What to give to `frcnn train` to go on."""
        return f"--resume --out {shlex.quote(str(self.path))}"

    def can_resume(self) -> bool:
        """True where there is a checkpoint to go on from."""
        return self.last.exists() or self.previous.exists()

    def holds_run(self) -> bool:
        """True where there are checkpoints of a training."""
        return self.can_resume() or self.best.exists()


def refuse_overwriting(folder: RunFolder, *, overwrite: bool) -> None:
    """Raise ConfigError where a new run would overwrite another one unbidden, or files that are no run's."""
    if folder.holds_run():
        if not overwrite:
            raise ConfigError(
                f"{folder.path} already holds a run. Go on with it by --resume, choose another folder by --out, "
                "or throw it away by --overwrite"
            )
        return
    foreign = (folder.config, folder.environment, folder.metrics, folder.evaluation)
    names = [path.name for path in foreign if path.exists()]
    if names:
        raise ConfigError(
            f"{folder.path} holds no run, but {' and '.join(names)}, which a run would overwrite. "
            "Choose another folder by --out, or move that away"
        )


def prepare_folder(folder: RunFolder, *, overwrite: bool) -> None:
    """Make the folder for a new run, or say why it cannot be one.

    With `overwrite` the files of an earlier run are removed, one by one by their names; whatever else lies in the
    folder stays. Where there is no run nothing is removed.
    """
    refuse_overwriting(folder, overwrite=overwrite)
    try:
        if folder.holds_run():
            remove(folder, OWN_FILES)
        folder.last.parent.mkdir(parents=True, exist_ok=True)
        folder.images.mkdir(exist_ok=True)
        with tempfile.TemporaryFile(dir=folder.path):
            pass  # it can be written
    except OSError as error:
        raise ConfigError(
            f"cannot write to the run folder {folder.path}: {error.strerror or error}. Choose another by --out"
        ) from error


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn a full or read-only disk into a message that names the file."""
    try:
        yield
    except OSError as error:
        raise TrainingError(
            f"cannot write {path}: {error.strerror or error}. Mend that, then go on with --resume"
        ) from error


def write_text(path: Path, text: str) -> None:
    """Write a whole file or leave the old one."""
    with writing(path), replacing(path) as file:
        file.write(text.encode())


def remove_leftovers(folder: RunFolder) -> None:
    """Remove what a kill in the middle of a write has left: part of a checkpoint can be large."""
    with writing(folder.path):
        remove(folder, LEFTOVERS)


def remove(folder: RunFolder, patterns: Iterable[str]) -> None:
    """Remove the files of these names; never a folder."""
    for pattern in patterns:
        for path in folder.path.glob(pattern):
            if not path.is_dir():
                path.unlink(missing_ok=True)


def cut_metrics(path: Path, *, step: int, evaluated_step: int) -> None:
    """Drop the entries that a resumed run will write again.

    Those are the steps after `step`, the evaluations after `evaluated_step`, and a last line that was cut short when
    the run was killed.
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
    """Write what this start runs on; a resumed start is added below the first one."""
    environment = describe_environment(seed=seed, device=device, world_size=world_size)
    if is_resumed and path.exists():
        try:
            first = json.loads(path.read_text(encoding="utf-8"))
            first.setdefault("resumed", []).append(environment)
            environment = first
        except (ValueError, AttributeError):
            pass  # a damaged env.json is replaced by what is known now
    write_text(path, json.dumps(environment, indent=2) + "\n")


def describe_environment(*, seed: int, device: torch.device, world_size: int) -> dict[str, Any]:
    commit, is_dirty = git_commit()
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "numpy": np.__version__,
        "frcnn": frcnn.__version__,
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
    """Commit of the checkout this package lies in, and whether tracked files differ from it; None without git."""

    def git(*arguments: str) -> str:
        package = Path(frcnn.__file__).resolve().parent
        done = subprocess.run(["git", *arguments], cwd=package, capture_output=True, text=True, timeout=10, check=True)
        return done.stdout.strip()

    try:
        if not git("ls-files", "__init__.py"):  # installed inside somebody else's repository
            return None, None
        return git("rev-parse", "HEAD"), bool(git("status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.SubprocessError):
        return None, None
