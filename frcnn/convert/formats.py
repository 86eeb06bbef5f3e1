"""Which program a file is of."""

from collections.abc import Mapping
from typing import Any, Protocol

from torch import Tensor

from frcnn.convert import from_detectron2, from_jwyang, from_mmdetection, from_simple, from_torchvision
from frcnn.convert.conversion import Conversion, shorten
from frcnn.errors import CheckpointError


class Format(Protocol):
    """What each module from_PROGRAM offers."""

    @property
    def PROGRAM(self) -> str: ...

    def recognises(self, state: Mapping[str, Tensor]) -> bool: ...

    def convert(self, state: Mapping[str, Tensor], content: Any, *, file_name: str) -> Conversion: ...


FORMATS: tuple[Format, ...] = (from_torchvision, from_detectron2, from_simple, from_jwyang, from_mmdetection)


def find_conversion(state: Mapping[str, Tensor], content: Any, *, file_name: str) -> Conversion:
    """Recognise the program by the names of the tensors, and convert.

    Args:
        state: the tensors of the file, at least one.
        content: all of the file, see `read_weight_file`.
        file_name: without folders; published files say by it what their tensors do not.

    Raises:
        CheckpointError: a checkpoint of ours, an unknown program, or what the program's module refuses.
    """
    if isinstance(content, Mapping) and {"format", "config", "class_names"} <= set(content):
        raise CheckpointError("it is a checkpoint of frcnn already; --to torchvision gives it to torchvision")
    if all(name.startswith("module.") for name in state):  # saved from within DDP
        state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    for program in FORMATS:
        if program.recognises(state):
            return program.convert(state, content, file_name=file_name)
    raise CheckpointError(
        f"no detector of a known program ({', '.join(program.PROGRAM for program in FORMATS)}): its tensors are named "
        f"{shorten(state)}. Weights of a backbone alone go to model.backbone.weights"
    )
