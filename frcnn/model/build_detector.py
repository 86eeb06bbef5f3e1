"""Build a detector from a config. No other module of this package reads the config."""

import dataclasses

from torch import nn

from frcnn.config.schema import Config
from frcnn.config.schema.model import AnchorConfig, ModelConfig
from frcnn.errors import ConfigError
from frcnn.model.backbone.backbone import Backbone, build_backbone, has_batch_norm
from frcnn.model.detector import FasterRCNN
from frcnn.model.losses.losses import MeanCount, RoiLoss, RpnLoss, own_count
from frcnn.model.roi.detection import DetectionSelector
from frcnn.model.roi.heads import BoxPredictor, ConvFcHead
from frcnn.model.roi.pooling import RoiPooling
from frcnn.model.roi.roi_head import RoiHead
from frcnn.model.roi.targets import RoiSampler
from frcnn.model.rpn.anchors import AnchorGenerator
from frcnn.model.rpn.proposals import ProposalSelector
from frcnn.model.rpn.rpn import RegionProposalNetwork
from frcnn.model.rpn.targets import AnchorLabeller, AnchorSampler


def build_from_config(
    config: Config, *, num_classes: int, pretrained: bool = True, mean_count: MeanCount = own_count
) -> FasterRCNN:
    """Build the detector of a whole config; see `build_detector`. The section `data` gives mean, std and channels."""
    return build_detector(
        config.model,
        num_classes=num_classes,
        mean=config.data.mean,
        std=config.data.std,
        channels=config.data.channels,
        pretrained=pretrained,
        mean_count=mean_count,
    )


def build_detector(
    model: ModelConfig,
    *,
    num_classes: int,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
    channels: str = "rgb",
    pretrained: bool = True,
    mean_count: MeanCount = own_count,
) -> FasterRCNN:
    """Build the detector that the section `model` of a config describes.

    Args:
        num_classes: K, without background.
        mean, std: of each channel in the order of `channels`, on the scale 0..255.
        channels: "rgb" or "bgr".
        pretrained: load the weights of `model.backbone.weights`; False if a checkpoint is loaded afterwards.
        mean_count: mean of a count over the processes that train together, see `losses`.

    Raises:
        ConfigError: settings that contradict each other.
        CheckpointError: weights that cannot be fetched or do not fit.
    """
    settings = model.backbone
    backbone, trunk_head = build_backbone(
        name=settings.name,
        weights=settings.weights if pretrained else None,
        frozen_stages=settings.frozen_stages,
        norm=settings.norm,
        norm_eps=settings.norm_eps,
        stride_in_1x1=settings.stride_in_1x1,
        dilated_res5=settings.dilated_res5,
        stem_pool=settings.stem_pool,
        neck=settings.neck,
        strides=settings.strides,
        neck_channels=settings.neck_channels,
        neck_norm=settings.neck_norm,
        neck_init=settings.neck_init,
        extra_level=settings.extra_level,
        head=model.roi.head.kind,
        dropout=model.roi.head.dropout,
    )
    if pretrained and settings.weights is None:
        _require_trainable(model, backbone)
    return FasterRCNN(
        backbone=backbone,
        rpn=_build_rpn(model, backbone, mean_count),
        roi_head=_build_roi_head(model, backbone, trunk_head, num_classes=num_classes, mean_count=mean_count),
        mean=mean,
        std=std,
        channels=channels,
        plus_one=model.plus_one,
    )


def build_anchors(anchors: AnchorConfig, strides: tuple[int, ...]) -> AnchorGenerator:
    """The anchors of a pyramid with these strides. A single list of sizes applies to every level.

    Raises:
        ConfigError: the lists of sizes do not fit the levels, or differ in length.
    """
    per_level = [list(level) for level in anchors.sizes if isinstance(level, list)]
    if not per_level:
        per_level = [[size for size in anchors.sizes if not isinstance(size, list)]] * len(strides)
    if len(per_level) != len(strides):
        raise ConfigError(
            f"model.anchors.sizes has {len(per_level)} lists for {len(strides)} levels of model.backbone; "
            "give one list per level, or a single list for all levels"
        )
    if len({len(level) for level in per_level}) != 1:
        raise ConfigError(f"model.anchors.sizes: every level needs the same number of sizes, not {per_level}")
    return AnchorGenerator(
        sizes=per_level,
        ratios=anchors.ratios,
        strides=strides,
        rounding=anchors.rounding,
        centre=anchors.centre,
        strides_from=anchors.strides_from,
    )


