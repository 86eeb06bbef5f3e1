"""Recognize the program that wrote a file."""

from collections.abc import Mapping
from typing import Any, Protocol

from torch import Tensor

from frcnn.convert import from_detectron2, from_jwyang, from_mmdetection, from_simple, from_torchvision
from frcnn.convert.conversion import Conversion, shorten
from frcnn.errors import CheckpointError


class Format(Protocol):
    """The interface of each module from_PROGRAM."""

    @property
    def PROGRAM(self) -> str: ...

    def recognises(self, state: Mapping[str, Tensor]) -> bool: ...

    def convert(self, state: Mapping[str, Tensor], content: Any, *, file_name: str) -> Conversion: ...


FORMATS: tuple[Format, ...] = (from_torchvision, from_detectron2, from_simple, from_jwyang, from_mmdetection)


def find_conversion(state: Mapping[str, Tensor], content: Any, *, file_name: str) -> Conversion:
    """Recognize the program by the names of the tensors, and convert the tensors.

    Args:
        state: the tensors of the file, at least one.
        content: the whole content of the file, see `read_weight_file`.
        file_name: without folders; the names of published files determine some settings.

    Raises:
        CheckpointError: one of our checkpoints, an unknown program, or a detector that the format does not support.
    """
    if isinstance(content, Mapping) and {"format", "config", "class_names"} <= set(content):
        raise CheckpointError("this is already a frcnn checkpoint; --to torchvision exports it")
    if all(name.startswith("module.") for name in state):  # saved from within DDP
        state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    for program in FORMATS:
        if program.recognises(state):
            return program.convert(state, content, file_name=file_name)
    raise CheckpointError(
        f"not a detector of a known program ({', '.join(program.PROGRAM for program in FORMATS)}); its tensors are "
        f"{shorten(state)}. For the weights of a backbone, set model.backbone.weights"
    )
