"""Batch norm that the convolution before it carries out.

Batch norm with stored statistics is y = x * scale + shift for each channel, and so it can be made part of the
convolution that gives x: kernels times scale, bias times scale plus shift. Large maps are then read and written once
less, forward and backward.

In training the frozen ones are folded anew in each pass, so that the convolution's own weights stay what is trained,
counted and saved (`fold_frozen`). For detection all are folded once (`fold_all`).
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
"""timm's convolution that pads like TensorFlow; by name, as timm may not be installed. Other kinds may do more to their
weights than is known here, and are not folded."""


class _Folding:
    """What makes a convolution carry out a batch norm; stands in front of its class.

    Where the map that comes out has more numbers than the kernels, the kernels are changed; where it has fewer, the map
    is, as batch norm does it. A compiled graph serves maps of all sizes, and always changes the kernels.

    Parameters keep names and places. Only who asks for `weight` and `bias` inside `forward` gets the folded ones.
    """

    _parameters: dict[str, Tensor | None]
    stride: tuple[int, int]
    padding: tuple[int, int] | str
    dilation: tuple[int, int]
    groups: int
    padding_mode: str
    norm: tuple[_BatchNorm]
    """The one it carries out; in a tuple, so that it does not become a submodule of two modules."""
    folded: tuple[Tensor, Tensor] | None
    """Kernels and bias of a pass that keeps them, as long as it lasts; else None."""

    def forward(self, x: Tensor) -> Tensor:
        own = self._parameters["weight"]
        assert own is not None
        positions = x.shape[0] * x.shape[2] * x.shape[3] // (self.stride[0] * self.stride[1])
        if not torch.compiler.is_compiling() and positions < own[0].numel():
            y = super().forward(x)  # type: ignore[misc] - of the convolution behind
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
        """Whether the folded kernels are kept for the backward pass, which is otherwise to make them again.

        They are where PyTorch casts them, the compiler decides or the convolution does more than to convolve.
        """
        is_plain = type(self).__mro__[2] is nn.Conv2d and self.padding_mode == "zeros"
        is_left_to_pytorch = torch.compiler.is_compiling() or torch.is_autocast_enabled(x.device.type)
        return is_left_to_pytorch or not is_plain or isinstance(self.padding, str)

    def scale_and_bias(self) -> tuple[Tensor, Tensor]:
        """What the kernels are multiplied by, (C,), and the bias with the norm in it, (C,)."""
        bias = self._parameters["bias"]
        scale, shift = scale_and_shift(self.norm[0])
        return scale, shift if bias is None else torch.addcmul(shift, bias, scale)

    def fold(self) -> tuple[Tensor, Tensor]:
        """Kernels and bias with the norm in them."""
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
    """A convolution by scaled kernels, which are scaled again in the backward pass rather than kept for it."""

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
        """As `torch.nn.functional.conv2d` by `weight` times `scale` (C,)."""
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
    """What makes a batch norm leave its work to the convolution before it; stands in front of its class."""

    def forward(self, x: Tensor) -> Tensor:
        return x


class _FoldedBeforeActivation:
    """`_Folded` for timm's layer, which also has an activation."""

    drop: nn.Module
    act: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.drop(x))


class Pair(NamedTuple):
    """A convolution and the batch norm that alone reads what it gives."""

    convolution: nn.Conv2d
    norm: _BatchNorm


def fold_frozen(network: nn.Module) -> None:
    """Let convolutions carry out, in each pass anew, the frozen batch norms of `network`.

    Nothing changes but time, memory and the last digits: neither the state dict nor what is trained.
    """
    for convolution, norm in find_pairs(network):
        if not norm.training and not any(parameter.requires_grad for parameter in norm.parameters()):
            _fold(convolution, norm)


def fold_all(network: nn.Module) -> None:
    """Make every batch norm of `network` part of the convolution before it, for good.

    Folded weights take the places of the convolutions' own, so the network can only be used to detect from now on.
    """
    network.eval()
    separate_batch_norm(network)
    for pair in find_pairs(network):
        _fold(*pair)
    for name, module in list(network.named_modules()):
        if isinstance(module, _Folding):
            assert isinstance(module, nn.Conv2d)
            folded = [tensor.detach() for tensor in module.fold()]
            module.__class__ = type(module).__mro__[2]  # as it was before `_in_front`
            for own_name, value in zip(("weight", "bias"), folded, strict=True):
                module.register_parameter(own_name, nn.Parameter(value, requires_grad=False))  # type: ignore[arg-type]
            del module.norm, module.folded
        elif isinstance(module, _Folded | _FoldedBeforeActivation):
            parent, _, own_name = name.rpartition(".")
            rest = nn.Identity() if isinstance(module, _Folded) else nn.Sequential(module.drop, module.act)
            setattr(network.get_submodule(parent), own_name, rest)


def scale_and_shift(norm: _BatchNorm) -> tuple[Tensor, Tensor]:
    """What a batch norm with stored statistics multiplies by, and what it adds then: (C,) and (C,)."""
    assert norm.running_mean is not None and norm.running_var is not None
    scale = (norm.running_var + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight
    shift = -norm.running_mean * scale
    return scale, shift if norm.bias is None else shift + norm.bias


def find_pairs(network: nn.Module) -> list[Pair]:
    """Convolutions of `network` each followed by a batch norm that nothing else shares its input with.

    The network is traced to see that. One that cannot be traced gives none, nor do modules that are used twice, or
    norms that are folded already.
    """
    try:
        graph = _Tracer().trace(network)
    except Exception:  # a network's own control flow; it is then run as it stands
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
    """Sees convolutions and norms of any kind as one step each."""

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
    """The class that is both, `first` having the say."""
    return type(f"{first.__name__.strip('_')}{second.__name__}", (first, second), {})
