"""The two sides of a benchmark, with one interface."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.build_torchvision import train_mode
from frcnn.analyze.scene import Scene
from frcnn.model.detector import FasterRCNN
from frcnn.model.speed.autocast import Precision, autocast
from frcnn.model.speed.compiled import CompiledDetector
from frcnn.structures import Losses, total_loss

Found = tuple[Tensor, Tensor, Tensor]
"""Boxes (n, 4), scores (n,) and labels (n,) of one image."""


class Side(ABC):
    """A detector with its optimizer, and the steps that are measured."""

    name: str
    model: nn.Module
    optimizer: torch.optim.Optimizer | None
    """None if the side only detects."""
    notes: list[str]
    """Choices made for this side."""

    def __init__(
        self,
        model: nn.Module,
        scene: Scene,
        *,
        optimizer: torch.optim.Optimizer | None,
        precision: Precision,
    ) -> None:
        self.model = model
        self.scene = scene
        self.optimizer = optimizer
        self.device = scene.batch.images.device
        self.precision: Precision = precision
        self.notes = []

    @abstractmethod
    def set_mode(self, *, is_training: bool) -> None:
        """Set training mode or evaluation mode."""

    @abstractmethod
    def losses(self) -> Losses:
        """Run the forward pass of training."""

    @abstractmethod
    def forward_detect(self) -> Any:
        """Detect objects, from pixels on the device to boxes on the device, in the side's own format."""

    @abstractmethod
    def found(self, result: Any) -> list[Found]:
        """Convert the result of `forward_detect`, image by image."""

    def train_step(self) -> None:
        """Run the forward pass, the backward pass and the optimizer step."""
        with autocast(self.device, self.precision):
            losses = self.losses()
        total_loss(losses).backward()
        self.update()

    def update(self) -> None:
        assert self.optimizer is not None
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    @torch.inference_mode()
    def detect_step(self) -> object:
        with autocast(self.device, self.precision):
            return self.forward_detect()

    def step(self, what: str) -> Callable[[], object]:
        """Set the mode of the model and return the step to time."""
        self.set_mode(is_training=what == "train")
        return self.train_step if what == "train" else self.detect_step


class Ours(Side):
    name = "ours"
    model: FasterRCNN
    compiled: CompiledDetector | None = None
    """Called instead of the model if set."""

    @property
    def called(self) -> FasterRCNN | CompiledDetector:
        return self.model if self.compiled is None else self.compiled

    def set_mode(self, *, is_training: bool) -> None:
        self.model.train(is_training)

    def losses(self) -> Losses:
        return self.called(self.scene.batch)

    def forward_detect(self) -> Any:
        batch = self.scene.batch
        return self.called.forward_detect(batch.images, batch.image_sizes, batch.original_sizes)

    def found(self, result: Any) -> list[Found]:
        boxes, scores, labels, valid = result
        return [(boxes[row][keep], scores[row][keep], labels[row][keep]) for row, keep in enumerate(valid)]


class Torchvision(Side):
    name = "torchvision"

    def set_mode(self, *, is_training: bool) -> None:
        if is_training:
            train_mode(self.model)
        else:
            self.model.eval()

    def losses(self) -> Losses:
        losses = self.model(self.scene.images, self.scene.targets)
        return {
            "rpn_class": losses["loss_objectness"],
            "rpn_box": losses["loss_rpn_box_reg"],
            "roi_class": losses["loss_classifier"],
            "roi_box": losses["loss_box_reg"],
        }

    def forward_detect(self) -> Any:
        return self.model(self.scene.images)

    def found(self, result: Any) -> list[Found]:
        return [(each["boxes"], each["scores"], each["labels"]) for each in result]


def reference_optimizer(
    parameters: Sequence[nn.Parameter], *, kind: str, lr: float, momentum: float, weight_decay: float
) -> torch.optim.Optimizer:
    """The optimizer of torchvision's reference scripts: one group with all trained parameters."""
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    if kind == "sgd":
        return torch.optim.SGD(trained, lr=lr, momentum=momentum, weight_decay=weight_decay)
    return torch.optim.AdamW(trained, lr=lr, weight_decay=weight_decay)
