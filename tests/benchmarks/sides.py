"""Both sides of a benchmark, small enough for tests."""

import torch

from benchmarks.build_sides import build_sides
from frcnn.config import parse_config

BACKBONE = {"name": "resnet18", "weights": None, "neck": "fpn", "strides": [8, 16], "neck_channels": 16}
FPN = {
    "backbone": BACKBONE,
    "anchors": {"sizes": [[16.0, 24.0], [32.0, 48.0], [64.0, 96.0]], "centre": "middle"},
    "rpn": {"pre_nms_top_n": {"train": 100, "test": 50}, "post_nms_top_n": {"train": 50, "test": 20}},
    "roi": {"samples_per_image": 16, "head": {"channels": 32}},
}
SINGLE = FPN | {
    "backbone": {"name": "resnet18", "weights": None, "neck": "none"},
    "anchors": {"sizes": [16.0, 32.0, 64.0]},
    "rpn": FPN["rpn"] | {"channels": 24},
}
ROI_POOL = SINGLE | {"roi": FPN["roi"] | {"pooling": {"kind": "roi_pool"}}}
RES5 = SINGLE | {"roi": {"samples_per_image": 4, "pooling": {"size": 4}, "head": {"kind": "res5"}}}
TRAINED_NORM = FPN | {
    "backbone": BACKBONE | {"norm": "bn", "neck_norm": "batch", "extra_level": False},
    "anchors": {"sizes": [[16.0, 24.0], [32.0, 48.0]]},
    "rpn": FPN["rpn"] | {"convs": 2},
    "roi": {"samples_per_image": 16, "head": {"kind": "conv_fc", "convs": 1, "norm": "batch", "channels": 32}},
}
NO_PEER = FPN | {"backbone": BACKBONE | {"neck_norm": "group"}}
ALL = {"fpn": FPN, "single": SINGLE, "roi_pool": ROI_POOL, "res5": RES5, "trained_norm": TRAINED_NORM}


def settings(model=FPN):
    source = {"format": "shapes", "num_images": 4, "height": 96, "width": 96}
    data = {"train": source, "val": source, "short_side": 96, "long_side": 128}
    return {"data": data, "model": model, "train": {"epochs": 1}}


def small_sides(model=FPN, what="detect", **changes):
    options = {"size": (96, 120), "batch": 2, "objects": None, "classes": 4, "is_drawn": True, "against": "torchvision"}
    config = parse_config(settings(model), source="test")
    return build_sides(config, what, device=torch.device("cpu"), precision="float32", **options | changes)
