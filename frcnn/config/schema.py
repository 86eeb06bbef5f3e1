"""Every key of a config, with its type, its default and what it does.

The strings below the fields are the one description of each key: they become the descriptions in the JSON Schema that
editors show. Defaults follow Ren et al. 2015 where the paper speaks, torchvision's reference where it does not.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)
from typing_extensions import Self

Fraction = Annotated[float, Field(ge=0, le=1)]


class Section(BaseModel):
    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=False,
        use_attribute_docstrings=True,
        validate_default=True,
        allow_inf_nan=False,
    )

    @model_validator(mode="before")
    @classmethod
    def _true_is_no_number(cls, values: Any) -> Any:
        """Python and pydantic take true for 1; in a config it is a slip."""
        for name, value in values.items() if isinstance(values, dict) else ():
            field = cls.model_fields.get(name)
            if isinstance(value, bool) and field is not None and field.annotation is not bool:
                raise ValueError(f"{name} cannot be {str(value).lower()}")
        return values


# ---------------------------------------------------------------------------------------------------------------- data


class VocSource(Section):
    """A data set in Pascal VOC layout: Annotations/, JPEGImages/ and ImageSets/Main/ below one root."""

    format: Literal["voc"]
    root: Path
    """Folder that holds Annotations, JPEGImages and ImageSets."""
    split: str = "trainval"
    """Name of the list in ImageSets/Main, without .txt."""
    difficult: Literal["ignore", "keep", "drop"] = "ignore"
    """Difficult objects in training: ignore regions, ordinary objects, or left out. Evaluation always ignores them."""


class CocoSource(Section):
    """A data set with one COCO instances file."""

    format: Literal["coco"]
    images: Path
    """Folder of the images; `file_name` of the annotations is relative to it."""
    annotations: Path
    """The instances JSON."""


class ShapesSource(Section):
    """The demo set: shapes on textured ground, drawn on the fly from a seed."""

    format: Literal["shapes"]
    num_images: PositiveInt = 500
    seed: NonNegativeInt = 0
    """Another seed is another set of images."""
    height: Annotated[int, Field(ge=64)] = 256
    width: Annotated[int, Field(ge=64)] = 256


Source = Annotated[VocSource | CocoSource | ShapesSource, Field(discriminator="format")]


class JitterConfig(Section):
    """Photometric jitter: each factor is drawn from [1 - x, 1 + x], hue from [-x, x]. 0 is off."""

    brightness: Fraction = 0.0
    contrast: Fraction = 0.0
    saturation: Fraction = 0.0
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.0


class DataConfig(Section):
    train: Source | Annotated[list[Source], Field(min_length=1)]
    """The training set, or a list of sets that are joined (VOC 07+12)."""
    val: Source
    """The set that `train` evaluates on and `eval` reads by default."""
    classes: list[str] | None = None
    """Class names in label order; null takes them from the categories (COCO) or from the annotations, sorted (VOC)."""
    on_error: Literal["raise", "skip"] = "raise"
    """An unusable image or annotation: stop with an error that names it, or warn once, leave it out and count it."""
    short_side: PositiveInt | Annotated[list[PositiveInt], Field(min_length=1)] = 600
    """Training: the short side in pixels after the resize; from a list one is drawn for each image."""
    long_side: PositiveInt = 1000
    """Training: the long side may not pass this; the short side then comes out smaller."""
    test_short_side: PositiveInt | None = None
    """Evaluation and prediction; null takes the largest of `short_side`."""
    test_long_side: PositiveInt | None = None
    """Evaluation and prediction; null takes `long_side`."""
    flip: Fraction = 0.5
    """Probability of a horizontal flip in training."""
    vertical_flip: Fraction = 0.0
    """Probability of a vertical flip in training, for images without an upright, as of a microscope or a satellite."""
    jitter: JitterConfig = JitterConfig()
    aspect_ratio_grouping: bool = True
    """Batches of only wide or only tall images, which saves padding."""
    workers: NonNegativeInt = 2
    """Loader processes on each rank."""
    prefetch: PositiveInt = 2
    """Batches each worker prepares ahead."""
    mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
    """RGB mean on the scale 0..255, subtracted on the device."""
    std: tuple[PositiveFloat, PositiveFloat, PositiveFloat] = (58.395, 57.12, 57.375)
    """RGB standard deviation on the scale 0..255."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        largest = max(self.short_sides)
        if largest > self.long_side:
            raise ValueError(f"short_side {largest} is above long_side {self.long_side}")
        short, long = self.test_sides
        if short > long:
            raise ValueError(f"at test the short side {short} is above the long side {long}")
        return self

    @property
    def short_sides(self) -> list[int]:
        """`short_side` as a list, whichever way it is written."""
        return self.short_side if isinstance(self.short_side, list) else [self.short_side]

    @property
    def test_sides(self) -> tuple[int, int]:
        """Short and long side of evaluation and prediction."""
        return self.test_short_side or max(self.short_sides), self.test_long_side or self.long_side


