"""Check that both sides compute the same. Otherwise the ratio of their times is meaningless."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.sides import Found, Side
from frcnn.ops import sampling
from frcnn.structures import Losses, total_loss

PIXELS, SCORE = 1e-2, 1e-4
"""Largest differences between equal detections."""
LEAST_SHARE = 0.95
"""Share of the detections of each side that the other must have. Rounding may reverse near ties."""
RPN_LOSS, ROI_LOSS = 1e-4, 0.05
"""Largest relative differences of the losses. Both sides sample exactly the same anchors for the RPN. Regions are
sampled by their rank among the proposals, and rounding may swap proposals of adjacent rank."""
GRADIENT = 0.05
"""Largest relative distance of gradients, as the median over the parameters."""


class Agreement(NamedTuple):
    """The outcome of a check."""

    agrees: bool
    figures: dict[str, Any]
    reasons: list[str]
    """Disagreements; empty if there are none."""


def compare_detections(ours: Side, peer: Side) -> Agreement:
    """Compare the detections of both sides in float32: number, boxes, scores and labels, up to near ties."""
    with exact():
        pairs = list(zip(*(_detect(side) for side in (ours, peer)), strict=True))
    counts = [sum(len(found[0]) for found in side) for side in zip(*pairs, strict=True)]
    shared = [sum(column) for column in zip(*(_shared(mine, other) for mine, other in pairs), strict=True)]
    shares = [1.0 if count == 0 else number / count for count, number in zip(counts, shared, strict=True)]
    figures = {"detections": counts, "shared": shares, "pixels": PIXELS, "score": SCORE}
    reasons = []
    if min(counts) == 0:
        reasons.append(f"{counts[0]} and {counts[1]} detections: nothing to compare")
    if min(shares) < LEAST_SHARE:
        reasons.append(f"only {min(shares):.1%} of the detections agree within {PIXELS} pixels and a score of {SCORE}")
    return Agreement(not reasons, figures, reasons)


def compare_training(ours: Side, peer: Side, *, in_their_names) -> Agreement:
    """Compare losses and gradients of both sides in float32, on the same samples and without dropout.

    Args:
        in_their_names: renames a mapping of our gradients to the peer's names.
    """
    with exact():
        mine, my_gradients = _gradients(ours)
        other, their_gradients = _gradients(peer)
    my_gradients = in_their_names(my_gradients)
    figures: dict[str, Any] = {"losses": [[float(value) for value in losses.values()] for losses in (mine, other)]}
    reasons = []
    for name in mine:
        one, two = float(mine[name]), float(other[name])
        tolerance = RPN_LOSS if name.startswith("rpn") else ROI_LOSS
        if not abs(one - two) <= tolerance * max(abs(two), 1e-3):
            reasons.append(f"{name} is {one:.6g} and {two:.6g}")
    only = sorted(my_gradients.keys() ^ their_gradients.keys())
    if only:
        reasons.append(f"{len(only)} parameters are trained on one side only, such as {only[0]}")
    distances = sorted(
        _distance(my_gradients[name], their_gradients[name]) for name in my_gradients if name not in only
    )
    figures["gradient_distance"] = {"median": distances[len(distances) // 2], "largest": distances[-1]}
    if not distances[len(distances) // 2] <= GRADIENT:
        reasons.append(f"the relative distance of gradients is {distances[len(distances) // 2]:.3g} (median)")
    return Agreement(not reasons, figures, reasons)


def _detect(side: Side) -> list[Found]:
    side.set_mode(is_training=False)
    with torch.inference_mode():
        return [tuple(part.float().cpu() for part in found) for found in side.found(side.forward_detect())]  # type: ignore[misc]


def _shared(mine: Found, other: Found) -> tuple[int, int]:
    """The number of detections of each side that the other side has."""
    boxes, scores, labels = mine
    their_boxes, their_scores, their_labels = other
    if len(boxes) == 0 or len(their_boxes) == 0:
        return 0, 0
    is_same = (boxes[:, None] - their_boxes).abs().amax(dim=2) <= PIXELS
    is_same &= (scores[:, None] - their_scores).abs() <= SCORE
    is_same &= labels[:, None] == their_labels
    return int(is_same.any(dim=1).sum()), int(is_same.any(dim=0).sum())


def _gradients(side: Side) -> tuple[Losses, dict[str, Tensor]]:
    """Losses and gradients by name. Afterwards the model has no gradients and its former statistics."""
    statistics = {name: buffer.clone() for name, buffer in side.model.named_buffers()}
    side.set_mode(is_training=True)
    for module in side.model.modules():
        if isinstance(module, nn.Dropout):
            module.eval()
    with first_in_order(side):
        losses = side.losses()
        total_loss(losses).backward()
    gradients = {
        name: parameter.grad.cpu() for name, parameter in side.model.named_parameters() if parameter.grad is not None
    }
    side.model.zero_grad(set_to_none=True)
    for name, buffer in side.model.named_buffers():
        buffer.copy_(statistics[name])
    return {name: loss.detach().cpu() for name, loss in losses.items()}, gradients


def _distance(mine: Tensor, other: Tensor) -> float:
    return float((mine - other).norm() / other.norm().clamp(min=1e-8))


@contextmanager
def exact() -> Iterator[None]:
    """Disable TensorFloat-32 on a GPU, because its rounding would hide real differences."""
    convolutions, products = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = convolutions, products


@contextmanager
def first_in_order(side: Side) -> Iterator[None]:
    """Replace random sampling: both sides take the first positives and the first negatives."""
    draw = sampling.random_keys
    samplers = {}
    for part in ("rpn", "roi_heads"):
        module: Any = getattr(side.model, part, None)
        sampler = getattr(module, "fg_bg_sampler", None)
        if sampler is not None:
            samplers[module] = sampler
            module.fg_bg_sampler = _FirstInOrder(sampler.batch_size_per_image, sampler.positive_fraction)
    sampling.random_keys = _falling_keys
    try:
        yield
    finally:
        sampling.random_keys = draw
        for module, sampler in samplers.items():
            module.fg_bg_sampler = sampler


def _falling_keys(seed: Tensor, position: Tensor, *, purpose: int) -> Tensor:
    """Replace `random_keys`: keys decrease with the position."""
    return torch.arange(position.shape[-1], 0, -1, device=position.device).expand(len(seed), -1)


class _FirstInOrder:
    """Replace torchvision's sampler."""

    def __init__(self, count: int, fraction: float) -> None:
        self.count, self.fraction = count, fraction

    def __call__(self, labels: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        positives, negatives = [], []
        for label in labels:
            positive = torch.where(label >= 1)[0][: int(self.count * self.fraction)]
            negative = torch.where(label == 0)[0][: self.count - len(positive)]
            for chosen, rows in ((positives, positive), (negatives, negative)):
                mask = torch.zeros_like(label, dtype=torch.uint8)
                mask[rows] = 1
                chosen.append(mask)
        return positives, negatives
