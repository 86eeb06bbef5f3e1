"""Shared by all formats: the result of a conversion, renaming by rules, and reordering the rows of a layer."""

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from torch import Tensor

from frcnn.errors import CheckpointError

StateDict = dict[str, Tensor]
OTHER_HEADS = "Faster R-CNN has no masks or keypoints"
COUNTER = "num_batches_tracked"
"""Suffix of the names of batch norm's counters, which nothing reads."""

CLASSES, DELTAS = "roi_head.predictor.classes", "roi_head.predictor.deltas"
RPN_OBJECTNESS, RPN_DELTAS = "rpn.objectness", "rpn.deltas"


class Conversion(NamedTuple):
    """The tensors of another program's file with our names, and the settings in the file."""

    program: str
    like: str
    """Name of the base config with the program's settings for this network."""
    state: StateDict
    settings: dict[str, Any]
    """Config keys that the file determines, such as model.backbone.name."""
    changes: list[str]
    """Changes to tensors beyond renaming, and assumptions; one sentence each."""
    skipped: dict[str, str]
    """Names of tensors that were skipped -> the reason."""
    unused: StateDict = {}
    """Tensors of the file that only an export needs."""
    class_names: list[str] | None = None
    """Class names in the file; None if it has none."""
    train_source: dict[str, dict[str, str]] = {}
    """Dataset -> keys of data.train that reproduce how the program reads it."""
    num_ratios: int | None = None
    """Number of anchor ratios assumed when anchors were reordered; None if they were not."""


def rename(
    state: Mapping[str, Tensor],
    rules: Mapping[str, str | Callable[[re.Match[str]], str]],
    *,
    skip: Mapping[str, str],
) -> tuple[StateDict, dict[str, str]]:
    r"""Rename tensors by rules.

    Args:
        rules: patterns of full names -> new names, where \1 is the first group of the pattern; or a function of the
            match.
        skip: patterns of names to skip -> the reason.

    Returns:
        The tensors by new name, and the reasons by old name of the skipped tensors.

    Raises:
        CheckpointError: a name matches no pattern, or two names become one.
    """
    renamed: StateDict = {}
    left: dict[str, str] = {}
    unknown = []
    for name, tensor in state.items():
        if found := _first_match(skip, name):
            left[name] = found[1]
        elif found := _first_match(rules, name):
            match, rule = found
            new = match.expand(rule) if isinstance(rule, str) else rule(match)
            if new in renamed:
                raise CheckpointError(f"{name} and another tensor in the file both map to {new}")
            renamed[new] = tensor
        else:
            unknown.append(name)
    if unknown:
        raise CheckpointError(
            f"{len(unknown)} tensors belong to no layer of this detector: {shorten(unknown)}. Remove them from the "
            "file if they do not matter"
        )
    return renamed, left


def change_rows(state: StateDict, layer: str, change: Callable[[Tensor], Tensor]) -> None:
    """Apply `change` to the first axis of a layer's weight and bias, in place. Missing tensors are skipped.

    Raises:
        CheckpointError: `change` does not work with this number of rows.
    """
    for name in (f"{layer}.weight", f"{layer}.bias"):
        if name in state:
            try:
                state[name] = change(state[name]).clone()  # a view would save the whole tensor in the file
            except RuntimeError as error:
                rows = len(state[name]) if state[name].dim() else "no"
                raise CheckpointError(f"{name} has {rows} rows, which cannot be reordered: {error}") from error


def background_first(rows: Tensor) -> Tensor:
    """(K + 1, ...), background last -> first."""
    return rows.roll(1, 0)


def without_background(rows: Tensor) -> Tensor:
    """(4 (K + 1), ...), background first -> (4 K, ...)."""
    return rows[4:]


def x_before_y(rows: Tensor) -> Tensor:
    """Groups of four rows: (dy, dx, dh, dw) -> (dx, dy, dw, dh)."""
    return rows.unflatten(0, (-1, 4))[:, [1, 0, 3, 2]].flatten(0, 1)


def ratios_slowest(rows: Tensor, *, num_ratios: int, rows_per_anchor: int) -> Tensor:
    """Anchors of a position: ordered by size, then by ratio -> ordered by ratio, then by size."""
    return rows.unflatten(0, (-1, num_ratios, rows_per_anchor)).transpose(0, 1).flatten(0, 2)


def pairs_together(rows: Tensor) -> Tensor:
    """(2 k, ...): k background rows, then k object rows -> pairs of background and object for each anchor."""
    return rows.unflatten(0, (2, -1)).transpose(0, 1).flatten(0, 1)


def shorten(names: Any, count: int = 6) -> str:
    """The first names, and the number of others."""
    names = list(names)
    return ", ".join(names[:count]) + (f" and {len(names) - count} more" if len(names) > count else "")


def _first_match(patterns: Mapping[str, Any], name: str) -> tuple[re.Match[str], Any] | None:
    return next(((match, value) for pattern, value in patterns.items() if (match := re.fullmatch(pattern, name))), None)