# --------------------------------------------------------------------------------------------------------------- model


class BackboneConfig(Section):
    name: str = "resnet50"
    """vgg16, resnet18, resnet34, resnet50, resnet101, mobilenet_v3_large, or timm/NAME (extra `timm`)."""
    weights: str | None = "imagenet"
    """imagenet (fetched by torchvision or timm into their cache), a path to a state dict or checkpoint, or null."""
    frozen_stages: NonNegativeInt = 2
    """Stages, counted from the stem, that are not trained. ResNet: 1 is the stem, 2 adds res2. VGG16: conv1, conv2."""
    norm: Literal["frozen_bn", "bn"] = "frozen_bn"
    """Batch norm with fixed statistics and affine, or trained as usual."""
    neck: Literal["none", "fpn"] = "none"
    """One map (the last of `strides`) or a feature pyramid over all of `strides`."""
    strides: list[PositiveInt] | None = None
    """Strides of the backbone's maps that are used; null is [16] without a neck and [4, 8, 16, 32] with one
    (mobilenet_v3_large with FPN: [32, 32], as torchvision)."""
    neck_channels: PositiveInt = 256
    neck_norm: Literal["none", "group"] = "none"
    """Group norm after each convolution of the neck."""
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
    rounding: Literal["none", "torchvision"] = "none"
    """torchvision rounds the half sizes of its cell anchors to whole pixels."""
    strides_from: Literal["level", "canvas"] = "level"
    """Distance of neighbouring anchors: the level's stride, or canvas size // map size as torchvision computes it
    (61 instead of 64 for P6 of an 800-pixel canvas)."""


class TrainTestCount(Section):
    train: PositiveInt
    test: PositiveInt


class RpnConfig(Section):
    channels: PositiveInt | None = None
    """Channels of the 3x3 convolution; null keeps those of the feature map (VGG16: 512)."""
    pre_nms_top_n: TrainTestCount = TrainTestCount(train=12000, test=6000)
    """Best anchors kept before NMS, on each level."""
    post_nms_top_n: TrainTestCount = TrainTestCount(train=2000, test=1000)
    """Proposals kept after NMS, for each image over all levels."""
    nms_threshold: Fraction = 0.7
    min_box_size: NonNegativeFloat = 1e-3
    """Proposals narrower or lower than this many canvas pixels are dropped."""
    iou_positive: Fraction = 0.7
    iou_negative: Fraction = 0.3
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


