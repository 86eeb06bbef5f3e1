"""The stages of a training or detection step, and a context manager that runs code around each."""

import dataclasses
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
"""In the order of a step. `other` is everything outside the stages, such as the accumulation of gradients."""

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
    """Of our detector: every part but the optimiser."""
    stages = {
        "label_anchors": "labels and sampling",
        "sample_anchors": "labels and sampling",
        "sample_rois": "labels and sampling",
        "propose_train": "proposals",
        "propose_test": "proposals",
        "rpn_losses": "losses",
        "roi_losses": "losses",
        "detect": "detection",
    }
    model_points = [
        (model, "normalise", "normalise"),
        (model.backbone.body, "forward", "backbone"),
        (model.backbone.neck, "forward", "neck"),
        (model.rpn, "forward", "rpn head"),
        (model.rpn, "at", "rpn head"),
        (model.anchors, "forward", "anchors"),
        (model.anchors, "positions", "anchors"),
        (model.roi_head.pooling, "forward", "roi pooling"),
        (model.roi_head.head, "forward", "box head"),
        (model.roi_head.predictor, "forward", "box head"),
    ]
    return model_points + [(model.stages, name, stage) for name, stage in stages.items()]


def _wrap(point: Point, around: Callable[[str], AbstractContextManager]) -> Callable[[], None]:
    """Wrap a function in a context; return a function that restores it."""
    owner, name, stage = point
    function = getattr(owner, name)

    def labelled_function(*args: Any, **kwargs: Any) -> Any:
        with around(stage):
            return function(*args, **kwargs)

    if dataclasses.is_dataclass(owner):  # frozen: the only thing that is set behind its back, and put back below
        object.__setattr__(owner, name, labelled_function)
        return lambda: object.__setattr__(owner, name, function)
    is_own = name in vars(owner)
    setattr(owner, name, labelled_function)
    return functools.partial(setattr, owner, name, function) if is_own else functools.partial(delattr, owner, name)
