"""Convert our detectors to state dicts of torchvision."""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from frcnn.convert.conversion import COUNTER, StateDict, rename
from frcnn.convert.from_torchvision import BOX_DELTAS
from frcnn.errors import CheckpointError

RULES = {
    r"backbone\.body\.features\.(.+)": r"backbone.body.\1",
    r"backbone\.body\.(.+)": r"backbone.body.\1",
    r"backbone\.neck\.lateral\.(.+)": r"backbone.fpn.inner_blocks.\1",
    r"backbone\.neck\.output\.(.+)": r"backbone.fpn.layer_blocks.\1",
    r"rpn\.convs\.(\d+)\.(\w+)": r"rpn.head.conv.\1.0.\2",
    r"rpn\.objectness\.(\w+)": r"rpn.head.cls_logits.\1",
    r"rpn\.deltas\.(\w+)": r"rpn.head.bbox_pred.\1",
    r"roi_head\.predictor\.classes\.(\w+)": r"roi_heads.box_predictor.cls_score.\1",
    r"roi_head\.predictor\.deltas\.(\w+)": r"roi_heads.box_predictor.bbox_pred.\1",
}
TWO_FC_RULES = RULES | {r"roi_head\.head\.(fc[67]\.\w+)": r"roi_heads.box_head.\1"}
TORCHVISION_EPS = 1e-5
BUILDERS = {
    ("resnet50", "two_fc"): "fasterrcnn_resnet50_fpn",
    ("resnet50", "conv_fc"): "fasterrcnn_resnet50_fpn_v2",
    ("mobilenet_v3_large", "two_fc"): "fasterrcnn_mobilenet_v3_large_fpn",
}


def to_torchvision(model: Mapping[str, Tensor], *, unused: Mapping[str, Tensor], with_counters: bool) -> StateDict:
    """Rename our state dict to torchvision's names, and add background deltas.

    Args:
        model: state dict of a detector that passes `require_supported`.
        unused: the background deltas that were removed on import; if empty, they are 0.
        with_counters: keep the counters of batch norm. torchvision loads both forms.
    """
    rules = TWO_FC_RULES
    convs = sorted({int(m[1]) for name in model if (m := re.match(r"roi_head\.head\.convs\.(\d+)\.", name))})
    if convs:
        flattening = convs[-1] // 3 + 1
        rules = RULES | {
            r"roi_head\.head\.convs\.(\d+)\.(\w+)": lambda m: (
                f"roi_heads.box_head.{int(m[1]) // 3}.{int(m[1]) % 3}.{m[2]}"
            ),
            r"roi_head\.head\.fc6\.(\w+)": lambda m: f"roi_heads.box_head.{flattening + 1}.{m[1]}",
        }
    skip = {} if with_counters else {rf".+\.{COUNTER}": "torchvision's frozen batch norm has no counters"}
    state, _ = rename(model, rules, skip=skip)
    for name in (f"{BOX_DELTAS}.weight", f"{BOX_DELTAS}.bias"):
        rows = state[name]
        background = unused.get(name)
        if background is None:
            background = torch.zeros_like(rows[:4])
        state[name] = torch.cat([background, rows])
    return state


