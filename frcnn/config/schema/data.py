"""The section `data`: sources, preprocessing, loading."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator
from typing_extensions import Self

from frcnn.config.schema.section import Fraction, Section


class VocSource(Section):
    """A data set in Pascal VOC layout: Annotations/, JPEGImages/ and ImageSets/Main/ below one root."""

    format: Literal["voc"]
    root: Path
    """Folder that holds Annotations, JPEGImages and ImageSets."""
    split: str = "trainval"
    """Name of the list in ImageSets/Main, without .txt."""
    difficult: Literal["ignore", "keep", "drop"] = "ignore"
    """Difficult objects in training: ignore regions, ordinary objects, or left out. Evaluation always ignores them."""
    coordinates: Literal["edges", "minus_one"] = "edges"
    """How 1-based inclusive pixels become boxes: xmin-1, ymin-1, xmax, ymax, the edges of the pixels (Detectron2), or 1
    taken from all four, which makes boxes a pixel smaller (simple-faster-rcnn)."""


class CocoSource(Section):
    """A data set with one COCO instances file."""

    format: Literal["coco"]
    images: Path
    """Folder of the images; `file_name` of the annotations is relative to it."""
    annotations: Path
    """The instances JSON."""
    crowd: Literal["ignore", "drop"] = "ignore"
    """Crowds in training: ignore regions, or left out (torchvision, Detectron2). Evaluation always ignores them."""


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
    """Class names in label order; annotations of other classes are left out, in training and evaluation. null takes all
    classes: the categories (COCO), or the names in the annotations, sorted (VOC)."""
    empty: Literal["keep", "drop", "drop_crowd_only"] = "keep"
    """Training images without objects: background, or left out. drop leaves out images without any annotation of the
    classes (torchvision, mmdetection); drop_crowd_only also those in which only crowds, or difficult objects that are
    not ordinary ones, are annotated (Detectron2). Evaluation keeps all images."""
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
    sampling: Literal["uniform", "class_balanced", "repeat_factor"] = "uniform"
    """What an epoch of training holds. uniform: each image once. repeat_factor: images of rare classes several times
    (LVIS). class_balanced: as many draws as images, each of a class, all alike, and then of an image that holds it."""
    repeat_threshold: Annotated[float, Field(gt=0, le=1)] = 0.001
    """repeat_factor only: an image of a class in a share f of all images comes sqrt(repeat_threshold / f) times an
    epoch, and once where that is less."""
    aspect_ratio_grouping: bool = True
    """Batches of only wide or only tall images, which saves padding."""
    workers: NonNegativeInt = 2
    """Loader processes on each rank."""
    prefetch: PositiveInt = 2
    """Batches each worker prepares ahead."""
    channels: Literal["rgb", "bgr"] = "rgb"
    """Order in which the network gets the colours; weights from Caffe want bgr."""
    mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
    """Of each channel, in the order of `channels`, on the scale 0..255; subtracted on the device."""
    std: tuple[PositiveFloat, PositiveFloat, PositiveFloat] = (58.395, 57.12, 57.375)
    """Standard deviation of each channel, in the order of `channels`, on the scale 0..255."""

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
