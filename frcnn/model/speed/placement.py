"""What is done with a detector on each kind of device to make it fast; results are the same up to rounding.

Figures are in docs/benchmarks.md.
"""

import copy

import torch
from torch import nn

from frcnn.model.detector import FasterRCNN
from frcnn.model.roi.heads import ConvFcHead
from frcnn.model.speed.folding import fold_all, fold_frozen


def place_for_training(detector: FasterRCNN, device: torch.device, *, channels_last: bool = False) -> FasterRCNN:
    """Move the detector, in place, to where it is trained.

    On a CPU frozen batch norm is folded into the convolutions in each pass. On a GPU it is not: there a norm costs less
    than the many small operations that fold it.

    Args:
        channels_last: lay images, maps and kernels out as (B, H, W, C).
    """
    detector.to(device)
    if channels_last:
        detector.to(memory_format=torch.channels_last)
    if device.type == "cpu":
        for network in networks(detector):
            fold_frozen(network)
    return detector


def copy_for_detection(detector: FasterRCNN) -> FasterRCNN:
    """A copy, on the same device, that only detects: every batch norm folded, on a CPU laid out channels-last."""
    detector = copy.deepcopy(detector).requires_grad_(False)
    for network in networks(detector):
        fold_all(network)
    if detector.mean.device.type == "cpu":
        detector.to(memory_format=torch.channels_last)
    pooling, head = detector.roi_head.pooling, detector.roi_head.head
    if isinstance(head, ConvFcHead) and pooling.is_channels_last:
        head.read_channels_last()
    return detector.eval()


def networks(detector: FasterRCNN) -> list[nn.Module]:
    """The parts that may hold batch norm, each a chain of modules that can be traced."""
    backbone = detector.backbone
    pyramid = [] if backbone.neck is None else [*backbone.neck.lateral, *backbone.neck.output]
    return [backbone.body, *pyramid, detector.roi_head.head]
