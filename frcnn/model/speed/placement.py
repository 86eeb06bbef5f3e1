"""Prepare a detector for fast training or detection on a device. Results are the same up to rounding.

Measurements are in docs/benchmarks.md.
"""

import copy

import torch
from torch import nn

from frcnn.model.detector import FasterRCNN
from frcnn.model.roi.heads import ConvFcHead
from frcnn.model.speed.folding import fold_all, fold_frozen


def place_for_training(detector: FasterRCNN, device: torch.device, *, channels_last: bool = False) -> FasterRCNN:
    """Move the detector, in place, to the device that it is trained on.

    On a CPU, frozen batch norm is folded into the convolutions in each pass. On a GPU a norm costs less than the many
    small operations that fold it.

    Args:
        channels_last: use the memory layout (B, H, W, C) for images, maps and kernels.
    """
    detector.to(device)
    if channels_last:
        detector.to(memory_format=torch.channels_last)
    if device.type == "cpu":
        for network in networks(detector):
            fold_frozen(network)
    return detector


def copy_for_detection(detector: FasterRCNN) -> FasterRCNN:
    """A copy on the same device for detection only: all batch norm is folded; channels-last on a CPU."""
    detector = copy.deepcopy(detector).requires_grad_(False)
    for network in networks(detector):
        fold_all(network)
    if detector.mean.device.type == "cpu":
        detector.to(memory_format=torch.channels_last)
    for head in detector.roi_head.children():
        if isinstance(head, ConvFcHead) and detector.roi_head.pooling.is_channels_last:
            head.read_channels_last()
    return detector.eval()


def networks(detector: FasterRCNN) -> list[nn.Module]:
    """Modules that may contain batch norm. Those that cannot be traced are not folded."""
    backbone = detector.backbone
    pyramid = [] if backbone.neck is None else [*backbone.neck.lateral, *backbone.neck.output]
    return [backbone.body, *pyramid, *detector.roi_head.children()]