def _build_rpn(model: ModelConfig, backbone: Backbone, mean_count: MeanCount) -> RegionProposalNetwork:
    rpn = model.rpn
    per_level = rpn.post_nms_top_n_per_level
    propose_train = ProposalSelector(
        pre_nms_top_n=rpn.pre_nms_top_n.train,
        post_nms_top_n=rpn.post_nms_top_n.train,
        post_nms_top_n_per_level=per_level and per_level.train,
        nms_threshold=rpn.nms_threshold,
        min_box_size=rpn.min_box_size,
        min_box_size_in=rpn.min_box_size_in,
        score_threshold=rpn.score_threshold,
        skip_padding=rpn.skip_padding,
        max_growth=model.max_growth,
        plus_one=model.plus_one,
    )
    return RegionProposalNetwork(
        backbone.channels,
        channels=rpn.channels,
        num_convs=rpn.convs,
        objectness=rpn.objectness,
        anchors=build_anchors(model.anchors, backbone.strides),
        label_anchors=AnchorLabeller(
            iou_positive=rpn.iou_positive,
            iou_negative=rpn.iou_negative,
            iou_low_quality=rpn.iou_low_quality,
            ignore_overlap=rpn.ignore_overlap,
            inside_only=rpn.inside_only,
            skip_padding=rpn.skip_padding,
        ),
        sample_anchors=AnchorSampler(num_samples=rpn.samples_per_image, positive_fraction=rpn.positive_fraction),
        loss=RpnLoss(smooth_l1_beta=rpn.smooth_l1_beta, normaliser=rpn.normaliser, mean_count=mean_count),
        propose_train=propose_train,
        propose_test=dataclasses.replace(
            propose_train,
            pre_nms_top_n=rpn.pre_nms_top_n.test,
            post_nms_top_n=rpn.post_nms_top_n.test,
            post_nms_top_n_per_level=per_level and per_level.test,
        ),
    )


def _build_roi_head(
    model: ModelConfig, backbone: Backbone, trunk_head: nn.Module | None, *, num_classes: int, mean_count: MeanCount
) -> RoiHead:
    roi, detect = model.roi, model.detect
    pooling = RoiPooling(
        kind=roi.pooling.kind,
        size=roi.pooling.size,
        strides=backbone.strides[: backbone.num_roi_levels],
        sampling_ratio=roi.pooling.sampling_ratio,
        aligned=roi.pooling.aligned,
        canonical_size=roi.pooling.canonical_size,
        canonical_level=roi.pooling.canonical_level,
        level_rule=roi.pooling.level_rule,
        plus_one=model.plus_one,
    )
    head = trunk_head
    if head is None:
        head = ConvFcHead(
            backbone.channels,
            size=roi.pooling.size,
            channels=roi.head.channels,
            num_convs=roi.head.convs,
            num_fcs=1 if roi.head.kind == "conv_fc" else 2,
            norm=roi.head.norm,
            init=roi.head.init,
        )
    assert isinstance(head.out_channels, int)
    predictor = BoxPredictor(
        head.out_channels, num_classes=num_classes, class_agnostic=roi.class_agnostic, init=roi.predictor_init
    )
    return RoiHead(
        pooling=pooling,
        head=head,
        predictor=predictor,
        sample_rois=RoiSampler(
            num_samples=roi.samples_per_image,
            positive_fraction=roi.positive_fraction,
            iou_positive=roi.iou_positive,
            iou_negative_low=roi.iou_negative_low,
            ignore_overlap=roi.ignore_overlap,
            add_ground_truth=roi.add_ground_truth,
        ),
        loss=RoiLoss(box_weights=roi.box_weights, smooth_l1_beta=roi.smooth_l1_beta, mean_count=mean_count),
        select_detections=DetectionSelector(
            box_weights=roi.box_weights,
            score_threshold=detect.score_threshold,
            nms_threshold=detect.nms_threshold,
            max_detections=detect.max_detections,
            pre_nms_top_n=detect.pre_nms_top_n,
            min_box_size=detect.min_box_size,
            max_growth=model.max_growth,
            plus_one=model.plus_one,
        ),
    )


def _require_trainable(model: ModelConfig, backbone: Backbone) -> None:
    """Raise ConfigError if layers without pretrained weights are frozen: they would stay random."""
    needed = []
    if model.backbone.norm == "frozen_bn" and has_batch_norm(backbone.body):
        needed.append("model.backbone.norm=bn")
    if model.backbone.frozen_stages > 0:
        needed.append("model.backbone.frozen_stages=0")
    if needed:
        raise ConfigError(
            "model.backbone.weights is null, so frozen layers would stay random. Set weights, or train these layers: "
            f"{' '.join(needed)}"
        )
