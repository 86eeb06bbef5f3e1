"""Put the weights of torchvision's `fasterrcnn_resnet50_fpn` into our detector."""

import torch

from frcnn.config.schema import ModelConfig
from frcnn.model.build import build_detector

SETTINGS = {
    "backbone": {"name": "resnet50", "weights": None, "neck": "fpn", "norm": "frozen_bn", "frozen_stages": 2},
    "anchors": {
        "sizes": [[32.0], [64.0], [128.0], [256.0], [512.0]],
        "rounding": "torchvision",
        "strides_from": "canvas",
    },
    "rpn": {
        "pre_nms_top_n": {"train": 2000, "test": 1000},
        "post_nms_top_n": {"train": 2000, "test": 1000},
        "skip_padding": False,
    },
    "roi": {"smooth_l1_beta": 1 / 9},
}


def as_ours(theirs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Rename the keys of a state dict; the classes' deltas lose those of the background, which are never trained."""
    renamed = {}
    for key, value in theirs.items():
        key = key.replace("backbone.fpn.inner_blocks.", "backbone.neck.lateral.")
        key = key.replace("backbone.fpn.layer_blocks.", "backbone.neck.output.")
        key = key.replace("rpn.head.conv.0.0.", "rpn.convs.0.")
        key = key.replace("rpn.head.cls_logits.", "rpn.objectness.").replace("rpn.head.bbox_pred.", "rpn.deltas.")
        key = key.replace("roi_heads.box_head.", "roi_head.head.")
        key = key.replace("roi_heads.box_predictor.cls_score.", "roi_head.predictor.classes.")
        if key.startswith("roi_heads.box_predictor.bbox_pred."):
            key = key.replace("roi_heads.box_predictor.bbox_pred.", "roi_head.predictor.deltas.")
            value = value[4:]
        renamed[key] = value
    return renamed


def detector_like(theirs: torch.nn.Module, *, num_classes: int):
    """Our detector with the numbers and the weights of `theirs`."""
    ours = build_detector(
        ModelConfig.model_validate(SETTINGS),
        num_classes=num_classes,
        mean=(0.485 * 255, 0.456 * 255, 0.406 * 255),
        std=(0.229 * 255, 0.224 * 255, 0.225 * 255),
        pretrained=False,
    )
    missing, unexpected = ours.load_state_dict(as_ours(theirs.state_dict()), strict=False)
    missing = [key for key in missing if not key.endswith("num_batches_tracked")]
    assert not missing and not unexpected, (missing[:5], unexpected[:5])
    return ours
