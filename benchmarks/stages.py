"""Labels of the stages in profiles of both sides."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch.profiler import record_function
from torchvision.models.detection import roi_heads as torchvision_roi_heads

from benchmarks.sides import Ours, Side
from frcnn.analyze.stages import Point, our_points, wrapped

PREFIX = "stage: "


@contextmanager
def labelled(side: Side) -> Iterator[None]:
    """Label the calls of each stage in profiles. Operators belong to the innermost label."""
    points = our_points(side.model) if isinstance(side, Ours) else _torchvision_points(side.model)
    with wrapped([*points, (side, "update", "optimiser")], lambda stage: record_function(PREFIX + stage)):
        yield


def _torchvision_points(model: Any) -> list[Point]:
    rpn, heads = model.rpn, model.roi_heads
    return [
        (model.transform, "forward", "normalise"),
        (model.transform, "postprocess", "detection"),
        (model.backbone.body, "forward", "backbone"),
        (getattr(model.backbone, "fpn", None), "forward", "neck"),
        (rpn.head, "forward", "rpn head"),
        (rpn.anchor_generator, "forward", "anchors"),
        (rpn.box_coder, "decode", "proposals"),
        (rpn, "filter_proposals", "proposals"),
        (rpn, "assign_targets_to_anchors", "labels and sampling"),
        (rpn.box_coder, "encode", "labels and sampling"),
        (rpn, "fg_bg_sampler", "labels and sampling"),
        (rpn, "compute_loss", "losses"),
        (heads, "select_training_samples", "labels and sampling"),
        (heads.box_roi_pool, "forward", "roi pooling"),
        (heads.box_head, "forward", "box head"),
        (heads.box_predictor, "forward", "box head"),
        (heads, "postprocess_detections", "detection"),
        (torchvision_roi_heads, "fastrcnn_loss", "losses"),
    ]
