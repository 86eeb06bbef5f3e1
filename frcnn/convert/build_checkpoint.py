"""From a weight file to a checkpoint, and back: the one place of this room that reads configs."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

import frcnn
from frcnn.config import Config, dump_config, load_config, parse_config
from frcnn.convert import to_torchvision
from frcnn.convert.class_rows import ClassList, find_classes
from frcnn.convert.conversion import CLASSES, COUNTER, Conversion, StateDict, shorten
from frcnn.convert.formats import find_conversion
from frcnn.convert.from_torchvision import has_batch_counters
from frcnn.errors import CheckpointError, ConfigError
from frcnn.files.checkpoint import FORMAT, weights_to_use
from frcnn.files.weights import find_state_dict
from frcnn.model.build_detector import build_from_config

COCO_PLACE = {
    name: {
        "format": "coco",
        "images": f"data/coco/{name}2017",
        "annotations": f"data/coco/annotations/instances_{name}2017.json",
    }
    for name in ("train", "val")
}
VOC_PLACE = {
    name: {"format": "voc", "root": "data/VOCdevkit/VOC2007", "split": split}
    for name, split in (("train", "trainval"), ("val", "test"))
}


class Imported(NamedTuple):
    """A checkpoint made from another program's file."""

    checkpoint: dict[str, Any]
    conversion: Conversion
    like: str
    classes: ClassList
    filled: list[str]
    """Counters of batch norm that the file does not have and nothing reads; 0."""
    cast: list[str]
    """Names of tensors of another precision, which became float32."""


def import_checkpoint(
    content: Any, *, path: Path, like: str | None, class_names: Sequence[str] | None, overrides: Sequence[str]
) -> Imported:
    """Make a checkpoint of ours from another program's file.

    1. Recognise the program, and give the tensors our names and order.
    2. Name the classes.
    3. Take the program's base config, what the file itself says, a place for the data, and the overrides on top.
    4. Build that detector and require that every tensor has its place and shape.

    Args:
        content: of the file, see `read_weight_file`.
        path: of the file, for messages, and for what published files say by their name.
        like: name of a base config; None takes the one that suits the tensors.
        class_names: in the order of the outputs, without background; None takes the file's or a known list.
        overrides: key=value; they win over the file.

    Raises:
        CheckpointError: names the file and what does not fit.
        ConfigError: an unknown base config or a wrong override.
    """
    state = find_state_dict(content, source=path)
    if not state:
        raise CheckpointError(f"{path}: it holds no tensors, neither at the top nor below model or state_dict")
    try:
        conversion = find_conversion(state, content, file_name=path.name)
        classes = find_classes(
            _num_classes(conversion), class_names if class_names is not None else conversion.class_names
        )
        like = like or conversion.like
        config = load_config(find_base_config(like), [*_settings(conversion, classes), *overrides])
        _check_ratios(conversion, config)
        model, filled, cast = _fit(conversion.state, config, num_classes=len(classes.names), like=like)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    checkpoint = {
        "format": FORMAT,
        "model": model,
        "config": dump_config(config),
        "class_names": classes.names,
        "category_ids": classes.category_ids,
        "step": 0,
        "source": {
            "format": conversion.program,
            "like": like,
            "unused": conversion.unused,
            "has_batch_counters": has_batch_counters(conversion.state),
        },
    }
    return Imported(checkpoint, conversion, like, classes, filled, cast)


def export_checkpoint(checkpoint: Mapping[str, Any], *, path: Path) -> tuple[StateDict, list[str]]:
    """The state dict torchvision loads, and notes on how to build the model for it.

    Deltas of background are those of the file the checkpoint was made from, or 0; counters of batch norm are there
    where they were in that file.

    Raises:
        CheckpointError: a detector that torchvision has no form for.
    """
    config = parse_config(checkpoint["config"], source=str(path))
    source = checkpoint.get("source") or {}
    is_from_torchvision = source.get("format") == "torchvision"
    plain = dump_config(config)
    try:
        to_torchvision.refuse_others(plain)
        state = to_torchvision.to_torchvision(
            weights_to_use(checkpoint),
            unused=source.get("unused", {}) if is_from_torchvision else {},
            with_counters=is_from_torchvision and bool(source.get("has_batch_counters")),
        )
    except CheckpointError as error:
        raise CheckpointError(f"{path}: torchvision has no form for it: {error}") from error
    return state, to_torchvision.describe(plain, num_outputs=len(checkpoint["class_names"]) + 1)


