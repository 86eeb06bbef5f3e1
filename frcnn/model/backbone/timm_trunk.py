"""Any timm network that gives `features_only` maps as a trunk (extra `timm`)."""

from collections.abc import Sequence
from difflib import get_close_matches
from types import ModuleType
from typing import Any

from torch import nn

from frcnn.errors import ConfigError
from frcnn.model.backbone.trunks import Trunk, choose_taps, wanted_strides

PREFIX = "timm/"
ANY_SIZE_OPTIONS = ({"strict_img_size": False}, {"dynamic_img_size": True}, {})
"""Options with which timm's Swin and ViT accept images of any size. Other families accept neither option."""


def import_timm() -> ModuleType:
    """Import timm; raise a ConfigError that says how to install it if it is missing."""
    try:
        import timm
    except ImportError as error:
        raise ConfigError(f'model.backbone.name: {PREFIX}NAME needs timm: pip install "frcnn[timm]"') from error
    return timm


def build_timm_trunk(name: str, *, strides: Sequence[int] | None, neck: str) -> Trunk:
    """Build timm's network `name` with random weights, up to the last map that is used.

    A stage is an entry of timm's `feature_info` with the layers before it. The stages of a ResNet are its stem and
    layer1 to layer4; those of an EfficientNet are the stem with blocks.0, then blocks.1. Networks whose entries are not
    modules (HRNet) have no stages and cannot be partly frozen.
    """
    timm = import_timm()
    if not timm.is_model(name):
        close = get_close_matches(name, timm.list_models(), n=3)
        hint = f"; did you mean {', '.join(PREFIX + match for match in close)}?" if close else ""
        raise ConfigError(f"model.backbone.name: timm has no model {name!r}{hint}")
    wanted = wanted_strides(strides, neck=neck)
    info: Any = _create(timm, name).feature_info
    everything = list(range(len(info)))
    modules = info.module_name(everything)
    available = dict(zip(info.reduction(everything), everything, strict=True))  # the last map of each stride
    taps = choose_taps(available, wanted, name=PREFIX + name)
    body = _create(timm, name, out_indices=tuple(taps))
    _cut_after(body, modules[taps[-1]])
    is_channels_last = str(getattr(body, "output_fmt", "NCHW")).endswith("NHWC")
    stages = _find_stages(body, modules[: taps[-1] + 1])
    return Trunk(body, stages, tuple(wanted), is_channels_last=is_channels_last)


def _create(timm: ModuleType, name: str, **options) -> nn.Module:
    """A feature network of timm that accepts images of any size if its family supports it."""
    reason: Exception | None = None
    for any_size in ANY_SIZE_OPTIONS:
        try:
            return timm.create_model(name, features_only=True, **options, **any_size)
        except TypeError as error:  # the family does not have this option
            reason = error
        except Exception as error:  # families without features_only raise various errors
            reason = error
            break
    raise ConfigError(f"model.backbone.name: timm's {name} has no feature maps ({reason})") from reason


def _cut_after(body: nn.Module, last: str) -> None:
    """Remove the members after `last` (such as blocks.4) of its sequence; EfficientNets keep and run all of them."""
    parent, _, index = last.rpartition(".")
    sequence = getattr(body, parent, None)
    if isinstance(sequence, nn.Sequential):
        setattr(body, parent, sequence[: int(index) + 1])


def _find_stages(body: nn.Module, modules: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """Cut the submodules of `body`, in order, after each of `modules`; empty if one of them is missing.

    timm's generic wrapper renames stages.0 to stages_0; its EfficientNet keeps blocks.0.
    """
    parts = []
    for name, child in body.named_children():
        is_cut = any(module.startswith(name + ".") for module in modules)
        parts += [f"{name}.{member}" for member, _ in child.named_children()] if is_cut else [name]
    ends = [module if module in parts else module.replace(".", "_") for module in modules]
    if any(end not in parts for end in ends):
        return ()
    starts = [0] + [parts.index(end) + 1 for end in ends]
    return tuple(tuple(parts[first:end]) for first, end in zip(starts[:-1], starts[1:], strict=True))
