"""Pretrained weights of a trunk, from torchvision, timm or a file."""

import logging
import re
from collections.abc import Mapping
from pathlib import Path

import torch
import torchvision
from torch import Tensor, nn

from frcnn.errors import CheckpointError
from frcnn.files.weights import find_state_dict, first_line, read_weight_file
from frcnn.model.backbone.timm_trunk import PREFIX, import_timm

StateDict = dict[str, Tensor]

PREFIXES = ("", "module.", "backbone.", "module.backbone.", "backbone.body.", "body.", "model.")
"""Prefixes that files may add to the keys of a trunk: DDP, other detectors, backbones of this package."""

DETECTRON_SUFFIXES = {
    "w": "weight",
    "s": "weight",
    "gamma": "weight",
    "b": "bias",
    "beta": "bias",
    "rm": "running_mean",
    "riv": "running_var",
}
"""Suffixes of Caffe2's names, and those of PyTorch."""

logger = logging.getLogger("frcnn")


def read_weights(path: str | Path) -> StateDict:
    """Read the tensors of a weight file (see `frcnn.files.weights`).

    The file contains a state dict, a state dict under the key `state_dict` or `model`, or a checkpoint of this package.
    The names of a ResNet from Detectron or Detectron2 (R-50.pkl) are converted to torchvision's.

    Raises:
        CheckpointError: a missing or truncated file, not a weight file, or a file without tensors.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise CheckpointError(f"{path}: no such weight file (model.backbone.weights)")
    state = find_state_dict(read_weight_file(path), source=path)
    if not state:
        raise CheckpointError(f"{path}: contains no tensors; expected a state dict (model.backbone.weights)")
    if any(torchvision_resnet_key(key) for key in state):
        return {torchvision_resnet_key(key) or key: tensor for key, tensor in state.items()}
    return state


def torchvision_resnet_key(key: str) -> str | None:
    """Convert the name of a ResNet's tensor from Detectron2 or Caffe2 to torchvision; None for other names.

    >>> torchvision_resnet_key("res2.0.conv1.norm.bias"), torchvision_resnet_key("res3_1_branch2b_w")
    ('layer1.0.bn1.bias', 'layer2.1.conv2.weight')
    """
    match = re.fullmatch(r"(?:backbone\.)?(?:bottom_up\.)?stem\.conv1(\.norm)?\.(\w+)", key)
    if match:
        return f"{'bn1' if match[1] else 'conv1'}.{match[2]}"
    match = re.fullmatch(r"(?:res_)?conv1_(bn_)?(w|s|b|gamma|beta|rm|riv|running_mean|running_var)", key)
    if match:
        return f"{'bn1' if match[1] else 'conv1'}.{DETECTRON_SUFFIXES.get(match[2], match[2])}"
    match = re.fullmatch(
        r"(?:backbone\.)?(?:bottom_up\.)?res([2-5])\.(\d+)\.(shortcut|conv([123]))(\.norm)?\.(\w+)", key
    ) or re.fullmatch(r"res([2-5])_(\d+)_branch(1|2([abc]))_(bn_)?(\w+)", key)
    if match is None:
        return None
    stage, block, _, number, norm, last = match.groups()
    if number is None:
        layer = "downsample.1" if norm else "downsample.0"
    else:
        layer = f"{'bn' if norm else 'conv'}{'abc'.find(number) + 1 or number}"
    return f"layer{int(stage) - 1}.{block}.{layer}.{DETECTRON_SUFFIXES.get(last, last)}"


def read_imagenet_weights(name: str) -> tuple[str, StateDict]:
    """Read the ImageNet weights of a trunk from the cache of torchvision (version 1) or timm, or download them.

    Returns:
        Source of the weights, for messages; and the state dict.

    Raises:
        CheckpointError: the weights are not in the cache and cannot be downloaded, or the cached file is broken.
    """
    if name.startswith(PREFIX):
        source = f"timm's pretrained weights of {name.removeprefix(PREFIX)}"
        cache = "the cache of Hugging Face (HF_HOME) or torch (TORCH_HOME)"
    else:
        enum = torchvision.models.get_model_weights(name)["IMAGENET1K_V1"]
        source = enum.url
        cache = str(Path(torch.hub.get_dir(), "checkpoints", Path(enum.url).name))
    try:
        if name.startswith(PREFIX):
            network = import_timm().create_model(name.removeprefix(PREFIX), features_only=True, pretrained=True)
            return source, network.state_dict()
        return source, enum.get_state_dict(progress=False, check_hash=True)
    except Exception as error:  # network, hub, disk and broken files raise various errors
        raise CheckpointError(
            f"cannot get the ImageNet weights of {name} from {source} ({type(error).__name__}: {first_line(error)}). "
            f"They are stored in {cache}; delete a broken file there. Without internet access, copy them to this place "
            "from another machine, or set model.backbone.weights to the path of a weight file, or to null for random "
            "weights"
        ) from error


def load_trunk(state: Mapping[str, Tensor], *, body: nn.Module, head: nn.Module | None, source: str) -> None:
    """Copy a state dict into the body and head of a trunk. Other tensors, such as a classifier, are skipped.

    1. Find the prefix of the file's keys: the one of `PREFIXES` for which most tensors of the trunk exist.
    2. Find each tensor of body and head by its name. "." and "_" are equal, because timm renames stages.0 to stages_0.
       A name that does not exist is looked up in the `roi_head` of a checkpoint.
    3. Copy all tensors, or none.

    Args:
        state: state dict of a classification network or a detector.
        body, head: networks of a `Trunk`.
        source: name of the weights in messages.

    Raises:
        CheckpointError: a tensor is missing or mis-shaped. The counters of batch norm may be missing. fc6 and fc7 may
            be missing together; they then keep their random weights, with a warning.
    """
    targets = {"body": body} if head is None else {"body": body, "head": head}
    wanted = {(part, key): tensor for part, module in targets.items() for key, tensor in module.state_dict().items()}
    names = {_plain(key): key for key in state}
    prefix = max(PREFIXES, key=lambda prefix: sum(_plain(prefix + _bare(key)) in names for _, key in wanted))
    sources = {(part, key): _find(key, state, names=names, prefix=prefix) for part, key in wanted}

    problems = []
    missing = [target for target, found in sources.items() if found is None]
    fully_connected = [(part, key) for part, key in wanted if part == "head" and key.startswith("classifier.")]
    if fully_connected and set(fully_connected) <= set(missing):
        logger.warning("%s has no fc6 and fc7: these layers of the box head start from random weights", source)
        missing = [target for target in missing if target not in fully_connected]
    missing = [target for target in missing if not target[1].endswith("num_batches_tracked")]
    if missing:
        problems.append(f"{len(missing)} of {len(wanted)} tensors are missing: {_list(key for _, key in missing)}")
    shapes = [
        f"{key} is {tuple(state[found].shape)}, expected {tuple(wanted[part, key].shape)}"
        for (part, key), found in sources.items()
        if found is not None and state[found].shape != wanted[part, key].shape
    ]
    if shapes:
        problems.append(f"{len(shapes)} are mis-shaped: {_list(shapes)}")
    if problems:
        raise CheckpointError(
            f"{source}: these weights do not fit model.backbone.name; {'; '.join(problems)}. "
            f"The file's keys begin with {_list(state)}"
        )

    for target, module in targets.items():
        found = {key: state[name] for (part, key), name in sources.items() if part == target and name is not None}
        module.load_state_dict(found, strict=False)
    used = {name for name in sources.values() if name is not None}
    left = [key for key in state if key not in used]
    note = f"; skipped {len(left)}: {_list(left)}" if left else ""
    logger.info("backbone weights from %s: %d tensors loaded%s", source, len(used), note)


def _find(key: str, state: Mapping[str, Tensor], *, names: Mapping[str, str], prefix: str) -> str | None:
    """The name of a trunk's tensor in `state`, or None."""
    if name := names.get(_plain(prefix + _bare(key))):
        return name
    return next((name for name in state if name.startswith("roi_head.") and name.endswith("." + key)), None)


def _bare(key: str) -> str:
    """A trunk's key without the prefix `model.` of timm's plain transformers."""
    return key.removeprefix("model.")


def _plain(key: str) -> str:
    """A key in the form in which names are compared."""
    return key.replace(".", "_")


def _list(names) -> str:
    """The first four names."""
    names = list(names)
    return ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
