"""Checkpoints of mmdetection: Faster R-CNN with a ResNet and FPN, from version 1 (`bbox_head`) to 3 (`roi_head`).

Since version 2 background is the last class. In version 1 it is the first and has deltas.
"""

import ast
import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from frcnn.convert.conversion import (
    CLASSES,
    DELTAS,
    OTHER_HEADS,
    Conversion,
    background_first,
    change_rows,
    rename,
    without_background,
)
from frcnn.convert.resnets import find_resnet

PROGRAM = "mmdetection"
RULES = {
    r"backbone\.((?:conv1|bn1|layer\d)\..+)": r"backbone.body.\1",
    r"neck\.lateral_convs\.(\d+)\.conv\.(weight|bias)": r"backbone.neck.lateral.\1.0.\2",
    r"neck\.fpn_convs\.(\d+)\.conv\.(weight|bias)": r"backbone.neck.output.\1.0.\2",
    r"rpn_head\.rpn_conv\.(weight|bias)": r"rpn.convs.0.\1",
    r"rpn_head\.rpn_cls\.(weight|bias)": r"rpn.objectness.\1",
    r"rpn_head\.rpn_reg\.(weight|bias)": r"rpn.deltas.\1",
    r"(?:roi_head\.)?bbox_head\.shared_fcs\.0\.(weight|bias)": r"roi_head.head.fc6.\1",
    r"(?:roi_head\.)?bbox_head\.shared_fcs\.1\.(weight|bias)": r"roi_head.head.fc7.\1",
    r"(?:roi_head\.)?bbox_head\.fc_cls\.(weight|bias)": r"roi_head.predictor.classes.\1",
    r"(?:roi_head\.)?bbox_head\.fc_reg\.(weight|bias)": r"roi_head.predictor.deltas.\1",
}
SKIP = {
    r"(?:roi_head\.)?mask_head\..+": OTHER_HEADS,
    r"data_preprocessor\.(mean|std)": "preprocessing is set by the config",
}
VERSION_1_SETTINGS = {
    "model.plus_one": True,
    "model.anchors.centre": "middle",
    "model.roi.pooling.sampling_ratio": 2,
    "model.roi.pooling.aligned": False,
}


def recognises(state: Mapping[str, Tensor]) -> bool:
    return "rpn_head.rpn_cls.weight" in state and any(name.endswith("bbox_head.fc_cls.weight") for name in state)


def convert(state: Mapping[str, Tensor], content: Any, *, file_name: str) -> Conversion:
    """Rename tensors, and move the background row.

    Args:
        state: the tensors with mmdetection's names.
        content: the whole content of the file; `meta` has the class names and the config as text.
        file_name: not used.
    """
    meta = content.get("meta") if isinstance(content, Mapping) else None
    meta = meta if isinstance(meta, Mapping) else {}
    renamed, skipped = rename(state, RULES, skip=SKIP)
    settings: dict[str, Any] = {"model.backbone.name": find_resnet(renamed)}
    is_version_1 = "bbox_head.fc_cls.weight" in state
    num_classes = len(renamed[f"{CLASSES}.weight"]) - 1
    is_agnostic = num_classes > 1 and len(renamed.get(f"{DELTAS}.bias", ())) == 4
    if is_agnostic:
        settings["model.roi.class_agnostic"] = True
    if is_version_1:
        settings |= VERSION_1_SETTINGS
        changes = [
            "version 1 rounds the corners of anchors; ours differ by up to half a pixel, so results differ slightly"
        ]
        if not is_agnostic:
            change_rows(renamed, DELTAS, without_background)
            changes.append("bbox_head.fc_reg: the 4 background rows are removed")
    else:
        change_rows(renamed, CLASSES, background_first)
        changes = ["roi_head.bbox_head.fc_cls: the background row is moved from last to first"]
    pixels = _pixel_settings(meta)
    if pixels is None:
        changes.append("the file has no preprocessing; the base config sets data.channels, data.mean and data.std")
    return Conversion(
        program=PROGRAM,
        like="mmdetection_resnet50_fpn",
        state=renamed,
        settings=settings | (pixels or {}),
        changes=changes,
        skipped=skipped,
        class_names=_class_names(meta),
    )


def _class_names(meta: Mapping[str, Any]) -> list[str] | None:
    """Class names: CLASSES in versions 1 and 2, dataset_meta in version 3."""
    dataset = meta.get("dataset_meta")
    found = [meta.get("CLASSES")]
    if isinstance(dataset, Mapping):
        found += [dataset.get("classes"), dataset.get("CLASSES")]
    for names in found:
        if isinstance(names, list | tuple) and names and all(isinstance(name, str) for name in names):
            return list(names)
    return None


def _pixel_settings(meta: Mapping[str, Any]) -> dict[str, Any] | None:
    """Preprocessing and the position of strides, from the text of the config; None if it has no preprocessing."""
    text = next((meta[key] for key in ("cfg", "config") if isinstance(meta.get(key), str)), "")
    mean, std = (re.search(rf"\b{key}=(\[[\d., \n]+\])", text) for key in ("mean", "std"))
    is_rgb = re.search(r"\b(?:to_rgb|bgr_to_rgb)=(True|False)", text)
    if not (mean and std and is_rgb):
        return None
    settings: dict[str, Any] = {
        "data.channels": "rgb" if is_rgb[1] == "True" else "bgr",
        "data.mean": ast.literal_eval(mean[1]),
        "data.std": ast.literal_eval(std[1]),
    }
    if re.search(r"\bstyle='caffe'", text):
        settings["model.backbone.stride_in_1x1"] = True
    return settings
