"""Initialize a model with the weights of another training run that fit."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from torch import nn

from frcnn.errors import CheckpointError
from frcnn.files.checkpoint import is_checkpoint, upgraded, weights_to_use
from frcnn.files.weights import find_state_dict, read_weight_file

CLASS_LAYERS = "roi_head.predictor."
"""Prefix of the layers that have a row for each class."""


class WeightsReport(NamedTuple):
    """What `initialize_from` did with each tensor."""

    loaded: list[str]
    other_shape: list[str]
    """Not loaded because the shapes differ; with both shapes."""
    other_classes: list[str]
    """Not loaded because the rows stand for other classes, although the shape is the same."""
    missing: list[str]
    """In the model but not in the file; not changed."""
    unused: list[str]
    """In the file but not in the model."""

    def text(self, source: Path) -> str:
        """Lines for the log: how many tensors were loaded, which were skipped, and why."""
        lines = [f"init   {len(self.loaded)} tensors loaded from {source}"]
        for reason, names in (
            ("skipped: other shape (usually another number of classes)", self.other_shape),
            ("skipped: trained for other class names", self.other_classes),
            ("missing in the file: keep their initial values", self.missing),
            ("unexpected in the file: not used", self.unused),
        ):
            if names:
                shown = names if len(names) <= 8 else [*names[:8], f"and {len(names) - 8} more"]
                lines.append(f"       {len(names)} {reason}:")
                lines += [f"         {name}" for name in shown]
        return "\n".join(lines)


def initialize_from(model: nn.Module, path: Path, *, class_names: Sequence[str]) -> WeightsReport:
    """Load the weights that fit by name and shape, from a checkpoint of frcnn or any PyTorch state dict.

    If a last.pt holds averaged weights (train.ema_decay), these are loaded, as in `frcnn eval`. The other weights of
    the model do not change.

    Args:
        class_names: class names of the model. If the file has others, the layers with a row for each class are skipped,
            even if the number of classes is the same.

    Raises:
        CheckpointError: the file is missing, damaged or holds no weights, or no weights fit.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file to initialize from")
    try:
        content = read_weight_file(path)
    except CheckpointError as error:
        reason = str(error).removeprefix(f"{path}: ")
        raise CheckpointError(f"{path}: cannot initialize from this file: {reason}") from error
    content = upgraded(content, path) if is_checkpoint(content) else content
    if isinstance(content, dict) and "trainer" in content:  # last.pt of a run
        content = content | {"model": weights_to_use(content)}
    found = find_state_dict(content, source=path)
    if not found:
        raise CheckpointError(f"{path}: holds no weights; expected a checkpoint or a state dict")
    weights = {name.removeprefix("module."): value for name, value in found.items()}  # DDP adds this prefix
    own = model.state_dict()
    same_shape = [name for name in own if name in weights and own[name].shape == weights[name].shape]
    named = content.get("class_names") if isinstance(content, dict) else None
    is_other = named is not None and list(named) != list(class_names)
    other_classes = [name for name in same_shape if is_other and name.startswith(CLASS_LAYERS)]
    loaded = [name for name in same_shape if name not in other_classes]
    if not any(own[name].ndim > 1 for name in loaded):
        raise CheckpointError(
            f"{path}: none of its {len(weights)} tensors fits the model by name and shape. Is it a detector? Use "
            "model.backbone.weights for the weights of a backbone alone"
        )
    model.load_state_dict({name: weights[name] for name in loaded}, strict=False)
    return WeightsReport(
        loaded=loaded,
        other_shape=[
            f"{name}: {tuple(weights[name].shape)} in the file, {tuple(own[name].shape)} here"
            for name in own
            if name in weights and name not in same_shape
        ],
        other_classes=other_classes,
        missing=[name for name in own if name not in weights],
        unused=[name for name in weights if name not in own],
    )
