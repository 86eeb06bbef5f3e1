"""Start from the weights of another training, as far as they fit."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from torch import nn

from frcnn.errors import CheckpointError
from frcnn.files.checkpoint import weights_to_use
from frcnn.files.weights import find_state_dict, read_weight_file

CLASS_LAYERS = "roi_head.predictor."
"""Names of the layers with a row for each class begin so."""


class WeightsReport(NamedTuple):
    """What `load_weights` did with each tensor."""

    loaded: list[str]
    other_shape: list[str]
    """With both shapes; kept as the model had them."""
    other_classes: list[str]
    """Of the right shape, but their rows stand for other classes; kept as the model had them."""
    missing: list[str]
    """Of the model but not of the file; kept as the model had them."""
    unused: list[str]
    """Of the file but not of the model."""

    def text(self, source: Path) -> str:
        """Some lines for the log: how many tensors were loaded and which were left out, and why."""
        lines = [f"init   {len(self.loaded)} tensors loaded from {source}"]
        for reason, names in (
            ("left out, other shape (another number of classes, as a rule)", self.other_shape),
            ("left out, trained for other class names", self.other_classes),
            ("not in the file, start fresh", self.missing),
            ("in the file only, not used", self.unused),
        ):
            if names:
                shown = names if len(names) <= 8 else [*names[:8], f"and {len(names) - 8} more"]
                lines.append(f"       {len(names)} {reason}:")
                lines += [f"         {name}" for name in shown]
        return "\n".join(lines)


def load_weights(model: nn.Module, path: Path, *, class_names: Sequence[str]) -> WeightsReport:
    """Load what fits by name and shape from a checkpoint of ours or any PyTorch state dict; leave the rest as it is.

    Of a last.pt that holds averaged weights (train.ema_decay) it is these that are loaded, as `frcnn eval` does.

    Args:
        class_names: of the model. Where the file names other ones, the layers with a row for each class are left out
            even if their number is the same.

    Raises:
        CheckpointError: the file is missing, broken, holds no weights, or none of them fits.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: there is no such file to initialise from")
    try:
        content = read_weight_file(path)
    except CheckpointError as error:
        reason = str(error).removeprefix(f"{path}: ")
        raise CheckpointError(f"{path} cannot be read to initialise from: {reason}") from error
    if isinstance(content, dict) and "trainer" in content:  # last.pt of a run
        content = content | {"model": weights_to_use(content)}
    found = find_state_dict(content, source=path)
    if not found:
        raise CheckpointError(f"{path} holds no weights: expected a checkpoint or a state dict")
    weights = {name.removeprefix("module."): value for name, value in found.items()}  # the prefix is DDP's
    own = model.state_dict()
    same_shape = [name for name in own if name in weights and own[name].shape == weights[name].shape]
    named = content.get("class_names") if isinstance(content, dict) else None
    is_other = named is not None and list(named) != list(class_names)
    other_classes = [name for name in same_shape if is_other and name.startswith(CLASS_LAYERS)]
    loaded = [name for name in same_shape if name not in other_classes]
    if not any(own[name].ndim > 1 for name in loaded):
        raise CheckpointError(
            f"{path}: none of its {len(weights)} tensors fits the model by name and shape. Is it a detector's? "
            "Weights of a backbone alone go to model.backbone.weights"
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