def find_base_config(name: str) -> Path:
    """The path of configs/base/NAME.yaml, beside the package in a checkout, inside it where it is installed.

    Raises:
        ConfigError: there is none of this name.
    """
    package = Path(frcnn.__file__).parent
    folders = (package / "configs" / "base", package.parent / "configs" / "base")
    for folder in folders:
        if (folder / f"{name}.yaml").is_file():
            return folder / f"{name}.yaml"
    known = sorted({path.stem for folder in folders for path in folder.glob("*.yaml")})
    raise ConfigError(f"--like: there is no base config {name}; there are {', '.join(known) or 'none at all'}")


def _num_classes(conversion: Conversion) -> int:
    weight = conversion.state.get(f"{CLASSES}.weight")
    if weight is None or weight.dim() != 2 or len(weight) < 2:
        raise CheckpointError(f"the layer of the classes ({CLASSES}) is missing or has no row for a class")
    return len(weight) - 1


def _settings(conversion: Conversion, classes: ClassList) -> list[str]:
    """What the file decides, as overrides."""
    dataset = classes.dataset or "coco"
    place = VOC_PLACE if dataset == "voc" else COCO_PLACE
    reading = conversion.train_source.get(dataset, {})
    settings: dict[str, Any] = {
        "data.train": place["train"] | reading,
        "data.val": place["val"] | {key: value for key, value in reading.items() if key == "coordinates"},
        **conversion.settings,
    }
    if classes.dataset is None:
        settings["data.classes"] = classes.names
    return [f"{key}={json.dumps(value)}" for key, value in settings.items()]


def _check_ratios(conversion: Conversion, config: Config) -> None:
    count = len(config.model.anchors.ratios)
    if conversion.num_ratios not in (None, count):
        raise CheckpointError(
            f"model.anchors.ratios holds {count}; the order of anchors in files of {conversion.program} is known for "
            f"{conversion.num_ratios} only"
        )


def _fit(
    state: Mapping[str, Tensor], config: Config, *, num_classes: int, like: str
) -> tuple[StateDict, list[str], list[str]]:
    """The state dict in the order of the detector, after it was loaded into one; what was filled in, and cast."""
    with torch.device("meta"):  # shapes without numbers: the detector costs no memory
        detector = build_from_config(
            config,
            num_classes=num_classes,
            pretrained=False,
        )
    needed = detector.state_dict()
    filled = [name for name in needed if name.endswith(COUNTER) and name not in state]
    state = {**state, **{name: torch.zeros((), dtype=torch.int64) for name in filled}}
    problems = []
    if missing := [name for name in needed if name not in state]:
        problems.append(f"{len(missing)} tensors are missing: {shorten(missing)}")
    if extra := [name for name in state if name not in needed]:
        problems.append(f"{len(extra)} have no place: {shorten(extra)}")
    shapes = [
        f"{name} is {tuple(state[name].shape)} where {tuple(tensor.shape)} is needed"
        for name, tensor in needed.items()
        if name in state and state[name].shape != tensor.shape
    ]
    if shapes:
        problems.append(f"{len(shapes)} have another shape: {shorten(shapes, 3)}")
    if problems:
        raise CheckpointError(f"it does not fit {like} (names are ours): {'; '.join(problems)}")
    cast = [name for name, tensor in needed.items() if state[name].dtype != tensor.dtype]
    fitting = {name: state[name].detach().to(tensor.dtype).contiguous() for name, tensor in needed.items()}
    detector.load_state_dict(fitting, strict=True, assign=True)
    return fitting, filled, cast
