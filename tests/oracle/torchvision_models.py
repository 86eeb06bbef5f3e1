"""torchvision's detectors with random weights, and ours with the same weights, through the converter."""

from pathlib import Path

import torch
from torch import nn
from torchvision.models import detection
from torchvision.models.detection.image_list import ImageList

from frcnn.config import load_config
from frcnn.convert.from_torchvision import convert
from frcnn.model.build_detector import build_detector

NAMES = (
    "fasterrcnn_resnet50_fpn",
    "fasterrcnn_resnet50_fpn_v2",
    "fasterrcnn_mobilenet_v3_large_fpn",
    "fasterrcnn_mobilenet_v3_large_320_fpn",
)
BASE = Path(__file__).resolve().parents[2] / "configs" / "base"
# v2's head costs 0.1 GFLOP per region.
FEWER = {"rpn_post_nms_top_n_train": 300, "rpn_post_nms_top_n_test": 100, "box_batch_size_per_image": 64}
OUR_FEWER = (
    "model.rpn.post_nms_top_n.train=300",
    "model.rpn.post_nms_top_n.test=100",
    "model.roi.samples_per_image=64",
)
# MobileNet's maps have stride 32, and RoIAlign widens smaller regions to one pixel of the map: two that begin at the
# same place pool the same, and which of the two equal scores survives NMS is left to chance.
SMALLEST = {"mobilenet": 33.0}
MEAN, STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
UNUSED_DATA = ("data.train.format=shapes", "data.val.format=shapes")


def random_model(name, images, *, num_classes, seed=3):
    """Their detector with random parameters and statistics, in evaluation mode.

    Activations of a trained network have about unit size; those of random weights grow from layer to layer until every
    score is 0 or 1 and the detections say nothing. So statistics of the backbone's batch norm are drawn
    around those of `images`, and the layers of RPN and head are scaled by their output on them.
    """
    torch.manual_seed(seed)
    model = getattr(detection, name)(weights=None, weights_backbone=None, num_classes=num_classes + 1, **FEWER).eval()
    model.rpn.min_size = smallest_proposal(name)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.7, 1.3)
            nn.init.normal_(module.bias, std=0.1)
            module.momentum = None  # the next pass in training mode replaces the statistics
            module.reset_running_stats()
        elif isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight)
            if module.bias is not None:
                nn.init.normal_(module.bias, std=0.05)
    for key, parameter in model.named_parameters():
        if key.endswith("bn3.weight"):  # otherwise the sum of the residuals grows
            nn.init.uniform_(parameter, 0.2, 0.4)
    with torch.no_grad():
        model.backbone.train()(batch_of(model, images, torch.float32).tensors)
        model.eval()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 0.1
                module.running_mean += torch.randn_like(module.running_mean) * 0.1 * module.running_var.sqrt()
                module.running_var *= torch.empty_like(module.running_var).uniform_(0.8, 1.2)
    outputs = {block[0]: 1.0 for block in model.backbone.fpn.layer_blocks}
    outputs |= {block[0]: 1.0 for block in model.rpn.head.conv}
    outputs |= {model.rpn.head.cls_logits: 2.0, model.rpn.head.bbox_pred: 0.3}
    outputs |= {layer: 1.0 for layer in model.roi_heads.box_head.modules() if isinstance(layer, nn.Linear)}
    predictor = model.roi_heads.box_predictor
    outputs |= {predictor.cls_score: 1.0, predictor.bbox_pred: 0.3}
    _scale_outputs(model, images, outputs)
    return model


def smallest_proposal(name):
    return next((size for part, size in SMALLEST.items() if part in name), 1e-3)


def _scale_outputs(model, images, spread):
    """Scale the weights of some layers, so that their outputs on `images` have these standard deviations."""

    def rescale(module, inputs, output):
        if module not in done:
            done.add(module)
            factor = spread[module] / output.std()
            module.weight.data *= factor
            if module.bias is not None:
                module.bias.data *= factor
            return output * factor
        return output

    done = set()
    hooks = [module.register_forward_hook(rescale) for module in spread]
    detections(model, images)
    for hook in hooks:
        hook.remove()


def our_detector(name, theirs, *, num_classes, dtype=torch.float32, **overrides):
    """Our detector of the base config with the same name, with their weights."""
    smallest = f"model.rpn.min_box_size={smallest_proposal(name)}"
    changes = (
        *UNUSED_DATA,
        *OUR_FEWER,
        smallest,
        *(f"{key.replace('__', '.')}={value}" for key, value in overrides.items()),
    )
    config = load_config(BASE / f"torchvision_{name.removeprefix('fasterrcnn_')}.yaml", changes)
    data = config.data
    ours = build_detector(
        config.model, num_classes=num_classes, mean=data.mean, std=data.std, channels=data.channels, pretrained=False
    )
    ours.load_state_dict(convert(theirs.state_dict(), None, file_name="").state, strict=True)
    ours.to(dtype)
    ours.mean = torch.tensor(data.mean, dtype=dtype)[:, None, None]  # in float64 without the rounding of float32
    ours.std = torch.tensor(data.std, dtype=dtype)[:, None, None]
    return ours


def batch_of(model, images, dtype):
    """Their normalized and padded batch, without a resize.

    Normalized on the scale 0..255, as ours: on theirs, 0..1, the result differs by a rounding, which random layers
    make large.
    """
    model.transform.image_mean, model.transform.image_std = MEAN, STD
    normalised = [model.transform.normalize(image.to(dtype)) for image in images]
    batch = model.transform.batch_images(normalised, size_divisible=32)
    return ImageList(batch, [tuple(image.shape[1:]) for image in images])


@torch.no_grad()
def detections(model, images, dtype=torch.float32):
    """Their network, from the padded batch to the detections."""
    batch = batch_of(model, images, dtype)
    features = model.backbone(batch.tensors)
    proposals, _ = model.rpn(batch, features)
    return model.roi_heads(features, proposals, batch.image_sizes)[0]


def losses(model, images, targets, dtype):
    """Their losses in training mode, in our order."""
    batch = batch_of(model, images, dtype)
    features = model.backbone(batch.tensors)
    proposals, rpn = model.rpn(batch, features, targets)
    _, roi = model.roi_heads(features, proposals, batch.image_sizes, targets)
    return rpn["loss_objectness"], rpn["loss_rpn_box_reg"], roi["loss_classifier"], roi["loss_box_reg"]


class FirstInOrder:
    """Replaces torchvision's random sampler; takes the first positives and the first negatives."""

    def __init__(self, count, fraction):
        self.count, self.fraction = count, fraction

    def __call__(self, labels):
        chosen = []
        for label in labels:
            positive = torch.nonzero(label >= 1).squeeze(1)[: int(self.count * self.fraction)]
            negative = torch.nonzero(label == 0).squeeze(1)[: self.count - len(positive)]
            chosen.append(
                [torch.zeros_like(label, dtype=torch.uint8).scatter(0, part, 1) for part in (positive, negative)]
            )
        return [pair[0] for pair in chosen], [pair[1] for pair in chosen]
