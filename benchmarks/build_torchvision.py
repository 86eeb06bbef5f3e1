"""Build torchvision's detector with the architecture of a config and the weights of our detector."""

import math
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.models import mobilenet_v3_large, vgg16
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.detection import FasterRCNN as TorchvisionFasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator as TorchvisionAnchors
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops import FrozenBatchNorm2d, MultiScaleRoIAlign

from frcnn.config.schema import Config
from frcnn.convert.to_torchvision import to_torchvision
from frcnn.model.backbone.backbone import Backbone
from frcnn.model.backbone.trunks import RESNETS, Tapped
from frcnn.model.detector import FasterRCNN

TRUNKS = (*RESNETS, "vgg16", "mobilenet_v3_large")
ROI_BETA = RPN_BETA = 1 / 9
SMALLEST_DETECTION = 1e-2
OWN_HEADS = ("roi_head.head.classifier.", "roi_head.head.layer4.")


def obstacles(config: Config) -> list[str]:
    """Settings of the architecture that torchvision does not support; empty if its detector can be built."""
    model = config.model
    backbone, rpn, roi = model.backbone, model.rpn, model.roi
    wanted: dict[str, tuple[Any, tuple]] = {
        "model.plus_one": (model.plus_one, (False,)),
        "model.backbone.name": (backbone.name, TRUNKS),
        "model.backbone.stride_in_1x1": (backbone.stride_in_1x1, (False,)),
        "model.backbone.dilated_res5": (backbone.dilated_res5, (False,)),
        "model.backbone.stem_pool": (backbone.stem_pool, ("padded",)),
        "model.backbone.neck_norm": (backbone.neck_norm, ("none", "batch")),
        "model.rpn.objectness": (rpn.objectness, ("sigmoid",)),
        "model.roi.class_agnostic": (roi.class_agnostic, (False,)),
    }
    if roi.head.kind == "two_fc":
        wanted["model.roi.head.convs"] = (roi.head.convs, (0,))
    if roi.head.kind == "conv_fc":
        wanted["model.roi.head.norm"] = (roi.head.norm, ("batch",))
    if backbone.neck == "fpn":
        wanted["model.roi.pooling.kind"] = (roi.pooling.kind, ("roi_align",))
    return [f"{key} is {value}" for key, (value, allowed) in wanted.items() if value not in allowed]


def adapted(config: Config) -> dict[str, Any]:
    """Keys for which torchvision supports only one value, with that value. Our side uses it in the comparison."""
    return {
        "model.anchors.strides_from": "canvas",
        "model.rpn.skip_padding": False,
        "model.rpn.inside_only": False,
        "model.rpn.min_box_size_in": "canvas",
        "model.rpn.post_nms_top_n_per_level": None,
        "model.rpn.iou_low_quality": 0.0,
        "model.rpn.normaliser": "sampled",
        "model.rpn.smooth_l1_beta": RPN_BETA,
        "model.roi.iou_negative_low": 0.0,
        "model.roi.add_ground_truth": True,
        "model.roi.smooth_l1_beta": ROI_BETA,
        "model.roi.pooling.aligned": False,
        "model.roi.pooling.level_rule": "torchvision",
        "model.detect.min_box_size": SMALLEST_DETECTION,
    }


