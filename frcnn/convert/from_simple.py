"""Checkpoints of simple-faster-rcnn-pytorch (chenyuntc): VGG16.

Its boxes are written y before x, so deltas are dy, dx, dh, dw; and it has deltas for background, which nothing trains.
"""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from frcnn.convert.conversion import DELTAS, RPN_DELTAS, Conversion, change_rows, rename, without_background, x_before_y

PROGRAM = "simple-faster-rcnn"
CAFFE_PIXELS = {
    "data.channels": "bgr",
    # In this order: the program subtracts the mean of red from blue, and was trained so.
    "data.mean": [122.7717, 115.9465, 102.9801],
    "data.std": [1.0, 1.0, 1.0],
}
RULES = {
    r"extractor\.(\d+\.(?:weight|bias))": r"backbone.body.features.\1",
    r"rpn\.conv1\.(weight|bias)": r"rpn.convs.0.\1",
    r"rpn\.score\.(weight|bias)": r"rpn.objectness.\1",
    r"rpn\.loc\.(weight|bias)": r"rpn.deltas.\1",
    r"head\.classifier\.0\.(weight|bias)": r"roi_head.head.classifier.0.\1",
    r"head\.classifier\.[23]\.(weight|bias)": r"roi_head.head.classifier.3.\1",  # 3 where there is dropout between
    r"head\.score\.(weight|bias)": r"roi_head.predictor.classes.\1",
    r"head\.cls_loc\.(weight|bias)": r"roi_head.predictor.deltas.\1",
}
LEAVE_OUT = {r"(optimizer|rpn_cm|roi_cm)\..+": "no part of the network"}
TRAIN_SOURCE = {"voc": {"difficult": "drop", "coordinates": "minus_one"}}


def recognises(state: Mapping[str, Tensor]) -> bool:
    return "head.cls_loc.weight" in state and "rpn.loc.weight" in state


def convert(state: Mapping[str, Tensor], content: Any, *, file_name: str) -> Conversion:
    """Rename, put x before y, and take out the deltas of background.

    Args:
        state: with the program's names.
        content: of the whole file; its `config` says whose VGG16 the training started from, and so how pixels are fed.
        file_name: tells the same where there is no config.
    """
    renamed, left_out = rename(state, RULES, leave_out=LEAVE_OUT)
    for layer in (RPN_DELTAS, DELTAS):
        change_rows(renamed, layer, x_before_y)
    change_rows(renamed, DELTAS, without_background)
    changes = [
        "rpn.loc, head.cls_loc: dy, dx, dh, dw -> dx, dy, dw, dh",
        "head.cls_loc: the 4 rows of background are taken out",
    ]
    config = content.get("config") if isinstance(content, Mapping) else None
    is_caffe = config.get("caffe_pretrain") if isinstance(config, Mapping) else None
    if is_caffe is None:
        is_caffe = bool(re.search(r"caffe_pretrain|chainer", file_name))
        named = "by its name" if is_caffe else "for want of a config in the file"
        changes.append(
            f"pixels are taken {named} as those of {'Caffe' if is_caffe else 'torchvision'}'s VGG16: "
            "data.channels, data.mean and data.std say how"
        )
    return Conversion(
        program=PROGRAM,
        like="simple_faster_rcnn_vgg16",
        state=renamed,
        settings=dict(CAFFE_PIXELS) if is_caffe else {},
        changes=changes,
        left_out=left_out,
        train_source=TRAIN_SOURCE,
    )