def require_supported(config: Mapping[str, Any]) -> None:
    """Raise an error if torchvision does not support the detector of a config.

    Args:
        config: the whole config as plain data.

    Raises:
        CheckpointError: names the keys and the values that torchvision supports.
    """
    model = config["model"]
    backbone, rpn, roi = model["backbone"], model["rpn"], model["roi"]
    is_resnet = backbone["name"].startswith(("resnet", "resnext"))
    wanted = {
        "data.channels": (config["data"]["channels"], ("rgb",)),
        "model.plus_one": (model["plus_one"], (False,)),
        "model.backbone.name": (
            backbone["name"],
            (backbone["name"],) if is_resnet else ("resnet50", "mobilenet_v3_large"),
        ),
        "model.backbone.neck": (backbone["neck"], ("fpn",)),
        "model.backbone.neck_norm": (backbone["neck_norm"], ("none", "batch")),
        "model.backbone.extra_level": (backbone["extra_level"], (True,)),
        "model.backbone.stride_in_1x1": (backbone["stride_in_1x1"], (False,)),
        "model.backbone.stem_pool": (backbone["stem_pool"], ("padded",)),
        "model.anchors.centre": (model["anchors"]["centre"], ("corner",)),
        "model.rpn.objectness": (rpn["objectness"], ("sigmoid",)),
        "model.roi.pooling.kind": (roi["pooling"]["kind"], ("roi_align",)),
        "model.roi.pooling.aligned": (roi["pooling"]["aligned"], (False,)),
        "model.roi.class_agnostic": (roi["class_agnostic"], (False,)),
        "model.roi.head.kind": (roi["head"]["kind"], ("two_fc", "conv_fc")),
    }
    if roi["head"]["kind"] == "two_fc":
        wanted["model.roi.head.convs"] = (roi["head"]["convs"], (0,))
    elif roi["head"]["kind"] == "conv_fc":
        wanted["model.roi.head.norm"] = (roi["head"]["norm"], ("batch",))
    problems = [
        f"{key} is {value}, not {' or '.join(map(str, allowed))}"
        for key, (value, allowed) in wanted.items()
        if value not in allowed
    ]
    if problems:
        raise CheckpointError("; ".join(problems))


def describe(config: Mapping[str, Any], *, num_outputs: int) -> list[str]:
    """Lines of text on how to build torchvision's model for the state dict."""
    model, data = config["model"], config["data"]
    builder = BUILDERS.get((model["backbone"]["name"], model["roi"]["head"]["kind"]))
    mean, std = ([round(value / 255, 6) for value in data[key]] for key in ("mean", "std"))
    short_side = data["short_side"] if isinstance(data["short_side"], int) else max(data["short_side"])
    arguments = {
        "num_classes": num_outputs,
        "min_size": data["test_short_side"] or short_side,
        "max_size": data["test_long_side"] or data["long_side"],
        "image_mean": mean,
        "image_std": std,
        "box_score_thresh": model["detect"]["score_threshold"],
        "box_nms_thresh": model["detect"]["nms_threshold"],
        "rpn_pre_nms_top_n_test": model["rpn"]["pre_nms_top_n"]["test"],
        "rpn_post_nms_top_n_test": model["rpn"]["post_nms_top_n"]["test"],
        "rpn_score_thresh": model["rpn"]["score_threshold"],
    }
    listed = ", ".join(f"{key}={value}" for key, value in arguments.items())
    if builder is None:
        name = model["backbone"]["name"]
        lines = [f"for FasterRCNN(resnet_fpn_backbone(backbone_name='{name}', weights=None), {listed})"]
    else:
        lines = [f"for {builder}(weights=None, weights_backbone=None, {listed})"]
    lines.append(f"with anchors of sizes {model['anchors']['sizes']}, aspect ratios {model['anchors']['ratios']}")
    eps = model["backbone"]["norm_eps"]
    if eps is None:
        eps = 1e-3 if model["backbone"]["name"] == "mobilenet_v3_large" else TORCHVISION_EPS
    if eps != TORCHVISION_EPS:
        lines.append(f"with eps = {eps} in every batch norm of the body; torchvision's default is {TORCHVISION_EPS}")
    pooling = model["roi"]["pooling"]
    if (pooling["size"], pooling["sampling_ratio"]) != (7, 2):
        lines.append(f"with MultiScaleRoIAlign of {pooling['size']} bins, sampling_ratio {pooling['sampling_ratio']}")
    if model["anchors"]["rounding"] != "torchvision":
        lines.append("torchvision rounds half the sides of its anchors; this detector was trained without rounding")
    return lines
