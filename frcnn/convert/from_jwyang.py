"""Checkpoints of jwyang's faster-rcnn.pytorch: VGG16 and ResNet.

The RPN has k background logits followed by k object logits; ours are pairs. The box layer also has background deltas,
which are not trained.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from frcnn.convert.conversion import (
    DELTAS,
    RPN_OBJECTNESS,
    Conversion,
    change_rows,
    pairs_together,
    rename,
    without_background,
)
from frcnn.convert.resnets import find_resnet
from frcnn.errors import CheckpointError

PROGRAM = "jwyang"
SHARED_RULES = {
    r"RCNN_rpn\.RPN_Conv\.(weight|bias)": r"rpn.convs.0.\1",
    r"RCNN_rpn\.RPN_cls_score\.(weight|bias)": r"rpn.objectness.\1",
    r"RCNN_rpn\.RPN_bbox_pred\.(weight|bias)": r"rpn.deltas.\1",
    r"RCNN_cls_score\.(weight|bias)": r"roi_head.predictor.classes.\1",
    r"RCNN_bbox_pred\.(weight|bias)": r"roi_head.predictor.deltas.\1",
}
VGG_RULES = SHARED_RULES | {
    r"RCNN_base\.(\d+\.(?:weight|bias))": r"backbone.body.features.\1",
    r"RCNN_top\.([03]\.(?:weight|bias))": r"roi_head.head.classifier.\1",
}
RESNET_RULES = SHARED_RULES | {
    r"RCNN_base\.0\.(weight)": r"backbone.body.conv1.\1",
    r"RCNN_base\.1\.(\w+)": r"backbone.body.bn1.\1",
    r"RCNN_base\.([456])\.(\d+\..+)": lambda match: f"backbone.body.layer{int(match[1]) - 3}.{match[2]}",
    r"RCNN_top\.0\.(\d+\..+)": r"roi_head.head.layer4.\1",
}
POOLING = {"align": "roi_align", "pool": "roi_pool"}
SIZES = {9: [128.0, 256.0, 512.0], 12: [64.0, 128.0, 256.0, 512.0]}
"""Number of anchors per position -> anchor sizes, each with three ratios. Four sizes are used for COCO."""
TRAIN_SOURCE = {"voc": {"difficult": "keep"}}


def recognises(state: Mapping[str, Tensor]) -> bool:
    return "RCNN_rpn.RPN_Conv.weight" in state


def convert(state: Mapping[str, Tensor], content: Any, *, file_name: str) -> Conversion:
    """Rename tensors, pair the RPN's logits, and remove the background deltas.

    Args:
        state: the tensors with the program's names.
        content: the whole content of the file, with `pooling_mode` and `class_agnostic`.
        file_name: not used.

    Raises:
        CheckpointError: an unsupported pooling mode, or an unknown number of anchors.
    """
    entries = content if isinstance(content, Mapping) else {}
    first = state.get("RCNN_base.0.weight")
    is_vgg = first is not None and tuple(first.shape[2:]) == (3, 3)
    renamed, skipped = rename(state, VGG_RULES if is_vgg else RESNET_RULES, skip={})
    settings: dict[str, Any] = {} if is_vgg else {"model.backbone.name": find_resnet(renamed)}
    changes = ["RCNN_rpn.RPN_cls_score: k background logits and k object logits are reordered to k pairs"]
    change_rows(renamed, RPN_OBJECTNESS, pairs_together)

    mode = entries.get("pooling_mode")
    if mode is None:
        changes.append("the file has no pooling_mode; RoIAlign is assumed (model.roi.pooling.kind)")
    elif mode not in POOLING:
        raise CheckpointError(
            f"pooling_mode {mode!r} is not supported; only {' and '.join(POOLING)} are, not the bilinear crop of an "
            "affine grid"
        )
    else:
        settings["model.roi.pooling.kind"] = POOLING[mode]
    is_agnostic = bool(entries.get("class_agnostic", False))
    if is_agnostic:
        settings["model.roi.class_agnostic"] = True
    else:
        change_rows(renamed, DELTAS, without_background)
        changes.append("RCNN_bbox_pred: the 4 background rows are removed")
    num_anchors = len(state.get("RCNN_rpn.RPN_bbox_pred.bias", ())) // 4
    if num_anchors not in SIZES:
        raise CheckpointError(f"RCNN_rpn.RPN_bbox_pred has {num_anchors} anchors per position, expected 9 or 12")
    settings["model.anchors.sizes"] = SIZES[num_anchors]
    return Conversion(
        program=PROGRAM,
        like="jwyang_vgg16" if is_vgg else "jwyang_resnet101",
        state=renamed,
        settings=settings,
        changes=changes,
        skipped=skipped,
        train_source=TRAIN_SOURCE,
    )
