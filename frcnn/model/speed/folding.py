"""Fold batch norm into the convolution before it.

Batch norm with stored statistics is y = x * scale + shift for each channel. It can be folded into the convolution that
computes x: multiply the kernels by scale, and the bias by scale plus shift. This saves one read and one write of each
map, forward and backward.

In training, frozen norms are folded again in each pass, so that the weights that are trained and saved do not change
(`fold_frozen`). For detection, all norms are folded once (`fold_all`).
"""

from collections import Counter
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from frcnn.model.sync_norm import WITH_ACTIVATION, separate_batch_norm

SAME_PADDING = "Conv2dSame"
"""timm's convolution with TensorFlow's padding, by name because timm may not be installed. Other layers may transform
their weights and are not folded."""


class _Folding:
    """Mixin, placed before the class of a convolution, that makes it apply a batch norm too.

    If the output map has more elements than the kernels, the kernels are scaled; otherwise the map is scaled, as batch
    norm does. A compiled graph serves maps of all sizes and always scales the kernels.

    Parameters keep their names. `weight` and `bias` are the folded ones only within `forward`.
    """

    _parameters: dict[str, Tensor | None]
    stride: tuple[int, int]
    padding: tuple[int, int] | str
    dilation: tuple[int, int]
    groups: int
    padding_mode: str
    norm: tuple[_BatchNorm]
    """The norm that it applies; in a tuple, so that it does not become a submodule of two modules."""
    folded: tuple[Tensor, Tensor] | None
    """Kernels and bias during a pass that keeps them, otherwise None."""

    def forward(self, x: Tensor) -> Tensor:
        own = self._parameters["weight"]
        assert own is not None
        positions = x.shape[0] * x.shape[2] * x.shape[3] // (self.stride[0] * self.stride[1])
        if not torch.compiler.is_compiling() and positions < own[0].numel():
            y = super().forward(x)  # type: ignore[misc] - the convolution's
            scale, shift = scale_and_shift(self.norm[0])
            return torch.addcmul(shift[:, None, None], y, scale[:, None, None]).to(y.dtype)
        if self.keeps_kernels(x):
            self.folded = self.fold()
            try:
                return super().forward(x)  # type: ignore[misc]
            finally:
                self.folded = None
        scale, bias = self.scale_and_bias()
        settings = self.stride, self.padding, self.dilation, self.groups
        return _FoldedConvolution.apply(x, own, scale, bias, *settings)

    def keeps_kernels(self, x: Tensor) -> bool:
        """Whether the folded kernels are kept for the backward pass; otherwise they are computed again there.

        They are kept under autocast, in compiled graphs, and for convolutions that do more than convolve.
        """
        is_plain = type(self).__mro__[2] is nn.Conv2d and self.padding_mode == "zeros"
        is_left_to_pytorch = torch.compiler.is_compiling() or torch.is_autocast_enabled(x.device.type)
        return is_left_to_pytorch or not is_plain or isinstance(self.padding, str)

    def scale_and_bias(self) -> tuple[Tensor, Tensor]:
        """Factors of the kernels (C,) and the folded bias (C,)."""
        bias = self._parameters["bias"]
        scale, shift = scale_and_shift(self.norm[0])
        return scale, shift if bias is None else torch.addcmul(shift, bias, scale)

    def fold(self) -> tuple[Tensor, Tensor]:
        """Folded kernels and bias."""
        weight = self._parameters["weight"]
        assert weight is not None
        scale, bias = self.scale_and_bias()
        return scaled(weight, scale), bias

    @property
    def weight(self) -> Tensor | None:
        return self._parameters["weight"] if self.folded is None else self.folded[0]

    @property
    def bias(self) -> Tensor | None:
        return self._parameters["bias"] if self.folded is None else self.folded[1]


class _FoldedConvolution(torch.autograd.Function):
    """A convolution with scaled kernels, which are computed again in the backward pass and not stored."""

    @staticmethod
    def forward(
        ctx,
        x: Tensor,
        weight: Tensor,
        scale: Tensor,
        bias: Tensor,
        stride: tuple[int, int],
        padding: tuple[int, int],
        dilation: tuple[int, int],
        groups: int,
    ) -> Tensor:
        """`torch.nn.functional.conv2d` with the kernels `weight` times `scale` (C,)."""
        ctx.save_for_backward(x, weight, scale)
        ctx.settings = stride, padding, dilation, groups
        return F.conv2d(x, scaled(weight, scale), bias, *ctx.settings)

    @staticmethod
    def backward(ctx, gradient: Tensor):  # type: ignore[override]
        x, weight, scale = ctx.saved_tensors
        stride, padding, dilation, groups = ctx.settings
        wanted = [ctx.needs_input_grad[index] for index in (0, 1, 3)]
        of_x, of_kernels, of_bias = torch.ops.aten.convolution_backward(
            gradient, x, scaled(weight, scale), [len(weight)], stride, padding, dilation, False, [0, 0], groups, wanted
        )
        return of_x, None if of_kernels is None else scaled(of_kernels, scale), None, of_bias, None, None, None, None


