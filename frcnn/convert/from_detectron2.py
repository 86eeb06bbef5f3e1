"""Detectors of Detectron2's model zoo: ResNet and ResNeXt as C4, DC5 and FPN.

Differences besides names: background is the last row of cls_score, ours is the first. If a position has several anchor
sizes, anchors are ordered by size first and then by ratio, ours by ratio first and then by size.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import Tensor

from frcnn.convert.conversion import (
    CLASSES,
    DELTAS,
    OTHER_HEADS,
    RPN_DELTAS,
    RPN_OBJECTNESS,
    Conversion,
    background_first,
    change_rows,
    ratios_slowest,
    rename,
)
from frcnn.convert.resnets import find_resnet
from frcnn.errors import CheckpointError
from frcnn.model.backbone.pretrained import torchvision_resnet_key

PROGRAM = "detectron2"
NUM_RATIOS = 3
OBJECTNESS = "proposal_generator.rpn_head.objectness_logits"
RULES = {
    r"backbone\.(?:bottom_up\.)?((?:stem|res\d)\..+)": lambda m: (
        f"backbone.body.{torchvision_resnet_key(m[1]) or m[1]}"
    ),
    r"roi_heads\.(res5\..+)": lambda m: f"roi_head.head.{torchvision_resnet_key(m[1]) or m[1]}",
    r"backbone\.fpn_lateral(\d)\.(weight|bias)": lambda m: f"backbone.neck.lateral.{int(m[1]) - 2}.0.{m[2]}",
    r"backbone\.fpn_output(\d)\.(weight|bias)": lambda m: f"backbone.neck.output.{int(m[1]) - 2}.0.{m[2]}",
    r"proposal_generator\.rpn_head\.conv\.(weight|bias)": r"rpn.convs.0.\1",
    r"proposal_generator\.rpn_head\.objectness_logits\.(weight|bias)": r"rpn.objectness.\1",
    r"proposal_generator\.rpn_head\.anchor_deltas\.(weight|bias)": r"rpn.deltas.\1",
    r"roi_heads\.box_head\.fc1\.(weight|bias)": r"roi_head.head.fc6.\1",
    r"roi_heads\.box_head\.fc2\.(weight|bias)": r"roi_head.head.fc7.\1",
    r"roi_heads\.box_predictor\.cls_score\.(weight|bias)": r"roi_head.predictor.classes.\1",
    r"roi_heads\.box_predictor\.bbox_pred\.(weight|bias)": r"roi_head.predictor.deltas.\1",
}
SKIP = {
    r"(?:proposal_generator\.)?anchor_generator\.cell_anchors\.\d+": "anchors are computed from the config",
    r"pixel_(mean|std)": "read into data.mean and data.std",
    r"roi_heads\.(mask|keypoint)_.+": OTHER_HEADS,
}
TRAIN_SOURCE = {"coco": {"crowd": "drop"}, "voc": {"difficult": "keep"}}


def recognises(state: Mapping[str, Tensor]) -> bool:
    return f"{OBJECTNESS}.weight" in state and "roi_heads.box_predictor.cls_score.weight" in state


def convert(state: Mapping[str, Tensor], content: Any, *, file_name: str) -> Conversion:
    """Rename tensors, move the background row, and reorder anchors.

    Args:
        state: the tensors with Detectron2's names.
        content, file_name: not used.

    Raises:
        CheckpointError: unknown layers, or a number of anchor ratios other than three.
    """
    renamed, skipped = rename(state, RULES, skip=SKIP)
    name = find_resnet(renamed)
    family = (
        "fpn"
        if any(key.startswith("backbone.fpn_") for key in state)
        else "c4"
        if any(key.startswith("roi_heads.res5.") for key in state)
        else "dc5"
    )
    settings: dict[str, Any] = {"model.backbone.name": name}
    changes = ["roi_heads.box_predictor.cls_score: the background row is moved from last to first"]
    change_rows(renamed, CLASSES, background_first)

    num_anchors = len(state[f"{OBJECTNESS}.weight"])
    if num_anchors != NUM_RATIOS:
        if num_anchors % NUM_RATIOS:
            raise CheckpointError(
                f"{OBJECTNESS} has {num_anchors} anchors per position; their order is known only for {NUM_RATIOS} "
                "ratios"
            )
        for layer, rows in ((RPN_OBJECTNESS, 1), (RPN_DELTAS, 4)):
            change_rows(renamed, layer, partial(ratios_slowest, num_ratios=NUM_RATIOS, rows_per_anchor=rows))
        changes.append(
            f"the RPN's {num_anchors} anchors per position are reordered: {NUM_RATIOS} ratios for each size -> "
            f"{num_anchors // NUM_RATIOS} sizes for each ratio"
        )
    num_classes = len(state["roi_heads.box_predictor.cls_score.weight"]) - 1
    if num_classes > 1 and len(renamed.get(f"{DELTAS}.bias", ())) == 4:
        settings["model.roi.class_agnostic"] = True
    for key, tensor in (("data.mean", state.get("pixel_mean")), ("data.std", state.get("pixel_std"))):
        if tensor is not None:
            settings[key] = [float(f"{value:.6g}") for value in tensor.flatten().tolist()]
    if family == "fpn" and name == "resnext101_32x8d":
        like = "detectron2_resnext101_32x8d_fpn"
    else:
        like = f"detectron2_{'resnet50' if name == 'resnet50' else 'resnet101'}_{family}"
        changes.append(
            "the tensors do not show which convolutions have strides; model.backbone.stride_in_1x1 is set as in the zoo"
        )
    return Conversion(
        program=PROGRAM,
        like=like,
        state=renamed,
        settings=settings,
        changes=changes,
        skipped=skipped,
        train_source=TRAIN_SOURCE,
        num_ratios=NUM_RATIOS,
    )
