"""The section `model`: backbone, anchors, RPN, box head, detection."""

from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator
from typing_extensions import Self

from frcnn.config.schema.section import Fraction, Peer, Section


class BackboneConfig(Section):
    """Feature extractor and optional feature pyramid."""

    name: str = "resnet50"
    """Network: vgg16, resnet18, resnet34, resnet50, resnet101, resnet152, resnext50_32x4d, resnext101_32x8d,
    mobilenet_v3_large, or timm/NAME (extra `timm`)."""
    weights: str | None = "imagenet"
    """Initial weights: imagenet (downloaded by torchvision or timm into their cache), a path to a state dict or
    checkpoint, or null for random weights."""
    frozen_stages: NonNegativeInt = 2
    """Number of stages that are not trained, counted from the stem. ResNet: 1 is the stem, 2 adds res2. VGG16: 2 is
    conv1 and conv2."""
    norm: Literal["frozen_bn", "bn", "sync_bn"] = "frozen_bn"
    """Batch norm: frozen statistics and affine parameters (frozen_bn), trained (bn), or trained with statistics over
    all processes (sync_bn). sync_bn also applies to every trained batch norm of the neck and the box head."""
    norm_eps: Peer[NonNegativeFloat | None] = None
    """Value added to the variance in batch norm; null keeps the network's own (1e-5, MobileNetV3 1e-3). torchvision's
    MobileNetV3 detectors use 1e-5, its published fasterrcnn_resnet50_fpn 0."""
    stride_in_1x1: Peer[bool] = False
    """Bottleneck ResNets: apply the stride of a stage in its first 1x1 convolution (original Caffe networks) instead of
    the 3x3 convolution (torchvision)."""
    dilated_res5: bool = False
    """ResNet without a neck: use res5 with stride 16 and dilation 2 as the feature map (Detectron2's DC5)."""
    stem_pool: Peer[Literal["padded", "ceil"]] = "padded"
    """First pooling layer of ResNet: padded by one pixel, or without padding and rounded up (ceil, Caffe)."""
    neck: Literal["none", "fpn"] = "none"
    """none uses one feature map, the last of strides. fpn builds a feature pyramid over all strides."""
    strides: list[PositiveInt] | None = None
    """Strides of the backbone's feature maps in use. null is [16] without a neck and [4, 8, 16, 32] with one
    (mobilenet_v3_large with FPN: [32, 32], as torchvision)."""
    neck_channels: PositiveInt = 256
    """Number of channels of the pyramid's feature maps."""
    neck_norm: Literal["none", "group", "batch"] = "none"
    """Norm layer after each convolution of the neck: none, group norm, or trained batch norm (batch, torchvision's
    v2)."""
    neck_init: Peer[Literal["caffe2_xavier", "xavier"]] = "caffe2_xavier"
    """Initial weights of the neck, uniform with variance 1 / fan_in (caffe2_xavier: torchvision, Detectron2) or 2 /
    (fan_in + fan_out) (xavier: mmdetection)."""
    extra_level: bool = True
    """With FPN: add a level of twice the coarsest stride by subsampling (P6). Only the RPN uses it."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        strides = self.strides
        if strides is None or (self.name == "mobilenet_v3_large" and self.neck == "fpn" and strides == [32, 32]):
            return self
        if self.neck == "none" and len(strides) != 1:
            raise ValueError(f"neck 'none' uses one map, but strides are {strides}")
        # The level of a region follows from its size alone.
        is_pyramid = all(2 * finer == coarser for finer, coarser in pairwise(strides))
        if self.neck == "fpn" and not (strides and strides[0].bit_count() == 1 and is_pyramid):
            raise ValueError(
                f"neck 'fpn' needs strides that are powers of two, each twice the previous one, not {strides}"
            )
        return self


class AnchorConfig(Section):
    """Anchor boxes of the RPN."""

    sizes: (
        Annotated[list[Annotated[list[PositiveFloat], Field(min_length=1)]], Field(min_length=1)]
        | Annotated[list[PositiveFloat], Field(min_length=1)]
    ) = [128.0, 256.0, 512.0]
    """Square roots of the anchor areas in pixels: one list for all levels, or one list per level."""
    ratios: Annotated[list[PositiveFloat], Field(min_length=1)] = [0.5, 1.0, 2.0]
    """Aspect ratios, height divided by width."""
    rounding: Peer[Literal["none", "torchvision", "caffe"]] = "none"
    """Rounding of anchor sides: none; torchvision rounds half sides to whole pixels; caffe rounds the sides of each
    ratio at size 16 and scales them, as py-faster-rcnn."""
    centre: Peer[Literal["corner", "middle"]] = "corner"
    """Center of an anchor: the upper left corner of its position (torchvision, Detectron2) or the middle
    (py-faster-rcnn, simple-faster-rcnn)."""
    strides_from: Peer[Literal["level", "canvas"]] = "level"
    """Distance between neighboring anchors: the stride of the level, or canvas size // map size as in torchvision (61
    instead of 64 for P6 of an 800-pixel canvas)."""


class TrainTestCount(Section):
    """One number for training, and one for evaluation and prediction."""

    train: PositiveInt
    """Value in training."""
    test: PositiveInt
    """Value in evaluation and prediction."""


class RpnConfig(Section):
    """Region proposal network."""

    channels: PositiveInt | None = None
    """Channels of the 3x3 convolutions; null uses the number of the feature map (VGG16: 512)."""
    convs: PositiveInt = 1
    """Number of 3x3 convolutions; torchvision's v2 has two."""
    objectness: Peer[Literal["sigmoid", "softmax"]] = "sigmoid"
    """Classifier output per anchor: one logit (sigmoid), or one for background and one for object (softmax, the
    paper)."""
    pre_nms_top_n: TrainTestCount = TrainTestCount(train=12000, test=6000)
    """Number of best anchors kept before NMS, per level."""
    post_nms_top_n: TrainTestCount = TrainTestCount(train=2000, test=1000)
    """Number of proposals kept after NMS, per image over all levels."""
    post_nms_top_n_per_level: Peer[TrainTestCount | None] = None
    """Number of proposals kept after NMS per level, before the limit per image; null means no limit."""
    nms_threshold: Fraction = 0.7
    """IoU above which NMS removes the proposal with the lower score."""
    min_box_size: NonNegativeFloat = 1e-3
    """Proposals with a side shorter than this are removed; proposals without area always are."""
    min_box_size_in: Peer[Literal["canvas", "original"]] = "canvas"
    """Unit of min_box_size: pixels of the resized image (canvas) or of the original image (py-faster-rcnn)."""
    score_threshold: Fraction = 0.0
    """Proposals with a lower score are removed."""
    iou_positive: Fraction = 0.7
    """Anchors with at least this IoU with an object are positive."""
    iou_negative: Fraction = 0.3
    """Anchors whose IoU with all objects is lower are negative."""
    iou_low_quality: Fraction = 0.0
    """The best anchors of an object are positive regardless of iou_positive if their IoU reaches this value and is
    above 0 (mmdetection 0.3)."""
    samples_per_image: PositiveInt = 256
    """Number of anchors sampled per image for the losses."""
    positive_fraction: Fraction = 0.5
    """Maximum share of positive anchors in the sample."""
    ignore_overlap: Fraction = 0.5
    """Negative anchors with at least this share of their area in one ignore region are not trained on."""
    inside_only: bool = False
    """Train only on anchors that lie entirely inside the image (the paper)."""
    skip_padding: Peer[bool] = True
    """Exclude anchors centered in the padding of the canvas from proposals and training (torchvision includes them)."""
    smooth_l1_beta: NonNegativeFloat = 1 / 9
    """Transition point of the smooth L1 box loss; 0 is L1."""
    normaliser: Peer[Literal["sampled", "constant"]] = "sampled"
    """Divisor of the losses: the number of sampled anchors, or samples_per_image per image (constant, Detectron2)."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.iou_negative > self.iou_positive:
            raise ValueError(f"iou_negative {self.iou_negative} is above iou_positive {self.iou_positive}")
        return self


class PoolingConfig(Section):
    """Pooling of features inside each region."""

    kind: Literal["roi_align", "roi_pool"] = "roi_align"
    """Pooling operator."""
    size: PositiveInt = 7
    """Height and width of the pooled features."""
    sampling_ratio: NonNegativeInt = 2
    """RoIAlign: samples per bin and axis; 0 is adaptive, ceil(RoI size / bins)."""
    aligned: Peer[bool] = False
    """RoIAlign: shift by half a pixel, so that a pixel's value lies at its center (Detectron2)."""
    canonical_size: PositiveFloat = 224.0
    """Pyramid: side in pixels of a region that is assigned to canonical_level."""
    canonical_level: int = 4
    """Pyramid: level of regions of canonical_size; level k has stride 2**k."""
    level_rule: Peer[Literal["torchvision", "detectron2", "mmdetection"]] = "torchvision"
    """Pyramid: level of a region, floor(level + log2(side / size) + 1e-6) for torchvision, or floor(level +
    log2(side / size + e)) with e = 1e-8 for detectron2 and 2.5e-7 for mmdetection. They differ for sides just below
    a power of two."""