class BoxHeadConfig(Section):
    kind: Literal["two_fc", "vgg_fc", "res5"] = "two_fc"
    """Two fully connected layers; VGG16's fc6 and fc7; ResNet's res5 with average pooling."""
    channels: PositiveInt = 1024
    """Width of the fully connected layers of two_fc."""
    convs: NonNegativeInt = 0
    """3x3 convolutions before the fully connected layers of two_fc."""
    norm: Literal["none", "group"] = "none"
    """Group norm after each of these convolutions."""
    dropout: Fraction = 0.5
    """vgg_fc only."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.norm != "none" and self.convs == 0:
            raise ValueError(f"norm {self.norm!r} belongs to the head's convolutions, but convs is 0")
        if self.convs and self.kind != "two_fc":
            raise ValueError(f"convs {self.convs} needs kind 'two_fc', not {self.kind!r}")
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

    @model_validator(mode="after")
    def _check(self) -> Self:
        backbone, kind = self.backbone, self.roi.head.kind
        if kind == "two_fc":
            return self
        wanted = "vgg16" if kind == "vgg_fc" else "resnet"
        if not backbone.name.startswith(wanted):
            raise ValueError(f"roi.head.kind {kind!r} needs a {wanted} backbone, not {backbone.name!r}")
        if backbone.neck != "none" or backbone.strides not in (None, [16]):
            raise ValueError(f"roi.head.kind {kind!r} works on the stride-16 map: backbone.neck none, strides [16]")
        if kind == "vgg_fc" and self.roi.pooling.size != 7:
            raise ValueError(f"roi.head.kind 'vgg_fc' needs roi.pooling.size 7, not {self.roi.pooling.size}")
        return self


# --------------------------------------------------------------------------------------------------------------- train


class ScheduleConfig(Section):
    kind: Literal["multistep", "cosine", "constant"] = "multistep"
    milestones: list[Fraction] = [2 / 3, 8 / 9]
    """multistep: shares of the whole training at which lr is multiplied by gamma."""
    gamma: PositiveFloat = 0.1
    warmup_steps: NonNegativeInt = 0
    """Linear warm-up from lr * warmup_factor."""
    warmup_factor: Annotated[float, Field(ge=0, le=1)] = 0.001
    final_factor: Fraction = 0.0
    """cosine: lr at the end as a share of the peak."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.milestones != sorted(set(self.milestones)):
            raise ValueError(f"milestones {self.milestones} must ascend")
        return self


class TrainConfig(Section):
    epochs: PositiveInt | None = None
    """Length in passes over the data; exactly one of `epochs` and `steps` is set."""
    steps: PositiveInt | None = None
    """Length in optimiser steps."""
    batch_size: PositiveInt = 2
    """Images in one optimiser step, over all ranks and accumulated parts together."""
    accumulate: PositiveInt = 1
    """Parts a rank's share of the batch is split into, one backward pass each."""
    seed: NonNegativeInt = 0
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: PositiveFloat = 0.001
    momentum: Fraction = 0.9
    """sgd only."""
    weight_decay: NonNegativeFloat = 5e-4
    norm_weight_decay: NonNegativeFloat = 0.0
    """Decay of the affine parameters of norm layers."""
    bias_weight_decay: NonNegativeFloat = 0.0
    bias_lr_factor: PositiveFloat = 1.0
    """lr of biases as a multiple of lr (2 in the Caffe code of the paper)."""
    schedule: ScheduleConfig = ScheduleConfig()
    clip_grad_norm: PositiveFloat | None = None
    precision: Literal["float32", "bf16", "fp16"] = "float32"
    """Autocast type; fp16 needs a GPU."""
    device: str = "auto"
    """auto is the GPU where there is one, else cpu."""
    channels_last: bool = False
    """Convolutions in the memory layout NHWC: a gain on a GPU under autocast and for depthwise backbones on a CPU."""
    log_every: PositiveInt = 20
    """Steps between two entries of metrics.jsonl and TensorBoard."""
    eval_every: PositiveInt | None = None
    """Steps between evaluations; null is after each epoch."""
    checkpoint_every: PositiveInt | None = None
    """Steps between writes of last.pt; null is after each epoch."""
    best_metric: Literal["AP", "AP50", "voc_mAP"] = "AP"
    """What best.pt is chosen by: COCO AP, COCO AP50 or VOC mAP (area)."""
    num_logged_images: NonNegativeInt = 4
    """Images drawn with detections and ground truth at each evaluation."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.epochs is None) == (self.steps is None):
            raise ValueError("set exactly one of epochs and steps")
        if self.batch_size % self.accumulate:
            raise ValueError(f"batch_size {self.batch_size} cannot be split into {self.accumulate} equal parts")
        if self.precision == "fp16" and self.device == "cpu":
            raise ValueError("precision 'fp16' needs a GPU; on the cpu take 'bf16' or 'float32'")
        return self


class EvalConfig(Section):
    batch_size: PositiveInt = 1
    """Images at a time on each rank."""


class Config(Section):
    """A whole experiment."""

    data: DataConfig
    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig(epochs=12)
    eval: EvalConfig = EvalConfig()
