"""Checkpoints: files that hold a detector and all it takes to use it.

A checkpoint is a dict:

    format         1
    model          state dict of the detector
    config         the resolved config, as plain data
    class_names    list of K names; label k is class_names[k - 1]
    category_ids   list of K ids, by which COCO results name the classes
    step           optimiser steps behind these weights
    ema            last.pt of a run with train.ema_decay: the averaged weights, as a state dict beside the raw `model`
    is_averaged    best.pt: True where `model` holds averaged weights
    trainer        what a resume needs; absent where the checkpoint is for use only
"""

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from frcnn.errors import CheckpointError
from frcnn.files.reading import shown
from frcnn.files.weight_limits import check_archive, check_tensors
from frcnn.files.writing import replacing

FORMAT = 1
_KINDS = {"model": dict, "config": dict, "class_names": list, "category_ids": list, "step": int}


def save_checkpoint(path: Path, checkpoint: dict[str, Any], *, keep: Path | None = None) -> None:
    """Write a checkpoint so that a crash leaves the old file or the new one, never a part of one.

    With `keep` the old file is kept under that name; at any moment one of both is whole.

    Raises:
        CheckpointError: the disk is full or read-only, or the folder cannot be made; the old file is still there.
    """
    problem = _problem(checkpoint)
    assert problem is None, problem
    try:
        with replacing(path, keep=keep) as file:
            _write(checkpoint, file)
    except OSError as error:
        raise CheckpointError(
            f"{path}: cannot write the checkpoint: {error.strerror or error}. "
            "An earlier one, if there is any, is untouched"
        ) from error


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU. Nothing in the file is executed (`weights_only`).

    Every record is held against its checksum, which torch.load alone does not look at.

    Raises:
        CheckpointError: the file is missing, cut short, damaged, no checkpoint of frcnn, or asks for more memory than
            it can have a use for.
    """
    if path.is_dir():
        raise CheckpointError(f"{path}: a folder, not a checkpoint; a run's are in its folder checkpoints")
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
            f"{path}: cannot be read as a checkpoint: the file is cut short or damaged, or another program's "
            f"({type(error).__name__}). Copy it again, or use another one of the run, such as last.pt"
        ) from error
    problem = _problem(checkpoint)
    if problem:
        raise CheckpointError(
            f"{path}: not a checkpoint of frcnn: {problem}. Plain weights go to train's --init-from or to "
            "model.backbone.weights"
        )
    return checkpoint


def load_newest(last: Path, previous: Path) -> tuple[dict[str, Any], Path, str]:
    """The checkpoint `last` or, where that is missing or damaged, the one written before it.

    Returns:
        the checkpoint, the file it is from, and what was wrong with `last`; "" where nothing was.

    Raises:
        CheckpointError: neither can be read.
    """
    try:
        return load_checkpoint(last), last, ""
    except CheckpointError as error:
        problem = error
    if not previous.exists():
        raise problem
    try:
        return load_checkpoint(previous), previous, str(problem)
    except CheckpointError as error:
        raise CheckpointError(f"no checkpoint to go on from. {problem}. The one before it: {error}") from error


def weights_to_use(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """The weights to evaluate, predict, initialise and export with: the averaged ones where there are such."""
    return checkpoint.get("ema") or checkpoint["model"]


def find_checkpoint(source: Path) -> Path:
    """The checkpoint a user means: a file is taken as it is; of a run folder, or its folder
    `checkpoints`, best.pt if there is one, else last.pt, else previous.pt.

    Raises:
        CheckpointError: there is no such file or folder, or the folder holds no checkpoint.
    """
    if source.is_file():
        return source
    if not source.exists():
        raise CheckpointError(f"{source}: no such run folder or checkpoint")
    for folder in (source / "checkpoints", source):
        for name in ("best.pt", "last.pt", "previous.pt"):
            if (folder / name).is_file():
                return folder / name
    raise CheckpointError(f"{source}: holds no run with a checkpoint (looked for checkpoints/best.pt and last.pt)")


def _write(checkpoint: dict[str, Any], file: Any) -> None:
    try:
        torch.save(checkpoint, file)
    except RuntimeError as error:
        # torch's writer notices a full disk late and speaks of it in its own words.
        if isinstance(error.__context__, OSError):
            raise error.__context__ from error
        raise


def _check_sums(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()
    if damaged is not None:
        raise ValueError(f"checksum of {damaged}")


def _problem(checkpoint: Any) -> str | None:
    """What keeps a value from being a checkpoint; None where it is one."""
    if not isinstance(checkpoint, dict):
        return f"it holds a {type(checkpoint).__name__}"
    if "format" not in checkpoint:
        return "it has no entry 'format'"
    if not isinstance(checkpoint["format"], int) or checkpoint["format"] != FORMAT:
        return f"its format is {shown(checkpoint['format'])}, this version reads {FORMAT}"
    for key, kind in _KINDS.items():
        if key not in checkpoint:
            return f"it has no entry '{key}'"
        if not isinstance(checkpoint[key], kind):
            return f"its entry '{key}' is a {type(checkpoint[key]).__name__}"
    if not all(isinstance(name, str) for name in checkpoint["class_names"]):
        return "a class name is no text"
    if not all(isinstance(each, int) for each in checkpoint["category_ids"]):
        return "a category id is no whole number"
    if not len(checkpoint["class_names"]) == len(checkpoint["category_ids"]) > 0:
        return f"it has {len(checkpoint['class_names'])} class names, {len(checkpoint['category_ids'])} category ids"
    return None
