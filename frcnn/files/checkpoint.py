"""Checkpoints: files that hold a detector and everything needed to use it.

A checkpoint is a dict:

    format         version of this layout, `FORMAT`
    model          state dict of the detector
    config         the resolved config, as plain data
    class_names    list of K names; label k is class_names[k - 1]
    category_ids   list of K ids that COCO results use for the classes
    step           number of optimizer steps that led to these weights
    ema            last.pt of a run with train.ema_decay: state dict of the averaged weights, in addition to `model`
    is_averaged    best.pt: True if `model` holds averaged weights
    trainer        state needed to resume; missing if the checkpoint is for inference only
"""

import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from frcnn.errors import CheckpointError
from frcnn.files.reading import shown
from frcnn.files.run_format import check_run_format
from frcnn.files.weight_limits import check_archive, check_tensors
from frcnn.files.writing import replacing

FORMAT = 1
"""Version that `save_checkpoint` writes."""
UPGRADES: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {}
"""For each older version n, a function from a checkpoint of version n to one of version n + 1.

A config key that is missing in an older checkpoint needs no entry: it gets its default when the config is parsed.
"""
_KINDS = {"model": dict, "config": dict, "class_names": list, "category_ids": list, "step": int}
_OPTIONAL_KINDS = {"ema": dict, "trainer": dict}


class NewerFormatError(CheckpointError):
    """A checkpoint was written by a newer version of frcnn."""


