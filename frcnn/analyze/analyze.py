"""Analyze the detector of a config."""

from collections import defaultdict
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_map_only

from frcnn.analyze.build_scene import scene_settings
from frcnn.analyze.counting import OTHER, PartCounter
from frcnn.analyze.parts import part_of_parameters, part_points
from frcnn.analyze.scene import draw_scene
from frcnn.analyze.stages import wrapped
from frcnn.config import Config
from frcnn.model.build_detector import build_from_config
from frcnn.model.detector import FasterRCNN
from frcnn.model.speed.placement import place_for_training
from frcnn.structures import Batch, total_loss


def analyze(
    config: Config, *, num_classes: int, size: tuple[int, int] | None, batch: int, objects: int = 8
) -> dict[str, Any]:
    """Count parameters, operations and saved bytes of each part, in training and in detection.

    The step runs on fake tensors, which have a shape but no data. It takes seconds and memory for the weights alone.
    It is the training step of a CPU, where frozen batch norm is folded and the RPN is trained at its samples only.

    Args:
        num_classes: K.
        size: (height, width) of the images; None uses the size of evaluation.
        batch: number of images.
        objects: number of objects per image, which has almost no effect.

    Returns:
        Plain data: `input`; `parts`, which maps names to trainable, frozen, train_forward, train_backward,
        saved_bytes and detect_forward; and `total`, their sums.
    """
    settings = scene_settings(config, num_classes=num_classes, size=size, batch=batch, objects=objects)
    given = draw_scene(settings).batch
    detector = build_from_config(config, num_classes=num_classes, pretrained=False)
    points, parameters = part_points(detector), _parameters(detector)
    place_for_training(detector, torch.device("cpu"), channels_last=config.train.channels_last)
    mode = FakeTensorMode()
    _make_fake(detector, mode)
    fake = tree_map_only(torch.Tensor, mode.from_tensor, given)
    with mode:
        train = _count(detector, fake, points, is_training=True)
        detect = _count(detector, fake, points, is_training=False)
    names = list(dict.fromkeys([*_order(points), *parameters, *train["forward"], *train["saved"], *detect["forward"]]))
    rows = {
        name: {
            **parameters.get(name, {"trainable": 0, "frozen": 0}),
            "train_forward": train["forward"].get(name, 0),
            "train_backward": train["backward"].get(name, 0),
            "saved_bytes": train["saved"].get(name, 0),
            "detect_forward": detect["forward"].get(name, 0),
        }
        for name in names
    }
    rows = {name: row for name, row in rows.items() if any(row.values())}
    return {
        "input": {
            "images": batch,
            "sizes": given.image_sizes.tolist(),
            "canvas": list(given.images.shape[2:]),
            "objects": objects,
            "classes": num_classes,
        },
        "parts": rows,
        "total": {key: sum(row[key] for row in rows.values()) for key in next(iter(rows.values()))},
    }


def _make_fake(detector: nn.Module, mode: FakeTensorMode) -> None:
    """Replace parameters and buffers by fake tensors of the same shape."""
    for module in detector.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                fake = nn.Parameter(mode.from_tensor(parameter.detach()), requires_grad=parameter.requires_grad)
                module._parameters[name] = fake
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = mode.from_tensor(buffer)


def _count(detector: FasterRCNN, batch: Batch, points: list, *, is_training: bool) -> dict[str, dict[str, int]]:
    counter = PartCounter(uncounted=[*detector.parameters(), *detector.buffers(), *batch[:-1], *batch.ground_truth])
    detector.train(is_training)
    with wrapped(points, counter.inside), counter.counting():
        if is_training:
            total_loss(detector.forward_train(batch)).backward()
        else:
            with torch.no_grad():
                detector.forward_detect(batch.images, batch.image_sizes)
    detector.zero_grad(set_to_none=True)
    return {"forward": counter.forward, "backward": counter.backward, "saved": counter.saved}


def _parameters(detector: FasterRCNN) -> dict[str, dict[str, int]]:
    parts = part_of_parameters(detector)
    counts: dict[str, dict[str, int]] = defaultdict(lambda: {"trainable": 0, "frozen": 0})
    for name, parameter in detector.named_parameters():
        counts[parts[name]]["trainable" if parameter.requires_grad else "frozen"] += parameter.numel()
    return counts


def _order(points: list) -> list[str]:
    """Parts in the order of a step, with the parts of the backbone after the backbone itself."""
    stages = list(dict.fromkeys(stage for _, _, stage in points))
    backbone = [stage for stage in stages if stage.startswith("backbone, ")]
    rest = [stage for stage in stages if stage not in backbone]
    return [*rest[: rest.index("backbone") + 1], *backbone, *rest[rest.index("backbone") + 1 :], OTHER]
