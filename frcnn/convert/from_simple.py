"""Checkpoints of simple-faster-rcnn-pytorch (chenyuntc): VGG16.

Its boxes have y before x, so deltas are (dy, dx, dh, dw). It also has background deltas, which are not trained.
"""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from frcnn.convert.conversion import DELTAS, RPN_DELTAS, Conversion, change_rows, rename, without_background, x_before_y

PROGRAM = "simple-faster-rcnn"
CAFFE_PIXELS = {
    "data.channels": "bgr",
    # In this order: the program subtracts the mean of red from blue, also in training.
    "data.mean": [122.7717, 115.9465, 102.9801],
    "data.std": [1.0, 1.0, 1.0],
}
RULES = {
    r"extractor\.(\d+\.(?:weight|bias))": r"backbone.body.features.\1",
    r"rpn\.conv1\.(weight|bias)": r"rpn.convs.0.\1",
    r"rpn\.score\.(weight|bias)": r"rpn.objectness.\1",
    r"rpn\.loc\.(weight|bias)": r"rpn.deltas.\1",
    r"head\.classifier\.0\.(weight|bias)": r"roi_head.head.classifier.0.\1",
    r"head\.classifier\.[23]\.(weight|bias)": r"roi_head.head.classifier.3.\1",  # 3 if the program used dropout
    r"head\.score\.(weight|bias)": r"roi_head.predictor.classes.\1",
    r"head\.cls_loc\.(weight|bias)": r"roi_head.predictor.deltas.\1",
}
SKIP = {r"(optimizer|rpn_cm|roi_cm)\..+": "not part of the network"}
TRAIN_SOURCE = {"voc": {"difficult": "drop", "coordinates": "minus_one"}}


def recognises(state: Mapping[str, Tensor]) -> bool:
    return "head.cls_loc.weight" in state and "rpn.loc.weight" in state


def convert(state: Mapping[str, Tensor], content: Any, *, file_name: str) -> Conversion:
    """Rename tensors, swap x and y, and remove the background deltas.

    Args:
        state: the tensors with the program's names.
        content: the whole content of the file. Its `config` shows whether training started from Caffe's or
            torchvision's VGG16, which determines the preprocessing.
        file_name: used instead if there is no config.
    """
    renamed, skipped = rename(state, RULES, skip=SKIP)
    for layer in (RPN_DELTAS, DELTAS):
        change_rows(renamed, layer, x_before_y)
    change_rows(renamed, DELTAS, without_background)
    changes = [
        "rpn.loc, head.cls_loc: (dy, dx, dh, dw) are reordered to (dx, dy, dw, dh)",
        "head.cls_loc: the 4 background rows are removed",
    ]
    config = content.get("config") if isinstance(content, Mapping) else None
    is_caffe = config.get("caffe_pretrain") if isinstance(config, Mapping) else None
    if is_caffe is None:
        is_caffe = bool(re.search(r"caffe_pretrain|chainer", file_name))
        reason = "because of the file name" if is_caffe else "because the file has no config"
        changes.append(
            f"preprocessing of {'Caffe' if is_caffe else 'torchvision'}'s VGG16 is assumed {reason} "
            "(data.channels, data.mean, data.std)"
        )
    return Conversion(
        program=PROGRAM,
        like="simple_faster_rcnn_vgg16",
        state=renamed,
        settings=dict(CAFFE_PIXELS) if is_caffe else {},
        changes=changes,
        skipped=skipped,
        train_source=TRAIN_SOURCE,
    )
