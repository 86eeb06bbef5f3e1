"""Small detectors and batches for tests."""

import torch

from frcnn.config.schema import ModelConfig
from frcnn.model.build_detector import build_detector
from frcnn.structures import Batch, GroundTruth

MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)

FPN = {
    "backbone": {
        "name": "resnet18",
        "weights": None,
        "norm": "bn",
        "frozen_stages": 0,
        "neck": "fpn",
        "neck_channels": 32,
    },
    "anchors": {"sizes": [[16.0], [32.0], [64.0], [128.0], [256.0]]},
    "rpn": {"pre_nms_top_n": {"train": 200, "test": 100}, "post_nms_top_n": {"train": 100, "test": 50}},
    "roi": {"samples_per_image": 32, "head": {"kind": "two_fc", "channels": 64}},
}
C4 = {
    "backbone": {"name": "resnet18", "weights": None, "norm": "bn", "frozen_stages": 0},
    "anchors": {"sizes": [32.0, 64.0]},
    "rpn": FPN["rpn"],
    "roi": {"samples_per_image": 32, "pooling": {"size": 14, "sampling_ratio": 0}, "head": {"kind": "res5"}},
}
SINGLE_ROI_POOL = {
    "backbone": {"name": "resnet18", "weights": None, "norm": "bn", "frozen_stages": 0},
    "anchors": {"sizes": [32.0, 64.0]},
    "rpn": FPN["rpn"],
    "roi": {"samples_per_image": 32, "class_agnostic": True, "pooling": {"kind": "roi_pool"}, "head": {"channels": 64}},
}
ALL = {"fpn": FPN, "c4": C4, "roi_pool": SINGLE_ROI_POOL}


def small_detector(settings=FPN, *, num_classes=3):
    torch.manual_seed(0)
    model = ModelConfig.model_validate(settings)
    return build_detector(model, num_classes=num_classes, mean=MEAN, std=STD)


def random_batch(*, sizes=((128, 160), (96, 128)), objects=(3, 0), slots=8, num_classes=3):
    """A batch of noise images with random boxes."""
    canvas = [(max(size[axis] for size in sizes) + 31) // 32 * 32 for axis in (0, 1)]
    images = torch.zeros(len(sizes), 3, *canvas, dtype=torch.uint8)
    boxes = torch.tensor([0.0, 0, 1, 1]).repeat(len(sizes), slots, 1)
    labels = torch.zeros(len(sizes), slots, dtype=torch.int64)
    valid = torch.zeros(len(sizes), slots, dtype=torch.bool)
    for image, ((height, width), count) in enumerate(zip(sizes, objects, strict=True)):
        images[image, :, :height, :width] = torch.randint(0, 256, (3, height, width), dtype=torch.uint8)
        corner = torch.rand(count, 2) * torch.tensor([width, height]) * 0.6
        boxes[image, :count] = torch.cat([corner, corner + 10 + torch.rand(count, 2) * 40], dim=1)
        labels[image, :count] = torch.randint(1, num_classes + 1, (count,))
        valid[image, :count] = True
    image_sizes = torch.tensor(sizes)
    index, seed = torch.arange(len(sizes)), torch.randint(2**63 - 1, (len(sizes),))
    ground_truth = GroundTruth(boxes, labels, torch.zeros_like(valid), valid)
    return Batch(images, image_sizes, image_sizes * 2, index, seed, ground_truth)
