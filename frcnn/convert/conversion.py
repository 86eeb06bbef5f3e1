"""What every format shares: the outcome, renaming by rules, and moving the rows of a layer."""

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from torch import Tensor

from frcnn.errors import CheckpointError

StateDict = dict[str, Tensor]
OTHER_HEADS = "Faster R-CNN has no masks or keypoints"
COUNTER = "num_batches_tracked"
"""End of the names of batch norm's counters, which nothing reads."""

CLASSES, DELTAS = "roi_head.predictor.classes", "roi_head.predictor.deltas"
RPN_OBJECTNESS, RPN_DELTAS = "rpn.objectness", "rpn.deltas"


class Conversion(NamedTuple):
    """The tensors of another program's file under our names, and what the file says about the detector."""

    program: str
    like: str
    """Name of the base config that holds the program's numbers for this network."""
    state: StateDict
    settings: dict[str, Any]
    """Keys of the config that the file decides, such as model.backbone.name."""
    changes: list[str]
    """What was done to tensors beyond renaming, and what was taken for granted; one sentence each."""
    left_out: dict[str, str]
    """Names in the file that have no place in ours, with the reason."""
    unused: StateDict = {}
    """Tensors of the file that the way back needs."""
    class_names: list[str] | None = None
    """As the file gives them."""
    train_source: dict[str, dict[str, str]] = {}
    """Keys of data.train by which the program read coco and voc."""
    num_ratios: int | None = None
    """The number of anchor ratios that the order of anchors was changed for."""


def rename(
    state: Mapping[str, Tensor],
    rules: Mapping[str, str | Callable[[re.Match[str]], str]],
    *,
    leave_out: Mapping[str, str],
) -> tuple[StateDict, dict[str, str]]:
    r"""Give each tensor its new name.

    Args:
        rules: patterns of whole names -> new names, in which \1 stands for the pattern's first group; or a function of
            the match.
        leave_out: patterns of names that go nowhere -> the reason.

    Returns:
        The tensors by their new names, and the reasons by the old names of those left out.

    Raises:
        CheckpointError: names that no pattern covers, of layers that this detector does not have; or two for one layer.
    """
    renamed: StateDict = {}
    left: dict[str, str] = {}
    unknown = []
    for name, tensor in state.items():
        if found := _first_match(leave_out, name):
            left[name] = found[1]
        elif found := _first_match(rules, name):
            match, rule = found
            new = match.expand(rule) if isinstance(rule, str) else rule(match)
            if new in renamed:
                raise CheckpointError(f"{name} and another tensor of the file are both {new}")
            renamed[new] = tensor
        else:
            unknown.append(name)
    if unknown:
        raise CheckpointError(
            f"{len(unknown)} tensors belong to no layer of this kind of detector: {shorten(unknown)}. Take them out of "
            "the file if they do not matter"
        )
    return renamed, left


def change_rows(state: StateDict, layer: str, change: Callable[[Tensor], Tensor]) -> None:
    """Apply `change` to the first axis of a layer's weight and bias, in place; missing ones are left to later checks.

    Raises:
        CheckpointError: the number of rows does not suit the change.
    """
    for name in (f"{layer}.weight", f"{layer}.bias"):
        if name in state:
            try:
                state[name] = change(state[name]).clone()  # a view would carry the whole tensor into the file
            except RuntimeError as error:
                rows = len(state[name]) if state[name].dim() else "no"
                raise CheckpointError(f"{name} has {rows} rows, which cannot be put in our order: {error}") from error


def background_first(rows: Tensor) -> Tensor:
    """(K + 1, ...), background last -> first."""
    return rows.roll(1, 0)


def without_background(rows: Tensor) -> Tensor:
    """(4 (K + 1), ...), background first -> (4 K, ...)."""
    return rows[4:]


def x_before_y(rows: Tensor) -> Tensor:
    """Groups of four rows: dy, dx, dh, dw -> dx, dy, dw, dh."""
    return rows.unflatten(0, (-1, 4))[:, [1, 0, 3, 2]].flatten(0, 1)


def ratios_slowest(rows: Tensor, *, num_ratios: int, rows_per_anchor: int) -> Tensor:
    """Anchors of a position, sizes slowest and ratios within -> ratios slowest and sizes within."""
    return rows.unflatten(0, (-1, num_ratios, rows_per_anchor)).transpose(0, 1).flatten(0, 2)


def pairs_together(rows: Tensor) -> Tensor:
    """(2 k, ...): first k for background, then k for object -> background and object of each anchor side by side."""
    return rows.unflatten(0, (2, -1)).transpose(0, 1).flatten(0, 1)


def shorten(names: Any, count: int = 6) -> str:
    """The first few of some names."""
    names = list(names)
    return ", ".join(names[:count]) + (f" and {len(names) - count} more" if len(names) > count else "")


def _first_match(patterns: Mapping[str, Any], name: str) -> tuple[re.Match[str], Any] | None:
    return next(((match, value) for pattern, value in patterns.items() if (match := re.fullmatch(pattern, name))), None)
