"""Count arithmetic and saved bytes of a step, operator by operator."""

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

OTHER = "other"


class PartCounter(TorchDispatchMode):
    """Count the operations of both passes, and the bytes saved between them, for each part.

    A multiplication and an addition are two operations. Convolutions and matrix products are counted by PyTorch's
    formulas, and RoI pooling as a weighted sum; other operators are negligible. An operator of the backward pass
    belongs to the part of the forward operator whose gradient it computes.

    Bytes saved for the backward pass belong to the part that saves them first. Each storage counts once.

    Args:
        uncounted: tensors whose storages do not count as saved.
    """

    def __init__(self, *, uncounted: list[Tensor]) -> None:
        super().__init__()
        self.forward: dict[str, int] = defaultdict(int)
        self.backward: dict[str, int] = defaultdict(int)
        self.saved: dict[str, int] = defaultdict(int)
        self.part = OTHER
        self.kept: dict[int, Any] = {_storage(tensor): tensor for tensor in uncounted}
        self.ranges: list[tuple[int, int, str]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        formula = FORMULAS.get(str(func.overloadpacket)) or flop_registry.get(func.overloadpacket)
        if formula is not None:
            node = torch._C._current_autograd_node()
            counts, part = (self.forward, self.part) if node is None else (self.backward, self._part_of(node))
            counts[part] += int(formula(*args, **kwargs, out_val=result))
        return result

    @contextmanager
    def inside(self, part: str) -> Iterator[None]:
        """Assign operations to `part`. Nested parts take precedence."""
        outer, first = self.part, _next_node()
        self.part = part
        try:
            yield
        finally:
            self.part = outer
            self.ranges.append((first, _next_node(), part))

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Count everything inside."""
        with torch.autograd.graph.saved_tensors_hooks(self._keep, lambda tensor: tensor), self:
            yield

    def _part_of(self, node: Any) -> str:
        """The innermost part that created a node. Inner parts end before outer ones, so they are listed first."""
        number = node._sequence_nr()
        return next((part for first, end, part in self.ranges if first <= number < end), OTHER)

    def _keep(self, tensor: Tensor) -> Tensor:
        storage = _storage(tensor)
        if storage not in self.kept:
            self.kept[storage] = tensor  # keeps the storage alive, so that its address is not reused
            self.saved[self.part] += tensor.untyped_storage().nbytes()
        return tensor


def _next_node() -> int:
    """The sequence number of the next autograd node."""
    return torch.autograd._get_sequence_nr()  # pyright: ignore[reportPrivateImportUsage] - there is no public function


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _bag(table: Tensor, index: Tensor, *args: Any, **kwargs: Any) -> int:
    """A weighted sum of rows: each entry of `index` multiplies a row of C numbers by a weight and adds it."""
    return 2 * index.numel() * table.shape[1]


def _roi_align(features, rois, scale, height, width, ratio, aligned, *, out_val: Tensor) -> int:
    """Four neighbors per sample. Adaptive sampling, with an unknown number of samples, counts as one per bin."""
    return 2 * 4 * max(1, ratio) ** 2 * out_val.numel()


def _roi_align_backward(gradient, rois, scale, height, width, batch, channels, h, w, ratio, aligned, **_) -> int:
    return 2 * 4 * max(1, ratio) ** 2 * gradient.numel()


def _convolution_backward(gradient: Tensor, maps: Tensor, kernel: Tensor, *args: Any, **kwargs: Any) -> int:
    """The gradients of the maps and of the kernel each take as many operations as the forward pass.

    PyTorch's own formula counts a grouped convolution as if it were a dense one.
    """
    _, _, _, _, is_transposed, _, _, wanted = args
    spread = maps if is_transposed else gradient
    return 2 * spread.numel() * kernel[0].numel() * sum(wanted[:2])


FORMULAS: dict[str, Callable[..., int]] = {
    "aten.convolution_backward": _convolution_backward,
    "aten._embedding_bag": _bag,
    "aten._embedding_bag_forward_only": _bag,
    "torchvision.roi_align": _roi_align,
    "torchvision._roi_align_backward": _roi_align_backward,
}