class BoxHeadConfig(Section):
    """Layers between pooling and the final classifier."""

    kind: Literal["two_fc", "conv_fc", "vgg_fc", "res5"] = "two_fc"
    """two_fc: two fully connected layers. conv_fc: convolutions and one fully connected layer. vgg_fc: fc6 and fc7 of
    VGG16. res5: res5 of ResNet with average pooling."""
    channels: PositiveInt = 1024
    """Width of the fully connected layers of two_fc and conv_fc."""
    convs: NonNegativeInt = 0
    """Number of 3x3 convolutions before the fully connected layers of two_fc and conv_fc."""
    norm: Literal["none", "group", "batch"] = "none"
    """Norm layer after each of these convolutions: none, group norm, or trained batch norm (batch, torchvision's
    v2)."""
    init: Peer[Literal["pytorch", "caffe2_xavier", "xavier"]] = "pytorch"
    """Initial weights of the fully connected layers of two_fc and conv_fc, uniform with variance 1 / (3 fan_in)
    (pytorch), 1 / fan_in (caffe2_xavier, Detectron2) or 2 / (fan_in + fan_out) (xavier, mmdetection)."""
    dropout: Fraction = 0.5
    """vgg_fc only: dropout probability after each layer."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.norm != "none" and self.convs == 0:
            raise ValueError(f"norm {self.norm!r} belongs to the head's convolutions, but convs is 0")
        if self.convs and self.kind not in ("two_fc", "conv_fc"):
            raise ValueError(f"convs {self.convs} needs kind 'two_fc' or 'conv_fc', not {self.kind!r}")
        if self.init != "pytorch" and self.kind not in ("two_fc", "conv_fc"):
            raise ValueError(f"init {self.init!r} needs kind 'two_fc' or 'conv_fc', not {self.kind!r}")
        return self


class RoiConfig(Section):
    """Second stage: sampling of regions, pooling and box head."""

    samples_per_image: PositiveInt = 512
    """Number of regions sampled per image for the losses."""
    positive_fraction: Fraction = 0.25
    """Maximum share of foreground regions in the sample."""
    iou_positive: Fraction = 0.5
    """Regions with at least this IoU with an object are foreground."""
    iou_negative_low: Fraction = 0.0
    """Background regions have an IoU in [iou_negative_low, iou_positive)."""
    ignore_overlap: Fraction = 0.5
    """Background regions with at least this share of their area in one ignore region are not sampled."""
    add_ground_truth: bool = True
    """Add the ground-truth boxes to the proposals in training."""
    pooling: PoolingConfig = PoolingConfig()
    head: BoxHeadConfig = BoxHeadConfig()
    predictor_init: Peer[Literal["normal", "pytorch"]] = "normal"
    """Initial weights of the last two layers: normal with standard deviation 0.01 (classes) and 0.001 (boxes), or
    PyTorch's default (torchvision)."""
    class_agnostic: bool = False
    """Predict one box for all classes instead of one box per class."""
    box_weights: tuple[PositiveFloat, PositiveFloat, PositiveFloat, PositiveFloat] = (10.0, 10.0, 5.0, 5.0)
    """Factors of the box targets dx, dy, dw, dh (1 / standard deviation)."""
    smooth_l1_beta: NonNegativeFloat = 1.0
    """Transition point of the smooth L1 box loss; 0 is L1."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.iou_negative_low > self.iou_positive:
            raise ValueError(f"iou_negative_low {self.iou_negative_low} is above iou_positive {self.iou_positive}")
        return self


class DetectConfig(Section):
    """Final detections."""

    score_threshold: Fraction = 0.05
    """Detections with a lower score are removed."""
    nms_threshold: Fraction = 0.5
    """IoU above which NMS removes the detection of the same class with the lower score."""
    max_detections: PositiveInt = 100
    """Maximum number of detections per image."""
    pre_nms_top_n: PositiveInt = 4096
    """Number of best (box, class) pairs above the threshold that enter NMS."""
    min_box_size: Peer[NonNegativeFloat] = 1e-2
    """Detections with a side shorter than this many canvas pixels are removed."""


class ModelConfig(Section):
    """The detector."""

    backbone: BackboneConfig = BackboneConfig()
    anchors: AnchorConfig = AnchorConfig()
    rpn: RpnConfig = RpnConfig()
    roi: RoiConfig = RoiConfig()
    detect: DetectConfig = DetectConfig()
    max_growth: Peer[Annotated[float, Field(gt=1)] | None] = 62.5
    """Maximum ratio of a side of a decoded box to the same side of its anchor or proposal; null means no limit."""
    plus_one: Peer[bool] = False
    """Use the box arithmetic of the Caffe code, in which boxes are whole pixels and widths are x2 - x1 + 1 (see
    docs/numerics.md)."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        backbone, kind = self.backbone, self.roi.head.kind
        if kind in ("two_fc", "conv_fc"):
            return self
        networks = {"vgg_fc": ("vgg16",), "res5": ("resnet", "resnext")}[kind]
        if not backbone.name.startswith(networks):
            raise ValueError(f"roi.head.kind {kind!r} needs a {' or '.join(networks)} backbone, not {backbone.name!r}")
        if backbone.neck != "none" or backbone.strides not in (None, [16]):
            raise ValueError(
                f"roi.head.kind {kind!r} continues from the map of stride 16; "
                "set backbone.neck: none and remove backbone.strides"
            )
        if kind == "vgg_fc" and self.roi.pooling.size != 7:
            raise ValueError(f"roi.head.kind 'vgg_fc' needs roi.pooling.size 7, not {self.roi.pooling.size}")
        return self