def build_torchvision(config: Config, ours: FasterRCNN, *, num_classes: int) -> TorchvisionFasterRCNN:
    """Build torchvision's detector with the weights of `ours`, a detector of the same config.

    Images are resized, in 0..255 and in the network's order of channels. Both sides normalize and pad them, and neither
    resizes them. Where our batch norm is frozen, torchvision's is FrozenBatchNorm2d, as in its pretrained models.
    """
    model = config.model
    rpn, roi, final = model.rpn, model.roi, model.detect
    backbone: Any = _build_backbone(config, ours.backbone)
    head = RPNHead(backbone.out_channels, ours.rpn.anchors.num_anchors, conv_depth=rpn.convs)
    if rpn.channels not in (None, backbone.out_channels):
        _change_channels(head, backbone.out_channels, rpn.channels)
    theirs: Any = TorchvisionFasterRCNN(
        backbone,
        image_mean=list(config.data.mean),
        image_std=list(config.data.std),
        rpn_anchor_generator=_build_anchors(ours),
        rpn_head=head,
        rpn_pre_nms_top_n_train=rpn.pre_nms_top_n.train,
        rpn_pre_nms_top_n_test=rpn.pre_nms_top_n.test,
        rpn_post_nms_top_n_train=rpn.post_nms_top_n.train,
        rpn_post_nms_top_n_test=rpn.post_nms_top_n.test,
        rpn_nms_thresh=rpn.nms_threshold,
        rpn_fg_iou_thresh=rpn.iou_positive,
        rpn_bg_iou_thresh=rpn.iou_negative,
        rpn_batch_size_per_image=rpn.samples_per_image,
        rpn_positive_fraction=rpn.positive_fraction,
        rpn_score_thresh=rpn.score_threshold,
        box_head=_build_head(config, ours),
        box_predictor=FastRCNNPredictor(ours.roi_head.head.out_channels, num_classes + 1),
        box_score_thresh=final.score_threshold,
        box_nms_thresh=final.nms_threshold,
        box_detections_per_img=final.max_detections,
        box_fg_iou_thresh=roi.iou_positive,
        box_bg_iou_thresh=roi.iou_positive,
        box_batch_size_per_image=roi.samples_per_image,
        box_positive_fraction=roi.positive_fraction,
        bbox_reg_weights=roi.box_weights,
    )
    theirs.roi_heads.box_roi_pool = _build_pooling(config, ours.backbone)
    theirs.transform.resize = _keep_size
    theirs.rpn.min_size = rpn.min_box_size
    for coder in (theirs.rpn.box_coder, theirs.roi_heads.box_coder):
        coder.bbox_xform_clip = math.inf if model.max_growth is None else math.log(model.max_growth)
    theirs.load_state_dict(in_their_names(ours.state_dict()))
    _freeze_alike(theirs, ours)
    return theirs


def in_their_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the tensors of our state dict, or its gradients, to torchvision's names.

    torchvision has no names for heads that consist of layers of the trunk; they keep ours.
    """
    own = {name: tensor for name, tensor in state.items() if name.startswith(OWN_HEADS)}
    rest = {name: tensor for name, tensor in state.items() if name not in own}
    renamed = to_torchvision(rest, unused={}, with_counters=True)
    return renamed | {name.replace("roi_head.head.", "roi_heads.box_head."): tensor for name, tensor in own.items()}


def train_mode(theirs: nn.Module) -> None:
    """Set training mode, except for batch norm that is not trained."""
    theirs.train()
    for module in theirs.modules():
        if isinstance(module, _BatchNorm) and not module.weight.requires_grad:
            module.eval()


def _build_backbone(config: Config, ours: Backbone) -> nn.Module:
    settings = config.model.backbone
    body, taps = _build_trunk(settings.name, ours, is_frozen=settings.norm == "frozen_bn")
    if ours.neck is None:
        return _SingleMap(body, taps[0], ours.channels)
    laterals: Any = ours.neck.lateral
    backbone = BackboneWithFPN(
        body,
        return_layers={tap: str(level) for level, tap in enumerate(taps)},
        in_channels_list=[lateral[0].in_channels for lateral in laterals],
        out_channels=ours.channels,
        norm_layer=nn.BatchNorm2d if settings.neck_norm == "batch" else None,
    )
    if not settings.extra_level:
        backbone.fpn.extra_blocks = None
    return backbone


def _build_trunk(name: str, ours: Backbone, *, is_frozen: bool) -> tuple[nn.Module, list[str]]:
    """torchvision's network, and the names of the layers whose outputs are the feature maps."""
    tapped = next(module for module in ours.body.modules() if isinstance(module, Tapped))
    taps = [child for child, _ in tapped.named_children() if child in tapped.taps]
    if name == "vgg16":
        return vgg16(weights=None).features, taps
    norm = {"norm_layer": FrozenBatchNorm2d} if is_frozen else {}
    if name == "mobilenet_v3_large":
        body = mobilenet_v3_large(weights=None, **norm).features
    else:
        body = getattr(torchvision.models, name)(weights=None, **norm)
    eps = next(module.eps for module in ours.body.modules() if isinstance(module, _BatchNorm))
    for module in body.modules():
        if isinstance(module, FrozenBatchNorm2d | nn.BatchNorm2d):
            module.eps = eps
    return body, taps


