"""The parts of a detector, by name."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from frcnn.analyze.stages import Point, our_points
from frcnn.model.backbone.trunks import Tapped
from frcnn.model.detector import FasterRCNN


def part_points(detector: FasterRCNN) -> list[Point]:
    """Points for `stages.wrapped`: the stages of a step, with the backbone divided by the stride of its layers."""
    layers = dict(_trunk_layers(detector))
    backbone: list[Point] = [(layer, "forward", part) for layer, part in layers.items()]
    return our_points(detector) + backbone


def part_of_parameters(detector: FasterRCNN) -> dict[str, str]:
    """Map the name of each parameter to its part."""
    layers = {id(parameter): part for layer, part in _trunk_layers(detector) for parameter in layer.parameters()}
    places = {"backbone.neck.": "neck", "backbone.": "backbone", "rpn.": "rpn head", "roi_head.": "box head"}
    return {
        name: layers.get(id(parameter)) or next(part for place, part in places.items() if name.startswith(place))
        for name, parameter in detector.named_parameters()
    }


def _trunk_layers(detector: FasterRCNN) -> Iterator[tuple[nn.Module, str]]:
    """Yield the layers of a sequential trunk with their parts, one part for each stride; nothing for other trunks."""
    tapped = next((module for module in detector.backbone.body.modules() if isinstance(module, Tapped)), None)
    if tapped is None:
        return
    for layer, stride in strides_of(tapped).items():
        yield layer, f"backbone, stride {stride}"


def strides_of(network: nn.Sequential, *, size: int = 256) -> dict[nn.Module, int]:
    """The stride of each layer's output in input pixels, computed with an image on the meta device."""
    strides: dict[nn.Module, int] = {}
    shown = torch.empty(1, 3, size, size, device="meta")
    for layer in network.children():
        shown = _on_meta(layer, shown)
        strides[layer] = round(size / shown.shape[-1])
    return strides


@torch.no_grad()
def _on_meta(layer: nn.Module, image: Tensor) -> Tensor:
    state = {name: tensor.to("meta") for name, tensor in (*layer.named_parameters(), *layer.named_buffers())}
    return torch.func.functional_call(layer, state, (image,))
