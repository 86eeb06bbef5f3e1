"""The stages of a training or detection step, and a context manager that runs code around each."""

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

STAGES = (
    "normalise",
    "backbone",
    "neck",
    "rpn head",
    "anchors",
    "labels and sampling",
    "proposals",
    "roi pooling",
    "box head",
    "losses",
    "detection",
    "optimiser",
    "other",
)
"""Stages in the order of a step. `other` is everything outside the stages, such as the accumulation of gradients."""

Point = tuple[Any, str, str]
"""An object, the name of one of its methods or functions, and the stage of that function."""


@contextmanager
def wrapped(points: Sequence[Point], around: Callable[[str], AbstractContextManager]) -> Iterator[None]:
    """Run calls of the points inside `around(stage)`. Points that do not exist are skipped."""
    undo = [_wrap(point, around) for point in points if getattr(point[0], point[1], None) is not None]
    try:
        yield
    finally:
        for restore in reversed(undo):
            restore()


def our_points(model: Any) -> list[Point]:
    """All parts of our detector; the optimizer is not included."""
    return [
        (model, "normalise", "normalise"),
        (model.backbone.body, "forward", "backbone"),
        (model.backbone.neck, "forward", "neck"),
        (model.rpn, "forward", "rpn head"),
        (model.rpn, "at", "rpn head"),
        (model.rpn.anchors, "forward", "anchors"),
        (model.rpn.anchors, "positions", "anchors"),
        (model.rpn, "label_anchors", "labels and sampling"),
        (model.rpn, "sample_anchors", "labels and sampling"),
        (model.rpn, "loss", "losses"),
        (model.rpn, "propose_train", "proposals"),
        (model.rpn, "propose_test", "proposals"),
        (model.roi_head, "pooling", "roi pooling"),
        (model.roi_head.head, "forward", "box head"),
        (model.roi_head.predictor, "forward", "box head"),
        (model.roi_head, "sample_rois", "labels and sampling"),
        (model.roi_head, "loss", "losses"),
        (model.roi_head, "select_detections", "detection"),
    ]


def _wrap(point: Point, around: Callable[[str], AbstractContextManager]) -> Callable[[], None]:
    """Wrap a function in a context; return a function that restores it."""
    owner, name, stage = point
    function = getattr(owner, name)

    @functools.wraps(function)  # also copies the numbers of a part, which other parts may read
    def labelled_function(*args: Any, **kwargs: Any) -> Any:
        with around(stage):
            return function(*args, **kwargs)

    is_own = name in vars(owner)
    setattr(owner, name, labelled_function)
    return functools.partial(setattr, owner, name, function) if is_own else functools.partial(delattr, owner, name)
