"""The section `model`: backbone, anchors, RPN, box head, detection."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator
from typing_extensions import Self

from frcnn.config.schema.section import Fraction, Section


class BackboneConfig(Section):
    name: str = "resnet50"
    """vgg16, resnet18, resnet34, resnet50, resnet101, resnet152, resnext50_32x4d, resnext101_32x8d,
    mobilenet_v3_large, or timm/NAME (extra `timm`)."""
    weights: str | None = "imagenet"
    """imagenet (fetched by torchvision or timm into their cache), a path to a state dict or checkpoint, or null."""
    frozen_stages: NonNegativeInt = 2
    """Stages, counted from the stem, that are not trained. ResNet: 1 is the stem, 2 adds res2. VGG16: conv1, conv2."""
    norm: Literal["frozen_bn", "bn", "sync_bn"] = "frozen_bn"
    """Batch norm: frozen statistics and affine parameters, trained (bn), or trained with statistics over all processes
    (sync_bn). sync_bn also applies to every trained batch norm of the neck and the box head."""
    norm_eps: NonNegativeFloat | None = None
    """Added to batch norm's variance; null keeps the network's own (1e-5, MobileNetV3 1e-3). torchvision's MobileNetV3
    detectors use 1e-5, its published fasterrcnn_resnet50_fpn 0."""
    stride_in_1x1: bool = False
    """ResNet with bottlenecks: the stride of a stage sits in its first 1x1 convolution (the original Caffe networks)
    and not in the 3x3 (torchvision's)."""
    dilated_res5: bool = False
    """ResNet without a neck: res5 at stride 16 with dilation 2 is the map (Detectron2's DC5)."""
    stem_pool: Literal["padded", "ceil"] = "padded"
    """ResNet's first pool: padded by one pixel, or not padded and rounded up (Caffe)."""
    neck: Literal["none", "fpn"] = "none"
    """One map (the last of `strides`) or a feature pyramid over all of `strides`."""
    strides: list[PositiveInt] | None = None
    """Strides of the backbone's maps that are used; null is [16] without a neck and [4, 8, 16, 32] with one
    (mobilenet_v3_large with FPN: [32, 32], as torchvision)."""
    neck_channels: PositiveInt = 256
    neck_norm: Literal["none", "group", "batch"] = "none"
    """After each convolution of the neck; batch is trained batch norm (torchvision's v2)."""
    neck_init: Literal["caffe2_xavier", "xavier"] = "caffe2_xavier"
    """Uniform weights of variance 1 / fan_in (torchvision, Detectron2), or 2 / (fan_in + fan_out) (mmdetection)."""
    extra_level: bool = True
    """With FPN: one more level of twice the stride, by subsampling the coarsest (P6), for the RPN only."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.strides is not None:
            if not self.strides or self.strides != sorted(self.strides):
                raise ValueError(f"strides {self.strides} must ascend, the finest map first")
            if self.neck == "none" and len(self.strides) > 1:
                raise ValueError(f"neck 'none' uses one map, but strides are {self.strides}")
        return self


class AnchorConfig(Section):
    sizes: (
        Annotated[list[Annotated[list[PositiveFloat], Field(min_length=1)]], Field(min_length=1)]
        | Annotated[list[PositiveFloat], Field(min_length=1)]
    ) = [128.0, 256.0, 512.0]
    """Square roots of the areas, in pixels: one list for every level alike, or a list for each level."""
    ratios: Annotated[list[PositiveFloat], Field(min_length=1)] = [0.5, 1.0, 2.0]
    """Height divided by width."""
    rounding: Literal["none", "torchvision", "caffe"] = "none"
    """torchvision rounds half sizes to whole pixels; caffe rounds the sides for each ratio at size 16 and scales them
    up, as py-faster-rcnn does."""
    centre: Literal["corner", "middle"] = "corner"
    """Anchors are centred on the upper left corner of their position (torchvision, Detectron2) or in its middle
    (py-faster-rcnn, simple-faster-rcnn)."""
    strides_from: Literal["level", "canvas"] = "level"
    """Distance of neighbouring anchors: the level's stride, or canvas size // map size as torchvision computes it
    (61 instead of 64 for P6 of an 800-pixel canvas)."""


class TrainTestCount(Section):
    train: PositiveInt
    test: PositiveInt


class RpnConfig(Section):
    channels: PositiveInt | None = None
    """Channels of the 3x3 convolution; null keeps those of the feature map (VGG16: 512)."""
    convs: PositiveInt = 1
    """3x3 convolutions; torchvision's v2 has two."""
    objectness: Literal["sigmoid", "softmax"] = "sigmoid"
    """One logit an anchor, or one for background and one for object (the paper)."""
    pre_nms_top_n: TrainTestCount = TrainTestCount(train=12000, test=6000)
    """Best anchors kept before NMS, on each level."""
    post_nms_top_n: TrainTestCount = TrainTestCount(train=2000, test=1000)
    """Proposals kept after NMS, for each image over all levels."""
    post_nms_top_n_per_level: TrainTestCount | None = None
    """Proposals kept after NMS on each level, before the limit for the image; null is no limit."""
    nms_threshold: Fraction = 0.7
    min_box_size: NonNegativeFloat = 1e-3
    """Proposals narrower or lower than this are dropped; those without area always are."""
    min_box_size_in: Literal["canvas", "original"] = "canvas"
    """Pixels that min_box_size counts: of the resized image, or of the original (py-faster-rcnn)."""
    score_threshold: Fraction = 0.0
    """Proposals less probable than this are dropped."""
    iou_positive: Fraction = 0.7
    iou_negative: Fraction = 0.3
    iou_low_quality: Fraction = 0.0
    """An object's best anchors are positive whatever their IoU, if it reaches this and is above 0 (mmdetection 0.3)."""
    samples_per_image: PositiveInt = 256
    positive_fraction: Fraction = 0.5
    ignore_overlap: Fraction = 0.5
    """Background anchors with at least this share of their area in one ignore region are not trained on."""
    inside_only: bool = False
    """Train only on anchors that lie wholly inside the image (the paper's rule)."""
    skip_padding: bool = True
    """Never propose from, and never train on, anchors centred in the padded part of the canvas (torchvision does)."""
    smooth_l1_beta: NonNegativeFloat = 1 / 9
    """0 is plain L1."""
    normaliser: Literal["sampled", "constant"] = "sampled"
    """The losses are divided by the anchors that were sampled, or by samples_per_image for each image (Detectron2)."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.iou_negative > self.iou_positive:
            raise ValueError(f"iou_negative {self.iou_negative} is above iou_positive {self.iou_positive}")
        return self


class PoolingConfig(Section):
    kind: Literal["roi_align", "roi_pool"] = "roi_align"
    size: PositiveInt = 7
    sampling_ratio: NonNegativeInt = 2
    """RoIAlign: samples a bin and axis; 0 is adaptive, ceil(RoI size / bins)."""
    aligned: bool = False
    """RoIAlign: shift by half a pixel, so that a pixel's value sits at its centre (Detectron2)."""
    canonical_size: PositiveFloat = 224.0
    """Pyramid: the RoI side that goes to the canonical level."""
    canonical_level: int = 4
    """Pyramid: level k has stride 2**k."""
    level_rule: Literal["torchvision", "detectron2", "mmdetection"] = "torchvision"
    """Pyramid: floor(level + log2(side / size) + 1e-6), or floor(level + log2(side / size + e)), e = 1e-8 or 2.5e-7;
    they differ for sides a few parts in ten million below a power of two."""


class BoxHeadConfig(Section):
    kind: Literal["two_fc", "conv_fc", "vgg_fc", "res5"] = "two_fc"
    """Two fully connected layers; convolutions and one fully connected layer; VGG16's fc6 and fc7; ResNet's res5 with
    average pooling."""
    channels: PositiveInt = 1024
    """Width of the fully connected layers of two_fc and conv_fc."""
    convs: NonNegativeInt = 0
    """3x3 convolutions before the fully connected layers of two_fc and conv_fc."""
    norm: Literal["none", "group", "batch"] = "none"
    """After each of these convolutions; batch is trained batch norm (torchvision's v2)."""
    init: Literal["pytorch", "caffe2_xavier", "xavier"] = "pytorch"
    """First weights of the fully connected layers of two_fc and conv_fc: uniform of variance 1 / (3 fan_in), 1 / fan_in
    (Detectron2) or 2 / (fan_in + fan_out) (mmdetection)."""
    dropout: Fraction = 0.5
    """vgg_fc only."""

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
    samples_per_image: PositiveInt = 512
    positive_fraction: Fraction = 0.25
    iou_positive: Fraction = 0.5
    iou_negative_low: Fraction = 0.0
    """Background is IoU in [iou_negative_low, iou_positive)."""
    ignore_overlap: Fraction = 0.5
    """Background regions with at least this share of their area in one ignore region are not sampled."""
    add_ground_truth: bool = True
    """Ground truth joins the proposals in training."""
    pooling: PoolingConfig = PoolingConfig()
    head: BoxHeadConfig = BoxHeadConfig()
    predictor_init: Literal["normal", "pytorch"] = "normal"
    """First weights of the last two layers: normal of deviation 0.01 (classes) and 0.001 (boxes), or as PyTorch draws
    them (torchvision)."""
    class_agnostic: bool = False
    """One box for all classes instead of one each."""
    box_weights: tuple[PositiveFloat, PositiveFloat, PositiveFloat, PositiveFloat] = (10.0, 10.0, 5.0, 5.0)
    """Factors of the box targets dx, dy, dw, dh (1 / standard deviation)."""
    smooth_l1_beta: NonNegativeFloat = 1.0
    """0 is plain L1."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.iou_negative_low > self.iou_positive:
            raise ValueError(f"iou_negative_low {self.iou_negative_low} is above iou_positive {self.iou_positive}")
        return self


class DetectConfig(Section):
    score_threshold: Fraction = 0.05
    nms_threshold: Fraction = 0.5
    max_detections: PositiveInt = 100
    pre_nms_top_n: PositiveInt = 4096
    """Best (box, class) pairs above the threshold that enter NMS."""
    min_box_size: NonNegativeFloat = 1e-2
    """Detections narrower or lower than this many canvas pixels are dropped."""


class ModelConfig(Section):
    backbone: BackboneConfig = BackboneConfig()
    anchors: AnchorConfig = AnchorConfig()
    rpn: RpnConfig = RpnConfig()
    roi: RoiConfig = RoiConfig()
    detect: DetectConfig = DetectConfig()
    max_growth: Annotated[float, Field(gt=1)] | None = 62.5
    """Neither side of a decoded box is longer than this many times that of its anchor or proposal; null is no bound."""
    plus_one: bool = False
    """The arithmetic of the Caffe code, whose boxes are whole pixels and whose widths are x2 - x1 + 1: see
    docs/numerics.md."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        backbone, kind = self.backbone, self.roi.head.kind
        if kind in ("two_fc", "conv_fc"):
            return self
        wanted = "vgg16" if kind == "vgg_fc" else "resnet"
        if not backbone.name.startswith(wanted):
            raise ValueError(f"roi.head.kind {kind!r} needs a {wanted} backbone, not {backbone.name!r}")
        if backbone.neck != "none" or backbone.strides not in (None, [16]):
            raise ValueError(f"roi.head.kind {kind!r} works on the stride-16 map: backbone.neck none, strides [16]")
        if kind == "vgg_fc" and self.roi.pooling.size != 7:
            raise ValueError(f"roi.head.kind 'vgg_fc' needs roi.pooling.size 7, not {self.roi.pooling.size}")
        return self