def save_checkpoint(path: Path, checkpoint: dict[str, Any], *, keep: Path | None = None) -> None:
    """Write a checkpoint atomically, with the current `format`.

    Args:
        checkpoint: as in the module's docstring; `format` is set here.
        keep: rename the old file to this path. At any moment at least one of the two files is complete.

    Raises:
        CheckpointError: the disk is full or read-only, or the folder cannot be created. The old file is unchanged.
    """
    checkpoint = {**checkpoint, "format": FORMAT}
    problem = _problem(checkpoint)
    assert problem is None, problem
    try:
        with replacing(path, keep=keep) as file:
            _write(checkpoint, file)
    except OSError as error:
        raise CheckpointError(
            f"{path}: cannot write the checkpoint: {error.strerror or error}. An earlier checkpoint is unchanged"
        ) from error


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU and upgrade it to the current `format`.

    The file cannot execute code (`weights_only=True`). The checksum of every record is verified; torch.load alone does
    not do that.

    Raises:
        CheckpointError: the file is missing, truncated, damaged, not a checkpoint of frcnn, written by a newer version,
            or its tensors need far more memory than the file has bytes.
    """
    if path.is_dir():
        raise CheckpointError(f"{path}: is a folder, not a checkpoint. The checkpoints of a run are in RUN/checkpoints")
    if not path.exists():
        raise CheckpointError(f"{path}: no such checkpoint")
    try:
        check_archive(path)
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        check_tensors(checkpoint, path)
        _check_sums(path)
    except CheckpointError:
        raise
    except Exception as error:  # torch raises RuntimeError, EOFError, UnpicklingError, KeyError and more
        raise CheckpointError(
            f"{path}: cannot be read as a checkpoint: the file is truncated, damaged or written by another program "
            f"({type(error).__name__}). Copy the file again, or use another checkpoint of the run, such as last.pt"
        ) from error
    checkpoint = upgraded(checkpoint, path) if is_checkpoint(checkpoint) else checkpoint
    problem = _problem(checkpoint)
    if problem:
        raise CheckpointError(
            f"{path}: not a checkpoint of frcnn: {problem}. To use plain weights, pass them to --init-from or "
            "model.backbone.weights"
        )
    return checkpoint


def is_checkpoint(content: Any) -> bool:
    """Whether the content of a weight file claims to be a checkpoint of frcnn."""
    return isinstance(content, dict) and type(content.get("format")) is int


def upgraded(checkpoint: dict[str, Any], path: Path) -> dict[str, Any]:
    """Upgrade a checkpoint, one version at a time, to the current `format`.

    Raises:
        CheckpointError: the checkpoint is newer than this version of frcnn, too old, or damaged.
    """
    version = checkpoint["format"]
    if version > FORMAT:
        raise NewerFormatError(
            f"{path}: written by a newer frcnn (checkpoint format {shown(version)}; this version reads up to "
            f"{FORMAT}). Update frcnn"
        )
    while version < FORMAT:
        if version not in UPGRADES:
            raise CheckpointError(
                f"{path}: checkpoint format {shown(version)} is no longer supported. Load and save the file with an "
                "older frcnn"
            )
        try:
            checkpoint = UPGRADES[version](checkpoint) | {"format": version + 1}
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"{path}: cannot be upgraded from checkpoint format {version}: the file is damaged ({error!r})"
            ) from error
        version += 1
    return checkpoint


def load_newest(last: Path, previous: Path) -> tuple[dict[str, Any], Path, str]:
    """Load the checkpoint `last`, or `previous` if `last` is missing or damaged.

    Returns:
        the checkpoint, the file it was read from, and what is wrong with `last` ("" if nothing is).

    Raises:
        CheckpointError: neither file can be read.
    """
    try:
        return load_checkpoint(last), last, ""
    except NewerFormatError:
        raise  # `last` is not damaged, and the training run would lose its steps
    except CheckpointError as error:
        problem = error
    if not previous.exists():
        raise problem
    try:
        return load_checkpoint(previous), previous, str(problem)
    except CheckpointError as error:
        raise CheckpointError(f"no checkpoint to resume from. {problem}. The previous checkpoint: {error}") from error


def weights_to_use(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """The weights for evaluation, prediction, initialization and export: the averaged weights if there are any."""
    return checkpoint.get("ema") or checkpoint["model"]


def find_checkpoint(source: Path) -> Path:
    """Find the checkpoint that a path stands for.

    A file stands for itself. A run folder, or its folder `checkpoints`, stands for the first that exists of best.pt,
    last.pt and previous.pt.

    Raises:
        CheckpointError: the path does not exist, the folder holds no checkpoint, or the run folder was written by a
            newer version of frcnn.
    """
    if source.is_file():
        return source
    if not source.exists():
        raise CheckpointError(f"{source}: no such run folder or checkpoint")
    check_run_format(source / "env.json")
    for folder in (source / "checkpoints", source):
        for name in ("best.pt", "last.pt", "previous.pt"):
            if (folder / name).is_file():
                return folder / name
    raise CheckpointError(f"{source}: no checkpoint in this folder (looked for checkpoints/best.pt and last.pt)")


def _write(checkpoint: dict[str, Any], file: Any) -> None:
    try:
        torch.save(checkpoint, file)
    except RuntimeError as error:
        # torch's writer detects a full disk late and raises its own error instead of the OSError.
        if isinstance(error.__context__, OSError):
            raise error.__context__ from error
        raise


def _check_sums(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()
    if damaged is not None:
        raise ValueError(f"checksum of {damaged}")


def _problem(checkpoint: Any) -> str | None:
    """The reason why a value is not a checkpoint of the current format; None if it is one."""
    if not isinstance(checkpoint, dict):
        return f"it holds a {type(checkpoint).__name__}"
    if "format" not in checkpoint:
        return "it has no entry 'format'"
    if not is_checkpoint(checkpoint):
        return f"its entry 'format' is {shown(checkpoint['format'])}"
    for key in _KINDS:
        if key not in checkpoint:
            return f"it has no entry '{key}'"
    for key, kind in (_KINDS | _OPTIONAL_KINDS).items():
        if key in checkpoint and not isinstance(checkpoint[key], kind):
            return f"its entry '{key}' is a {type(checkpoint[key]).__name__}"
    for key in ("model", "ema"):
        if not all(isinstance(name, str) for name in checkpoint.get(key, ())):
            return f"a name in '{key}' is not a string"
    if not all(isinstance(name, str) for name in checkpoint["class_names"]):
        return "a class name is not a string"
    if not all(isinstance(each, int) for each in checkpoint["category_ids"]):
        return "a category id is not an integer"
    if not len(checkpoint["class_names"]) == len(checkpoint["category_ids"]) > 0:
        return f"it has {len(checkpoint['class_names'])} class names, {len(checkpoint['category_ids'])} category ids"
    return None
