"""Detectors of torchvision: fasterrcnn_resnet50_fpn and _v2, other ResNets with FPN, MobileNetV3-large.

Besides names there is one difference: torchvision also has background deltas, which are neither trained nor read.
They are saved in the checkpoint, so that an export reproduces the file.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from frcnn.convert.conversion import (
    COUNTER,
    DELTAS,
    OTHER_HEADS,
    Conversion,
    StateDict,
    change_rows,
    rename,
    without_background,
)
from frcnn.convert.resnets import find_resnet

PROGRAM = "torchvision"
BOX_DELTAS = "roi_heads.box_predictor.bbox_pred"
RULES = {
    r"backbone\.body\.((?:conv1|bn1|layer\d)\..+)": r"backbone.body.\1",
    r"backbone\.body\.(\d+\..+)": r"backbone.body.features.\1",
    # Before version 0.13 the convolutions had no submodule index; the published files are older.
    r"backbone\.fpn\.inner_blocks\.(\d+)\.(weight|bias)": r"backbone.neck.lateral.\1.0.\2",
    r"backbone\.fpn\.layer_blocks\.(\d+)\.(weight|bias)": r"backbone.neck.output.\1.0.\2",
    r"backbone\.fpn\.inner_blocks\.(\d+\.[01]\..+)": r"backbone.neck.lateral.\1",
    r"backbone\.fpn\.layer_blocks\.(\d+\.[01]\..+)": r"backbone.neck.output.\1",
    r"rpn\.head\.conv\.(weight|bias)": r"rpn.convs.0.\1",
    r"rpn\.head\.conv\.(\d+)\.0\.(weight|bias)": r"rpn.convs.\1.\2",
    r"rpn\.head\.cls_logits\.(weight|bias)": r"rpn.objectness.\1",
    r"rpn\.head\.bbox_pred\.(weight|bias)": r"rpn.deltas.\1",
    r"roi_heads\.box_head\.(fc[67]\.(?:weight|bias))": r"roi_head.head.\1",
    # v2: convolution and norm of block i are our layers 3 i and 3 i + 1; the layer after the flattening is fc6.
    r"roi_heads\.box_head\.(\d+)\.([01])\.(.+)": lambda m: f"roi_head.head.convs.{3 * int(m[1]) + int(m[2])}.{m[3]}",
    r"roi_heads\.box_head\.\d+\.(weight|bias)": r"roi_head.head.fc6.\1",
    r"roi_heads\.box_predictor\.cls_score\.(weight|bias)": r"roi_head.predictor.classes.\1",
    r"roi_heads\.box_predictor\.bbox_pred\.(weight|bias)": r"roi_head.predictor.deltas.\1",
}
SKIP = {r"roi_heads\.(mask|keypoint)_.+": OTHER_HEADS}
TRAIN_SOURCE = {"coco": {"crowd": "drop"}, "voc": {"difficult": "keep"}}
EPS_ZERO_FILES = tuple(f"{kind}rcnn_resnet50_fpn_coco-" for kind in ("faster", "mask", "keypoint"))
"""Prefixes of the file names for which torchvision sets the eps of frozen batch norm to 0."""


def recognises(state: Mapping[str, Tensor]) -> bool:
    return "rpn.head.cls_logits.weight" in state and f"{BOX_DELTAS}.weight" in state


def convert(state: Mapping[str, Tensor], content: Any, *, file_name: str) -> Conversion:
    """Rename tensors, and remove the background deltas.

    Args:
        state: torchvision's state dict.
        content: not used, because torchvision saves only a state dict.
        file_name: the name of a published file determines the eps of batch norm and the size of images.
    """
    renamed, skipped = rename(state, RULES, skip=SKIP)
    unused: StateDict = {
        name: state[name][:4].clone() for name in (f"{BOX_DELTAS}.weight", f"{BOX_DELTAS}.bias") if name in state
    }
    change_rows(renamed, DELTAS, without_background)
    changes = [f"{BOX_DELTAS}: the 4 background rows are removed, and saved for an export"]
    settings: dict[str, Any] = {}
    is_mobilenet = any(name.startswith("backbone.body.features.") for name in renamed)
    if is_mobilenet:
        like = "torchvision_mobilenet_v3_large_fpn"
        if file_name.startswith("fasterrcnn_mobilenet_v3_large_320_fpn"):
            like = "torchvision_mobilenet_v3_large_320_fpn"
        else:
            changes.append("the detector for 320 pixels has the same tensors; choose it with --like if the file is one")
    else:
        settings["model.backbone.name"] = find_resnet(renamed)
        is_v2 = any(name.startswith("roi_head.head.convs.") for name in renamed)
        like = "torchvision_resnet50_fpn_v2" if is_v2 else "torchvision_resnet50_fpn"
    if file_name.startswith(EPS_ZERO_FILES):
        settings["model.backbone.norm_eps"] = 0
        changes.append("this published file was trained with batch norm of eps 0; model.backbone.norm_eps is set to 0")
    return Conversion(
        program=PROGRAM,
        like=like,
        state=renamed,
        settings=settings,
        changes=changes,
        skipped=skipped,
        unused=unused,
        train_source=TRAIN_SOURCE,
    )


def has_batch_counters(state: Mapping[str, Tensor]) -> bool:
    """Whether batch norm counts batches, as in torch but not in torchvision's frozen batch norm."""
    return any(name.endswith(COUNTER) for name in state)
