"""The precision of a training step or a detection."""

from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch

Precision = Literal["float32", "bf16", "fp16"]
_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager:
    """A context that computes in `precision`. On a CPU, fp16 computes in float32."""
    if precision == "float32" or (precision == "fp16" and device.type == "cpu"):
        return nullcontext()
    return torch.autocast(device.type, dtype=_TYPES[precision])