def scaled(kernels: Tensor, scale: Tensor) -> Tensor:
    """Kernels (C, ...) times `scale` (C,)."""
    return kernels * scale.view(-1, *[1] * (kernels.dim() - 1))


class _Folded:
    """Mixin, placed before the class of a batch norm, that makes it an identity."""

    def forward(self, x: Tensor) -> Tensor:
        return x


class _FoldedBeforeActivation:
    """`_Folded` for timm's layer with activation."""

    drop: nn.Module
    act: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.drop(x))


class Pair(NamedTuple):
    """A convolution and the batch norm that is the only reader of its output."""

    convolution: nn.Conv2d
    norm: _BatchNorm


def fold_frozen(network: nn.Module) -> None:
    """Fold the frozen batch norms of `network` into the convolutions before them, again in each pass.

    The state dict and the trained parameters do not change. Results change by rounding only.
    """
    for convolution, norm in find_pairs(network):
        if not norm.training and not any(parameter.requires_grad for parameter in norm.parameters()):
            _fold(convolution, norm)


def fold_all(network: nn.Module) -> None:
    """Fold all batch norms of `network` into the convolutions before them, permanently.

    Folded weights replace the weights of the convolutions, so the network can no longer be trained.
    """
    network.eval()
    separate_batch_norm(network)
    for pair in find_pairs(network):
        _fold(*pair)
    for name, module in list(network.named_modules()):
        if isinstance(module, _Folding):
            assert isinstance(module, nn.Conv2d)
            folded = [tensor.detach() for tensor in module.fold()]
            module.__class__ = type(module).__mro__[2]  # the class before `_in_front`
            for own_name, value in zip(("weight", "bias"), folded, strict=True):
                module.register_parameter(own_name, nn.Parameter(value, requires_grad=False))  # type: ignore[arg-type]
            del module.norm, module.folded
        elif isinstance(module, _Folded | _FoldedBeforeActivation):
            parent, _, own_name = name.rpartition(".")
            rest = nn.Identity() if isinstance(module, _Folded) else nn.Sequential(module.drop, module.act)
            setattr(network.get_submodule(parent), own_name, rest)


def scale_and_shift(norm: _BatchNorm) -> tuple[Tensor, Tensor]:
    """Factors and summands of a batch norm with stored statistics: (C,) and (C,)."""
    assert norm.running_mean is not None and norm.running_var is not None
    scale = (norm.running_var + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight
    shift = -norm.running_mean * scale
    return scale, shift if norm.bias is None else shift + norm.bias


def find_pairs(network: nn.Module) -> list[Pair]:
    """Convolutions of `network` whose output is read by one batch norm only, with this norm.

    The network is traced by torch.fx. The list is empty if it cannot be traced. Modules that are used twice and norms
    that are folded already are skipped.
    """
    try:
        graph = _Tracer().trace(network)
    except Exception:  # data-dependent control flow; the network is not folded
        return []
    modules = dict(network.named_modules())
    uses = Counter(node.target for node in graph.nodes if node.op == "call_module")
    pairs = []
    for node in graph.nodes:
        before = node.args[0] if node.args else None
        if node.op != "call_module" or not isinstance(before, fx.Node) or before.op != "call_module":
            continue
        norm, convolution = modules[str(node.target)], modules[str(before.target)]
        is_alone = len(before.users) == 1 and uses[node.target] == uses[before.target] == 1
        if is_alone and _is_foldable(norm) and _is_plain(convolution):
            assert isinstance(convolution, nn.Conv2d) and isinstance(norm, _BatchNorm)
            pairs.append(Pair(convolution, norm))
    return pairs


class _Tracer(fx.Tracer):
    """Treats convolutions and norms of any class as leaves."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, nn.Conv2d | _BatchNorm) or super().is_leaf_module(m, module_qualified_name)


def _is_plain(module: nn.Module) -> bool:
    return type(module) is nn.Conv2d or type(module).__name__ == SAME_PADDING


def _is_foldable(module: nn.Module) -> bool:
    is_known = type(module) is nn.BatchNorm2d or type(module).__name__ == WITH_ACTIVATION
    return is_known and isinstance(module, _BatchNorm) and module.running_mean is not None


def _fold(convolution: nn.Conv2d, norm: _BatchNorm) -> None:
    convolution.__class__ = _in_front(_Folding, type(convolution))
    convolution.norm = (norm,)  # type: ignore[assignment]
    convolution.folded = None  # type: ignore[assignment]
    norm.__class__ = _in_front(_Folded if type(norm) is nn.BatchNorm2d else _FoldedBeforeActivation, type(norm))


@cache
def _in_front(first: type, second: type) -> type:
    """A class that inherits from both, `first` before `second`."""
    return type(f"{first.__name__.strip('_')}{second.__name__}", (first, second), {})
