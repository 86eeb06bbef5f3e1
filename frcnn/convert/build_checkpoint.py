"""Build a checkpoint from a weight file, and back. Only this module of the package reads configs."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

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
from frcnn.version import PACKAGE

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
    """A checkpoint built from a file of another program."""

    checkpoint: dict[str, Any]
    conversion: Conversion
    like: str
    classes: ClassList
    filled: list[str]
    """Names of batch-norm counters that the file lacks. They are set to 0; nothing reads them."""
    cast: list[str]
    """Names of tensors that were converted to the dtype of the detector."""


def import_checkpoint(
    content: Any, *, path: Path, like: str | None, class_names: Sequence[str] | None, overrides: Sequence[str]
) -> Imported:
    """Build a checkpoint from a file of another program.

    1. Recognize the program, rename the tensors and reorder their rows.
    2. Find the class names.
    3. Combine the base config of the program, the settings in the file, the location of the data and the overrides.
    4. Build the detector of that config and require that names and shapes of all tensors match.

    Args:
        content: the content of the file, see `read_weight_file`.
        path: path of the file, for messages; the names of published files also determine some settings.
        like: name of a base config; None chooses it by the tensors.
        class_names: names in the order of the outputs, without background; None uses those in the file or a known list.
        overrides: key=value; they take precedence over the file.

    Raises:
        CheckpointError: the file cannot be converted; the message names the file and the tensors.
        ConfigError: an unknown base config or an invalid override.
    """
    state = find_state_dict(content, source=path)
    if not state:
        raise CheckpointError(f"{path}: no tensors found, neither at the top level nor under model or state_dict")
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
    """Build a state dict for torchvision, and describe how to build the model for it.

    If the checkpoint was converted from a torchvision file, the background deltas are taken from it, and counters of
    batch norm are included if it had them. Otherwise the deltas are 0.

    Raises:
        CheckpointError: torchvision does not support the detector.
    """
    config = parse_config(checkpoint["config"], source=str(path))
    source = checkpoint.get("source") or {}
    is_from_torchvision = source.get("format") == "torchvision"
    plain = dump_config(config)
    try:
        to_torchvision.require_supported(plain)
        state = to_torchvision.to_torchvision(
            weights_to_use(checkpoint),
            unused=source.get("unused", {}) if is_from_torchvision else {},
            with_counters=is_from_torchvision and bool(source.get("has_batch_counters")),
        )
    except CheckpointError as error:
        raise CheckpointError(f"{path}: torchvision does not support this detector: {error}") from error
    return state, to_torchvision.describe(plain, num_outputs=len(checkpoint["class_names"]) + 1)


def find_base_config(name: str) -> Path:
    """The path of configs/base/NAME.yaml, which is next to the package in a checkout and inside an installed package.

    Raises:
        ConfigError: no base config has this name.
    """
    folders = (PACKAGE / "configs" / "base", PACKAGE.parent / "configs" / "base")
    for folder in folders:
        if (folder / f"{name}.yaml").is_file():
            return folder / f"{name}.yaml"
    known = sorted({path.stem for folder in folders for path in folder.glob("*.yaml")})
    raise ConfigError(f"--like: no base config {name}; available: {', '.join(known) or 'none'}")


def _num_classes(conversion: Conversion) -> int:
    weight = conversion.state.get(f"{CLASSES}.weight")
    if weight is None or weight.dim() != 2 or len(weight) < 2:
        raise CheckpointError(f"the class layer ({CLASSES}) is missing or has fewer than two rows")
    return len(weight) - 1


def _settings(conversion: Conversion, classes: ClassList) -> list[str]:
    """The settings that the file determines, as overrides."""
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
            f"model.anchors.ratios has {count} entries; files of {conversion.program} can be converted only "
            f"with {conversion.num_ratios} ratios, because the order of their anchors is known only for this number"
        )


def _fit(
    state: Mapping[str, Tensor], config: Config, *, num_classes: int, like: str
) -> tuple[StateDict, list[str], list[str]]:
    """Check that a state dict fits the detector; return it in the detector's order, and names filled in and cast."""
    with torch.device("meta"):  # shapes without data need no memory
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
        problems.append(f"{len(missing)} missing: {shorten(missing)}")
    if extra := [name for name in state if name not in needed]:
        problems.append(f"{len(extra)} unexpected: {shorten(extra)}")
    shapes = [
        f"{name} is {tuple(state[name].shape)}, expected {tuple(tensor.shape)}"
        for name, tensor in needed.items()
        if name in state and state[name].shape != tensor.shape
    ]
    if shapes:
        problems.append(f"{len(shapes)} mis-shaped: {shorten(shapes, 3)}")
    if problems:
        raise CheckpointError(f"tensors do not match {like} (names are ours): {'; '.join(problems)}")
    cast = [name for name, tensor in needed.items() if state[name].dtype != tensor.dtype]
    fitting = {name: state[name].detach().to(tensor.dtype).contiguous() for name, tensor in needed.items()}
    detector.load_state_dict(fitting, strict=True, assign=True)
    return fitting, filled, cast
