"""From the config to a detector: the one place of this room that reads it."""

from collections.abc import Callable
from functools import partial

from torch import Tensor, nn

from frcnn.config.schema import Config
from frcnn.config.schema.model import ModelConfig, RoiConfig
from frcnn.errors import ConfigError
from frcnn.model.backbone.backbone import Backbone, build_backbone, has_batch_norm
from frcnn.model.detector import FasterRCNN, Stages
from frcnn.model.losses.losses import own_count, roi_losses, rpn_losses
from frcnn.model.matching import label_anchors, sample_anchors, sample_rois
from frcnn.model.roi.detection import detect
from frcnn.model.roi.heads import BoxPredictor, ConvFcHead, RoiHead, RoiPooling
from frcnn.model.rpn.anchors import AnchorGenerator
from frcnn.model.rpn.head import RpnHead, propose


def build_from_config(
    config: Config,
    *,
    num_classes: int,
    pretrained: bool = True,
    mean_count: Callable[[Tensor], Tensor] = own_count,
) -> FasterRCNN:
    """`build_detector` for a whole config: the pixels that the model gets are those of its `data` section."""
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
    mean_count: Callable[[Tensor], Tensor] = own_count,
) -> FasterRCNN:
    """Build the detector that `model` describes.

    Args:
        model: the `model` section of a config.
        num_classes: K, without background.
        mean, std: of each channel in the order of `channels`, on the scale 0..255.
        channels: "rgb" or "bgr".
        pretrained: load the weights of `model.backbone.weights`; False where a checkpoint is loaded afterwards.
        mean_count: the mean of a count over the processes that train together, see `losses`.

    Raises:
        ConfigError: settings that do not go together.
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
    anchors = AnchorGenerator(
        sizes=_sizes_per_level(model, num_levels=len(backbone.strides)),
        ratios=model.anchors.ratios,
        strides=backbone.strides,
        rounding=model.anchors.rounding,
        centre=model.anchors.centre,
        strides_from=model.anchors.strides_from,
    )
    rpn = RpnHead(
        backbone.channels,
        channels=model.rpn.channels,
        num_anchors=anchors.num_anchors,
        num_convs=model.rpn.convs,
        objectness=model.rpn.objectness,
    )
    return FasterRCNN(
        backbone=backbone,
        anchors=anchors,
        rpn=rpn,
        roi_head=_build_roi_head(model.roi, backbone, trunk_head, num_classes=num_classes, plus_one=model.plus_one),
        stages=_bind_stages(model, mean_count),
        mean=mean,
        std=std,
        channels=channels,
        plus_one=model.plus_one,
    )


def _bind_stages(model: ModelConfig, mean_count: Callable[[Tensor], Tensor]) -> Stages:
    rpn, roi, final = model.rpn, model.roi, model.detect
    propose_with = partial(
        propose,
        nms_threshold=rpn.nms_threshold,
        min_box_size=rpn.min_box_size,
        min_box_size_in=rpn.min_box_size_in,
        score_threshold=rpn.score_threshold,
        skip_padding=rpn.skip_padding,
        max_growth=model.max_growth,
        plus_one=model.plus_one,
    )
    per_level = rpn.post_nms_top_n_per_level
    return Stages(
        label_anchors=partial(
            label_anchors,
            iou_positive=rpn.iou_positive,
            iou_negative=rpn.iou_negative,
            iou_low_quality=rpn.iou_low_quality,
            ignore_overlap=rpn.ignore_overlap,
            inside_only=rpn.inside_only,
            skip_padding=rpn.skip_padding,
        ),
        sample_anchors=partial(
            sample_anchors, num_samples=rpn.samples_per_image, positive_fraction=rpn.positive_fraction
        ),
        rpn_losses=partial(
            rpn_losses, smooth_l1_beta=rpn.smooth_l1_beta, normaliser=rpn.normaliser, mean_count=mean_count
        ),
        propose_train=partial(
            propose_with,
            pre_nms_top_n=rpn.pre_nms_top_n.train,
            post_nms_top_n=rpn.post_nms_top_n.train,
            post_nms_top_n_per_level=per_level and per_level.train,
        ),
        propose_test=partial(
            propose_with,
            pre_nms_top_n=rpn.pre_nms_top_n.test,
            post_nms_top_n=rpn.post_nms_top_n.test,
            post_nms_top_n_per_level=per_level and per_level.test,
        ),
        sample_rois=partial(
            sample_rois,
            num_samples=roi.samples_per_image,
            positive_fraction=roi.positive_fraction,
            iou_positive=roi.iou_positive,
            iou_negative_low=roi.iou_negative_low,
            ignore_overlap=roi.ignore_overlap,
            add_ground_truth=roi.add_ground_truth,
        ),
        roi_losses=partial(
            roi_losses, box_weights=roi.box_weights, smooth_l1_beta=roi.smooth_l1_beta, mean_count=mean_count
        ),
        detect=partial(
            detect,
            box_weights=roi.box_weights,
            score_threshold=final.score_threshold,
            nms_threshold=final.nms_threshold,
            max_detections=final.max_detections,
            pre_nms_top_n=final.pre_nms_top_n,
            min_box_size=final.min_box_size,
            max_growth=model.max_growth,
            plus_one=model.plus_one,
        ),
    )


def _build_roi_head(
    roi: RoiConfig, backbone: Backbone, trunk_head: nn.Module | None, *, num_classes: int, plus_one: bool
) -> RoiHead:
    pooling = RoiPooling(
        kind=roi.pooling.kind,
        size=roi.pooling.size,
        strides=backbone.strides[: backbone.num_roi_levels],
        sampling_ratio=roi.pooling.sampling_ratio,
        aligned=roi.pooling.aligned,
        canonical_size=roi.pooling.canonical_size,
        canonical_level=roi.pooling.canonical_level,
        level_rule=roi.pooling.level_rule,
        plus_one=plus_one,
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
    return RoiHead(pooling, head, predictor)


def _sizes_per_level(model: ModelConfig, *, num_levels: int) -> list[list[float]]:
    """The anchor sizes of each level: one list is for all levels alike."""
    sizes = model.anchors.sizes
    per_level = [list(level) for level in sizes if isinstance(level, list)]
    if not per_level:
        return [[size for size in sizes if not isinstance(size, list)]] * num_levels
    if len(per_level) != num_levels:
        raise ConfigError(
            f"model.anchors.sizes has {len(per_level)} lists for {num_levels} levels of model.backbone; "
            "give one list a level, or one for all of them"
        )
    if len({len(level) for level in per_level}) != 1:
        raise ConfigError(f"model.anchors.sizes: every level needs the same number of sizes, not {per_level}")
    return per_level


def _require_trainable(model: ModelConfig, backbone: Backbone) -> None:
    """Without weights, what is frozen stays random for ever."""
    if model.backbone.norm == "frozen_bn" and has_batch_norm(backbone.body):
        raise ConfigError(
            "model.backbone.norm is frozen_bn but model.backbone.weights is null: statistics that were never estimated "
            "cannot be frozen. Set weights, or norm: bn"
        )
    if model.backbone.frozen_stages > 0:
        raise ConfigError(
            f"model.backbone.frozen_stages is {model.backbone.frozen_stages} but model.backbone.weights is null: "
            "random layers would stay random. Set weights, or frozen_stages: 0"
        )
