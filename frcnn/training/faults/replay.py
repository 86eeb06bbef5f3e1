"""Repeat a step that was not finite, and find the module and the image where it began."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from frcnn.config import Config, parse_config
from frcnn.model.build_detector import build_from_config
from frcnn.model.speed.autocast import autocast
from frcnn.model.speed.device import set_tf32
from frcnn.structures import Batch, Losses, total_loss
from frcnn.training.faults.bad_step import unpack


class Origin(NamedTuple):
    """The first module whose output was not finite."""

    module: str
    kind: str
    has_sound_input: bool
    images: list[int]
    """Positions in the batch; empty if the output cannot be split by image."""


def replay(saved: dict[str, Any], *, device: torch.device) -> Iterator[str]:
    """Repeat the step that `load_bad_step` returned, rank by rank, and yield lines that describe the result.

    1. Check the weights before the step.
    2. Forward pass of each part of the batch: the losses, and the first module whose output is not finite.
    3. If the losses are finite, backward pass: the first parameters whose gradient is not finite.
    4. Each image alone. Random draws for an image depend on its own seed, so only batch norm can make a difference
       between an image alone and in its batch.

    On a different device than the run's, results differ in the last digits, and dropout draws differ.
    """
    config = parse_config(saved["config"], source="the bad step")
    set_tf32(config.train.tf32)
    model = build_model(saved, config, device)
    bad = saved["bad_step"]
    precision, world_size = config.train.precision, len(bad["ranks"])
    yield f"step {bad['step']}, lr {bad['lr']:.3g}, {precision} on {device}, {world_size} process(es)"
    broken = [name for name, value in saved["model"].items() if not value.isfinite().all()]
    number = f"{len(broken)} tensors are already not finite, the first is {broken[0]}" if broken else "all are finite"
    yield f"weights before the step: {number}"
    for number, rank in enumerate(bad["ranks"]):
        names = iter(rank["images"])
        yield f"rank {number} as it was: {show(rank['losses'])}"
        set_torch_random_state(rank["random"], device)
        for part, packed in enumerate(rank["parts"], start=1):
            batch = unpack(packed).to(device)
            images = [next(names) for _ in batch.index]
            losses, lines = forwards(model, batch, config=config, device=device, images=images)
            yield f"rank {number} part {part} of {len(rank['parts'])} now: {show(losses)}"
            yield from lines
        for packed, first in zip(rank["parts"], starts(rank["parts"]), strict=True):
            batch = unpack(packed).to(device)
            for image in range(len(batch.index)):
                losses, _ = forwards(model, only(batch, image), config=config, device=device, images=[""])
                verdict = "" if all(map(math.isfinite, losses.values())) else "   <- not finite"
                yield f"  alone: {rank['images'][first + image]}: {show(losses)}{verdict}"


def build_model(saved: dict[str, Any], config: Config, device: torch.device) -> nn.Module:
    """The detector in training mode with the weights before the step."""
    model = build_from_config(
        config,
        num_classes=len(saved["class_names"]),
        pretrained=False,
    )
    model.load_state_dict(saved["model"])
    return model.to(device).train()


def forwards(
    model: nn.Module, batch: Batch, *, config: Config, device: torch.device, images: Sequence[str]
) -> tuple[dict[str, float], list[str]]:
    """The losses of a batch, and lines that say where losses or gradients first stop being finite."""
    model.zero_grad(set_to_none=True)
    with watched(model) as origins, autocast(device, config.train.precision):
        losses: Losses = model(batch)
    values = {name: float(loss.detach()) for name, loss in losses.items()}
    if origins:
        return values, [describe_origin(origins[0], values, images)]
    if not all(map(math.isfinite, values.values())):
        return values, [describe_origin(Origin("", "", True, []), values, images)]
    total_loss(losses).backward()
    gradients = [(name, p.grad) for name, p in model.named_parameters() if p.grad is not None]
    bad = [name for name, gradient in gradients if not gradient.isfinite().all()]
    if bad:  # the last module in the forward pass is the first in the backward pass
        return values, [f"  the losses are finite; the gradients of {len(bad)} tensors are not, the first is {bad[-1]}"]
    return values, ["  losses and gradients are finite: the problem does not occur here"]


@contextmanager
def watched(model: nn.Module) -> Iterator[list[Origin]]:
    """Record the first module, inner modules first, whose output is not finite, in the returned list."""
    found: list[Origin] = []

    def look(name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        bad = [tensor for tensor in tensors_of(output) if not tensor.isfinite().all()]
        if bad and not found and name:
            is_sound = all(bool(tensor.isfinite().all()) for tensor in tensors_of(inputs))
            found.append(Origin(name, type(module).__name__, is_sound, bad_images(bad[0], batch_size[0])))

    batch_size = [1]

    def count(module: nn.Module, inputs: tuple) -> None:
        batch_size[0] = len(inputs[0].index)

    hooks = [model.register_forward_pre_hook(count)]
    for name, module in model.named_modules():
        hooks.append(
            module.register_forward_hook(lambda module, inputs, output, name=name: look(name, module, inputs, output))
        )
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def tensors_of(value: Any) -> list[Tensor]:
    """Floating-point tensors in nested tuples, lists and dicts."""
    if isinstance(value, Tensor):
        return [value] if value.is_floating_point() else []
    if isinstance(value, dict):
        value = list(value.values())
    return [tensor for each in value for tensor in tensors_of(each)] if isinstance(value, list | tuple) else []


def bad_images(output: Tensor, batch_size: int) -> list[int]:
    """The images that the non-finite rows belong to; rows are in the order of the images."""
    if output.dim() < 2 or output.shape[0] % batch_size:
        return []
    is_bad = ~output.detach().reshape(batch_size, -1).isfinite().all(dim=1)
    return is_bad.nonzero()[:, 0].tolist()


def describe_origin(origin: Origin, losses: Mapping[str, float], images: Sequence[str]) -> str:
    """One line: the first output that is not finite, and its images."""
    if not origin.module:
        bad = [name for name, value in losses.items() if not math.isfinite(value)]
        return f"  first not finite: the loss {' and '.join(bad)}; every module's output is finite"
    names = ", ".join(images[position] for position in origin.images) or "unknown"
    cause = "from a finite input" if origin.has_sound_input else "its input was not finite either"
    return f"  first not finite: the output of {origin.module} ({origin.kind}), {cause}; images: {names}"


def set_torch_random_state(state: dict[str, Any], device: torch.device) -> None:
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], device)


def starts(parts: Sequence[dict[str, Any]]) -> list[int]:
    """Position of each part's first image among the images of all parts."""
    sizes = [len(part["index"]) for part in parts]
    return [sum(sizes[:number]) for number in range(len(sizes))]


def only(batch: Batch, image: int) -> Batch:
    """A batch with one image of a batch, on the same canvas."""
    one = slice(image, image + 1)
    ground_truth = type(batch.ground_truth)(*(tensor[one] for tensor in batch.ground_truth))
    return Batch(*(tensor[one] for tensor in batch[:-1]), ground_truth=ground_truth)


def show(losses: Mapping[str, float]) -> str:
    return " ".join(f"{name} {value:.4g}" for name, value in losses.items())
