"""The backbone: from images to the feature maps that the RPN and the RoI head share."""

import math
from collections.abc import Sequence
from difflib import get_close_matches
from typing import NamedTuple

import torch
from torch import Tensor, nn

from frcnn.errors import ConfigError
from frcnn.model.backbone.fpn import FeaturePyramid
from frcnn.model.backbone.freezing import PartlyFrozen, has_batch_norm, set_norm_eps
from frcnn.model.backbone.pretrained import load_trunk, read_imagenet_weights, read_weights
from frcnn.model.backbone.timm_trunk import PREFIX, build_timm_trunk
from frcnn.model.backbone.trunks import RESNETS, TORCHVISION_TRUNKS, Trunk, build_torchvision_trunk

__all__ = ["Backbone", "build_backbone", "has_batch_norm"]

PROBE_SIZE = (128, 192)
"""(height, width) of the empty image that a trunk is run on to find its channels."""


class Backbone(PartlyFrozen):
    """A trunk, with or without a feature pyramid on top.

    Args:
        body: images -> list of maps, fine to coarse.
        neck: list of maps -> tuple of maps; None to return the maps of `body`.
        strides: strides of the returned maps, fine to coarse, including the extra level.
        channels: C, the same for all returned maps.
        num_roi_levels: number of maps that regions are pooled from, which excludes the extra level.
        is_channels_last: `body` returns maps (B, H, W, C).
    """

    def __init__(
        self,
        *,
        body: nn.Module,
        neck: FeaturePyramid | None,
        strides: Sequence[int],
        channels: int,
        num_roi_levels: int,
        is_channels_last: bool = False,
    ):
        super().__init__()
        self.body = body
        self.neck = neck
        self.strides = tuple(strides)
        self.channels = channels
        self.num_roi_levels = num_roi_levels
        self.is_channels_last = is_channels_last

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Normalized images (B, 3, H, W) -> maps (B, C, ceil(H / stride), ceil(W / stride)), fine to coarse."""
        maps = self.body(images)
        if self.is_channels_last:
            maps = [level.permute(0, 3, 1, 2) for level in maps]  # (B, H, W, C) -> (B, C, H, W)
        return tuple(maps) if self.neck is None else self.neck(maps)


def build_backbone(
    *,
    name: str,
    weights: str | None,
    frozen_stages: int,
    norm: str,
    norm_eps: float | None = None,
    stride_in_1x1: bool = False,
    dilated_res5: bool = False,
    stem_pool: str = "padded",
    neck: str,
    strides: Sequence[int] | None,
    neck_channels: int,
    neck_norm: str,
    neck_init: str = "caffe2_xavier",
    extra_level: bool,
    head: str,
    dropout: float,
) -> tuple[Backbone, nn.Module | None]:
    """Build the backbone, and the box head if it consists of later layers of the trunk.

    1. Cut the trunk into the layers up to the last map that is used, and the layers of the head.
    2. Load weights into both.
    3. Add the pyramid.
    4. Freeze the first stages, and all batch norm if it is not trained.

    The config (`config.schema.model`) checks which of these settings can be combined.

    Args:
        name: one of `TORCHVISION_TRUNKS`, or timm/NAME.
        weights: "imagenet", a path (see `pretrained.read_weights`), or None for random weights.
        frozen_stages: number of frozen stages, counted from the stem.
        norm: "frozen_bn" freezes every batch norm; "bn" and "sync_bn" do not.
        norm_eps: epsilon of batch norm; None keeps the network's own.
        stride_in_1x1, dilated_res5, stem_pool: see `trunks.build_torchvision_trunk`.
        neck: "none" or "fpn".
        strides: strides of the trunk's maps; a single one without a neck; powers of two with a neck, each twice the
            previous one. None uses [16] without a neck and [4, 8, 16, 32] with one; for mobilenet_v3_large with a neck,
            the two maps of stride 32 that torchvision's detector uses.
        neck_channels, neck_norm, neck_init, extra_level: see `FeaturePyramid`; unused without a neck.
        head: "vgg_fc", "res5", or a kind that does not use layers of the trunk.
        dropout: dropout probability of vgg_fc.

    Returns:
        The backbone; and a head (N, C, h, w) -> (N, D) or (N, D, h', w') with an attribute `out_channels`, or None.

    Raises:
        ConfigError: an unknown network, or a stride, stage or option that the network does not have.
        CheckpointError: weights that cannot be read or fetched, or do not fit.
    """
    if not name.startswith(PREFIX) and name not in TORCHVISION_TRUNKS:
        close = get_close_matches(name, TORCHVISION_TRUNKS, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise ConfigError(
            f"model.backbone.name: unknown {name!r}{hint} (available: {', '.join(TORCHVISION_TRUNKS)} and {PREFIX}NAME)"
        )
    is_resnet_changed = stride_in_1x1 or dilated_res5 or stem_pool != "padded"
    if is_resnet_changed and name not in RESNETS:
        raise ConfigError(
            "model.backbone: stride_in_1x1, dilated_res5 and stem_pool are options of torchvision's ResNets "
            f"({', '.join(RESNETS)}), not {name}"
        )
    if name.startswith(PREFIX):
        trunk = build_timm_trunk(name.removeprefix(PREFIX), strides=strides, neck=neck)
    else:
        trunk = build_torchvision_trunk(
            name,
            strides=strides,
            neck=neck,
            head=head,
            dropout=dropout,
            stride_in_1x1=stride_in_1x1,
            dilated_res5=dilated_res5,
            stem_pool=stem_pool,
        )
    probed = _probe(trunk, name=name)
    if norm_eps is not None:
        set_norm_eps(trunk.body, norm_eps)
        if trunk.head is not None:
            set_norm_eps(trunk.head, norm_eps)
    if frozen_stages > len(trunk.stages):
        limit = f"has {len(trunk.stages)} stages up to stride {trunk.strides[-1]}" if trunk.stages else "has no stages"
        raise ConfigError(f"model.backbone.frozen_stages: {frozen_stages}, but {name} {limit}")
    if weights is not None:
        source, state = read_imagenet_weights(name) if weights == "imagenet" else (weights, read_weights(weights))
        load_trunk(state, body=trunk.body, head=trunk.head, source=source)

    strides_out, channels = trunk.strides, probed.channels[-1]
    pyramid = None
    if neck == "fpn":
        pyramid = FeaturePyramid(
            probed.channels, channels=neck_channels, norm=neck_norm, init=neck_init, extra_level=extra_level
        )
        strides_out += (2 * trunk.strides[-1],) * extra_level
        channels = neck_channels
    backbone = Backbone(
        body=trunk.body,
        neck=pyramid,
        strides=strides_out,
        channels=channels,
        num_roi_levels=len(trunk.strides),
        is_channels_last=trunk.is_channels_last,
    )
    for parameter in probed.unused:
        trunk.body.get_parameter(parameter).requires_grad_(False)
    backbone.freeze(f"body.{module}" for stage in trunk.stages[:frozen_stages] for module in stage)
    if norm == "frozen_bn":
        backbone.freeze_batch_norm()
        if trunk.head is not None:
            trunk.head.freeze_batch_norm()
    return backbone, trunk.head


class _Probed(NamedTuple):
    channels: tuple[int, ...]
    """Channels of each map."""
    unused: tuple[str, ...]
    """Names of parameters of the body that no map depends on. DDP would wait for their gradients."""


def _probe(trunk: Trunk, *, name: str) -> _Probed:
    """Run the body on an image on the meta device, which has a shape but no data. Takes milliseconds."""
    body = trunk.body
    parameters = {
        name: torch.empty_like(parameter, device="meta").requires_grad_() for name, parameter in body.named_parameters()
    }
    buffers = {name: torch.empty_like(buffer, device="meta") for name, buffer in body.named_buffers()}
    image = torch.empty(1, 3, *PROBE_SIZE, device="meta")
    try:
        with torch.enable_grad():
            maps = torch.func.functional_call(body, (parameters, buffers), (image,))
            total = torch.stack([level.sum() for level in maps]).sum()
        gradients = torch.autograd.grad(total, list(parameters.values()), allow_unused=True)
    except Exception as error:  # networks for a fixed image size raise various errors
        raise ConfigError(f"model.backbone.name: {name} does not accept images of every size ({error})") from error
    shapes = [tuple(level.shape) for level in maps]
    if trunk.is_channels_last:
        shapes = [(shape[0], shape[3], *shape[1:3]) for shape in shapes]
    expected = [tuple(math.ceil(side / stride) for side in PROBE_SIZE) for stride in trunk.strides]
    if [shape[2:] for shape in shapes] != expected:
        raise ConfigError(f"model.backbone.name: the maps of {name} do not have the strides {list(trunk.strides)}")
    unused = (name for name, gradient in zip(parameters, gradients, strict=True) if gradient is None)
    return _Probed(tuple(shape[1] for shape in shapes), tuple(unused))
