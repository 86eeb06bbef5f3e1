"""Initial weights of the pyramid and the heads."""

from torch import nn


def initialise(layer: nn.Conv2d | nn.Linear, kind: str) -> None:
    """Initialize the weights of a layer uniformly around 0, and its bias with 0.

    Args:
        kind: "caffe2_xavier" for variance 1 / fan_in (Detectron2's and torchvision's pyramids), "xavier" for
            2 / (fan_in + fan_out) (Glorot and Bengio 2010; mmdetection's), "pytorch" for PyTorch's default.
    """
    if kind == "pytorch":
        return
    if kind == "caffe2_xavier":
        nn.init.kaiming_uniform_(layer.weight, a=1)
    else:
        nn.init.xavier_uniform_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