class _SingleMap(nn.Module):
    """A network truncated after one of its layers."""

    def __init__(self, network: nn.Module, tap: str, channels: int) -> None:
        super().__init__()
        self.body = IntermediateLayerGetter(network, {tap: "0"})
        self.out_channels = channels

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return self.body(images)


def _change_channels(head: Any, in_channels: int, channels: int | None) -> None:
    assert channels is not None
    for number, block in enumerate(head.conv):
        block[0] = nn.Conv2d(in_channels if number == 0 else channels, channels, 3, padding=1)
    head.cls_logits = nn.Conv2d(channels, head.cls_logits.out_channels, 1)
    head.bbox_pred = nn.Conv2d(channels, head.bbox_pred.out_channels, 1)


def _build_anchors(ours: FasterRCNN) -> TorchvisionAnchors:
    """torchvision's generator with our anchor shapes, which include our shift of half a stride."""
    strides = ours.rpn.anchors.strides
    generator = TorchvisionAnchors(((1,),) * len(strides), ((1.0,) * ours.rpn.anchors.num_anchors,) * len(strides))
    generator.cell_anchors = [
        ours.rpn.anchors.get_buffer(f"cell_{level}") + ours.rpn.anchors.shift * stride
        for level, stride in enumerate(strides)
    ]
    return generator


def _build_pooling(config: Config, ours: Backbone) -> nn.Module:
    settings = config.model.roi.pooling
    if settings.kind == "roi_pool":
        return _RoiPool(settings.size, ours.strides[0])
    return MultiScaleRoIAlign(
        featmap_names=[str(level) for level in range(ours.num_roi_levels)],
        output_size=settings.size,
        sampling_ratio=settings.sampling_ratio,
        canonical_scale=settings.canonical_size,  # type: ignore[arg-type] - annotated as int, but any number works
        canonical_level=settings.canonical_level,
    )


class _RoiPool(nn.Module):
    """torchvision's RoIPool with the interface of `MultiScaleRoIAlign`."""

    def __init__(self, size: int, stride: int) -> None:
        super().__init__()
        self.size, self.stride = size, stride

    def forward(self, features: dict[str, Tensor], boxes: list[Tensor], image_shapes: list) -> Tensor:
        return torchvision.ops.roi_pool(features["0"], boxes, self.size, 1 / self.stride)


def _build_head(config: Config, ours: FasterRCNN) -> nn.Module:
    """Build the box head. Heads from later layers of the trunk are plain PyTorch, as a torchvision user would write."""
    settings, size = config.model.roi.head, config.model.roi.pooling.size
    channels = ours.backbone.channels
    if settings.kind == "two_fc":
        return TwoMLPHead(channels * size**2, settings.channels)
    if settings.kind == "conv_fc":
        blocks = [channels] * settings.convs
        return FastRCNNConvFCHead((channels, size, size), blocks, [settings.channels], norm_layer=nn.BatchNorm2d)
    if settings.kind == "vgg_fc":
        layers = vgg16(weights=None).classifier[:6]
        for layer in layers:
            if isinstance(layer, nn.Dropout):
                layer.p = settings.dropout
        return nn.Sequential(OrderedDict(flatten=nn.Flatten(), classifier=layers))
    is_frozen = config.model.backbone.norm == "frozen_bn"
    network = getattr(torchvision.models, config.model.backbone.name)(
        weights=None, **({"norm_layer": FrozenBatchNorm2d} if is_frozen else {})
    )
    return nn.Sequential(OrderedDict(layer4=network.layer4, pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten()))


def _keep_size(image: Tensor, target: dict[str, Tensor] | None = None) -> tuple[Tensor, dict[str, Tensor] | None]:
    """Replace torchvision's resize."""
    return image, target


@torch.no_grad()
def _freeze_alike(theirs: nn.Module, ours: FasterRCNN) -> None:
    """Train the same parameters as ours."""
    flags = {name: torch.full((4,), float(parameter.requires_grad)) for name, parameter in ours.named_parameters()}
    is_trained = {name: bool(flag.any()) for name, flag in in_their_names(flags).items()}
    for name, parameter in theirs.named_parameters():
        parameter.requires_grad_(is_trained[name])
