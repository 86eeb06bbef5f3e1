"""Augmentations that a config names by import path."""

import torch
from torch import Generator, Tensor

from frcnn.data.batching import Sample
from frcnn.errors import ConfigError
from frcnn.files.code import check_signature, import_code

EXPECTED = (
    "a Sample with image (3, h, w) uint8, boxes (n, 4) float32, labels (n,) int64 and is_ignored (n,) bool; boxes are "
    "finite and have an area"
)


class CustomAugmentation:
    """A user-defined function `(Sample, Generator) -> Sample`, with a check of its results.

    It runs in loader workers. To keep training repeatable, it must take all random numbers from the generator.
    """

    def __init__(self, path: str, *, key: str) -> None:
        """
        Args:
            path: import path of the function.
            key: the config key, for messages.

        Raises:
            ConfigError: the function cannot be imported or does not take a sample and a generator.
        """
        self.path = path
        self.key = key
        self.function = import_code(path, key=key)
        check_signature(self.function, ["sample", "generator"], {}, path=path, key=key)

    def __call__(self, sample: Sample, generator: Generator) -> Sample:
        result = self.function(sample, generator)
        if not _is_valid(result):
            raise ConfigError(f"{self.key}: {self.path} returned {_describe(result)}; expected {EXPECTED}")
        return result


def _is_valid(result: object) -> bool:
    if not isinstance(result, Sample) or not all(isinstance(each, Tensor) for each in result[:4]):
        return False
    image, boxes, labels, is_ignored = result[:4]
    count = len(boxes) if boxes.dim() else 0
    return (
        (image.dtype, boxes.dtype, labels.dtype, is_ignored.dtype)
        == (torch.uint8, torch.float32, torch.int64, torch.bool)
        and image.dim() == 3
        and image.shape[0] == 3
        and image.numel() > 0
        and boxes.shape == (count, 4)
        and labels.shape == is_ignored.shape == (count,)
        and bool(boxes.isfinite().all() and (boxes[:, 2:] > boxes[:, :2]).all())
    )


def _describe(result: object) -> str:
    if not isinstance(result, Sample):
        return f"a value of type {type(result).__name__}"
    tensors = zip(Sample._fields[:4], result[:4], strict=True)
    return "a Sample with " + ", ".join(
        f"{name} {tuple(each.shape)} {str(each.dtype).removeprefix('torch.')}"
        if isinstance(each, Tensor)
        else f"{name} of type {type(each).__name__}"
        for name, each in tensors
    )
