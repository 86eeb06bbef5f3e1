"""Random weights that behave like trained ones: activations of unit size, spread scores, boxes near their anchors.

With freshly initialized weights all scores are almost equal. NMS then keeps other numbers of boxes than in a trained
network, and the detections of two programs differ by chance. Therefore the statistics of batch norm are computed on
the images of the benchmark, and the layers of neck, RPN and head are scaled by their outputs on these images.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.models.resnet import BasicBlock, Bottleneck

from frcnn.model.detector import FasterRCNN
from frcnn.ops.pixel_table import map_sizes
from frcnn.structures import Batch

OBJECTNESS, CLASS_LOGITS, DELTAS = 2.0, 2.0, 0.3
"""Standard deviations of the outputs of the last layers; other layers have 1."""
BACKGROUND_ODDS = 9.0
"""Median odds of background over the regions."""
BRANCH = 0.3
NUM_REGIONS = 128


@torch.no_grad()
def calibrate(detector: FasterRCNN, batch: Batch) -> None:
    """Change weights and statistics in place. Afterwards only the `state_dict` of the detector is usable.

    Its batch norm must not be frozen.

    1. Set the weight of the last norm in each residual branch of a ResNet to `BRANCH`, so that neither the sums nor
       their rounding errors grow from block to block.
    2. Run one pass in training mode, which stores the statistics of batch norm.
    3. In neck, RPN and head, from front to back, divide the weights of each layer by the deviation of its output.
    4. Set the bias of the background class by `BACKGROUND_ODDS`.
    """
    for block in detector.modules():
        if isinstance(block, Bottleneck | BasicBlock):
            last = block.get_submodule("bn3" if isinstance(block, Bottleneck) else "bn2")
            nn.init.constant_(last.get_parameter("weight"), BRANCH)
    norms = [module for module in detector.modules() if isinstance(module, _BatchNorm)]
    for norm in norms:
        norm.momentum = None  # the next pass stores its statistics without averaging
        norm.reset_running_stats()
    detector.train()
    for part in (detector.backbone.neck, detector.roi_head.head):
        for layer in () if part is None else part.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                layer.register_forward_hook(_scale_to_one)
    images = detector.normalise(batch.images, batch.image_sizes)
    features = detector.backbone(images)
    _scale_rpn(detector, features)
    boxes = _some_anchors(detector, features, batch)
    pooled = detector.roi_head.pooling(features, boxes)
    hidden = _without_dropout(detector.roi_head.head, pooled)
    if hidden.dim() == 4:
        hidden = hidden.mean(dim=(2, 3))
    predictor = detector.roi_head.predictor
    logits = _scale(predictor.classes, predictor.classes(hidden), CLASS_LOGITS)
    _scale(predictor.deltas, predictor.deltas(hidden), DELTAS)
    objects = logits[:, 1:].logsumexp(dim=1)
    shift = (objects - logits[:, 0]).median() + torch.tensor(BACKGROUND_ODDS).log()
    predictor.classes.bias.data[0] += shift


def _scale_to_one(layer: nn.Module, inputs: Any, output: Any) -> Tensor:
    return _scale(layer, output, 1.0)


def _scale(layer: nn.Module, output: Tensor, deviation: float) -> Tensor:
    """Scale a layer so that its output has this standard deviation; return the scaled output."""
    assert isinstance(layer, nn.Conv2d | nn.Linear)
    factor = deviation / output.std().clamp(min=1e-12)
    layer.weight.mul_(factor)
    if layer.bias is not None:
        layer.bias.mul_(factor)
    return output * factor


def _scale_rpn(detector: FasterRCNN, features: tuple[Tensor, ...]) -> None:
    """Scale the layers by the deviation over all levels, which share them."""
    rpn, hidden = detector.rpn, features
    for conv in rpn.convs:
        outputs = [conv(level) for level in hidden]
        factor = _factor(outputs, 1.0)
        _multiply(conv, factor)
        hidden = [F.relu(output * factor) for output in outputs]
    for layer, deviation in ((rpn.objectness, OBJECTNESS), (rpn.deltas, DELTAS)):
        _multiply(layer, _factor([layer(level) for level in hidden], deviation))


def _factor(outputs: list[Tensor], deviation: float) -> Tensor:
    return deviation / torch.cat([output.flatten() for output in outputs]).std().clamp(min=1e-12)


def _multiply(layer: nn.Module, factor: Tensor) -> None:
    assert isinstance(layer, nn.Conv2d) and layer.bias is not None
    layer.weight.mul_(factor)
    layer.bias.mul_(factor)


def _some_anchors(detector: FasterRCNN, features: tuple[Tensor, ...], batch: Batch) -> Tensor:
    """(B, R, 4): evenly spaced anchors of all levels, clipped to the image."""
    height, width = batch.images.shape[2:]
    anchors = detector.rpn.anchors(map_sizes(features), (height, width))
    chosen = anchors[:: max(1, len(anchors) // NUM_REGIONS)][:NUM_REGIONS]
    limit = chosen.new_tensor([width, height, width, height])
    return chosen.clamp(min=0).minimum(limit).expand(len(batch.images), -1, 4)


def _without_dropout(head: nn.Module, pooled: Tensor) -> Tensor:
    for module in head.modules():
        if isinstance(module, nn.Dropout):
            module.eval()
    return head(pooled)
