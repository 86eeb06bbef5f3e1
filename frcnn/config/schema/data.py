"""The section `data`: sources, preprocessing, loading."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, NonNegativeInt, PositiveFloat, PositiveInt, ValidationInfo, model_validator
from typing_extensions import Self

from frcnn.config.schema.section import Fraction, Peer, Section
from frcnn.files.code import ImportPath, parse_import_path

GIVEN = "given"
"""Key of the validation context: the strings in the config files and overrides that the user passed."""


def _to_import_path(text: str, info: ValidationInfo) -> str:
    return parse_import_path(text, given=(info.context or {}).get(GIVEN, frozenset()))


CodePath = Annotated[str, AfterValidator(_to_import_path)]
"""An import path, `package.module:attribute`."""


class SourceSection(Section):
    """Properties that the datasets of all formats have in common."""

    @property
    def regions(self) -> Literal["ignore", "keep", "drop"]:
        """How training treats crowds and difficult objects."""
        return "ignore"

    @property
    def results_split(self) -> str | None:
        """The split in the names of VOC results files; None for formats without splits."""
        return None

    @property
    def far_shift(self) -> int:
        """Number of pixels by which the far edges x2, y2 of boxes lie before the edges of the continuous box."""
        return 0


class VocSource(SourceSection):
    """A dataset in Pascal VOC layout: Annotations/, JPEGImages/ and ImageSets/Main/ below one root."""

    format: Literal["voc"]
    """Selects Pascal VOC layout."""
    root: Path
    """Folder that contains Annotations, JPEGImages and ImageSets."""
    split: str = "trainval"
    """Name of the image list in ImageSets/Main, without .txt."""
    difficult: Literal["ignore", "keep", "drop"] = "ignore"
    """How training treats difficult objects: as ignore regions, as ordinary objects (keep), or not at all (drop).
    Evaluation always ignores them."""
    coordinates: Peer[Literal["edges", "minus_one"]] = "edges"
    """How 1-based inclusive pixels become boxes: edges gives xmin-1, ymin-1, xmax, ymax (Detectron2); minus_one
    subtracts 1 from all four, which makes boxes one pixel smaller (simple-faster-rcnn)."""

    @property
    def regions(self) -> Literal["ignore", "keep", "drop"]:
        return self.difficult

    @property
    def results_split(self) -> str:
        return self.split

    @property
    def far_shift(self) -> int:
        return 1 if self.coordinates == "minus_one" else 0


class CocoSource(SourceSection):
    """A dataset with one COCO instances file."""

    format: Literal["coco"]
    """Selects COCO format."""
    images: Path
    """Folder of the images; file_name in the annotations is relative to it."""
    annotations: Path
    """Path of the instances JSON file."""
    crowd: Literal["ignore", "drop"] = "ignore"
    """How training treats crowd annotations: as ignore regions, or not at all (drop, as torchvision and Detectron2).
    Evaluation always ignores them."""

    @property
    def regions(self) -> Literal["ignore", "drop"]:
        return self.crowd


class YoloSource(SourceSection):
    """A dataset in a YOLO layout of Ultralytics: one label file per image, with or without data.yaml."""

    format: Literal["yolo"]
    """Selects YOLO layout."""
    root: Path | None = None
    """Folder of the dataset. It contains data.yaml, or the images in images/SPLIT, SPLIT/images, SPLIT or images."""
    data: Path | None = None
    """Path of a data.yaml, instead of root."""
    split: str | None = None
    """train, val, test or another entry of data.yaml or folder of images; val and valid are the same. null is for a
    dataset without splits: the images are in root/images or root."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.root is None) == (self.data is None):
            raise ValueError("give either root, the folder of the dataset, or data, the path of its data.yaml")
        return self


class CsvSource(SourceSection):
    """A dataset with one CSV file that has a row per box."""

    format: Literal["csv"]
    """Selects CSV format."""
    images: Path
    """Folder of the images; paths in the annotations are relative to it or to the folder of the annotations."""
    annotations: Path
    """Path of the CSV file, with or without a header."""
    classes_file: Path | None = None
    """CSV file with the rows name,id that declares the classes. null uses the names in the annotations, sorted."""


class OpenImagesSource(SourceSection):
    """A dataset in the CSV files of OpenImages. Boxes with IsGroupOf are ignore regions."""

    format: Literal["openimages"]
    """Selects OpenImages format."""
    images: Path
    """Folder of the images, named ImageID.jpg or with another suffix of an image."""
    boxes: Path
    """Path of the CSV file of the boxes."""
    classes: Path
    """Path of the CSV file with the rows id,name of the classes."""


class ShapesSource(SourceSection):
    """The demo dataset: shapes on textured backgrounds, drawn on the fly from a seed."""

    format: Literal["shapes"]
    """Selects the demo dataset."""
    num_images: PositiveInt = 500
    """Number of images."""
    seed: NonNegativeInt = 0
    """Seed of the images; each seed gives a different set."""
    height: Annotated[int, Field(ge=64)] = 256
    """Height of the images in pixels."""
    width: Annotated[int, Field(ge=64)] = 256
    """Width of the images in pixels."""


class PythonSource(SourceSection):
    """Your own dataset class."""

    format: Literal["python"]
    """Selects a dataset class named by import path."""
    dataset: CodePath
    """Import path package.module:name of a DetectionDataset, or of a function that returns one."""
    arguments: dict[str, Any] = {}
    """Keyword arguments of the class or function."""


Source = Annotated[
    VocSource | CocoSource | YoloSource | CsvSource | OpenImagesSource | ShapesSource | PythonSource,
    Field(discriminator="format"),
]
"""The data formats. `frcnn.data.build_data.READERS` has the reader of each."""


class JitterConfig(Section):
    """Photometric jitter in training. 0 turns a change off."""

    brightness: Fraction = 0.0
    """Brightness is multiplied by a factor drawn from [1 - x, 1 + x]."""
    contrast: Fraction = 0.0
    """Contrast is multiplied by a factor drawn from [1 - x, 1 + x]."""
    saturation: Fraction = 0.0
    """Saturation is multiplied by a factor drawn from [1 - x, 1 + x]."""
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    """Hue is shifted by a share of the color circle drawn from [-x, x]."""


class DataConfig(Section):
    """Datasets, preprocessing and loading."""

    train: Source | Annotated[list[Source], Field(min_length=1)]
    """Training set, or a list of sets that are joined (VOC 07+12)."""
    val: Source
    """Set that train evaluates on and that eval reads by default."""
    classes: list[str] | None = None
    """Class names in label order. Annotations of other classes are skipped in training and evaluation. null uses all
    classes: those that the files declare (COCO), or else the names in the annotations, sorted (VOC)."""
    empty: Literal["keep", "drop", "drop_crowd_only"] = "keep"
    """Training images without objects: keep uses them as background. drop skips images without any annotation of the
    classes (torchvision, mmdetection). drop_crowd_only also skips images that have only crowds or difficult objects
    (Detectron2). Evaluation uses all images."""
    on_error: Literal["raise", "skip"] = "raise"
    """What to do with an unusable image or annotation: raise stops with an error that names it; skip warns once,
    skips it and counts it."""
    short_side: PositiveInt | Annotated[list[PositiveInt], Field(min_length=1)] = 600
    """Training: length in pixels of the short side after the resize. From a list, one value is drawn for each image."""
    long_side: PositiveInt = 1000
    """Training: maximum length in pixels of the long side. Where it applies, the short side is shorter than
    short_side."""
    test_short_side: PositiveInt | None = None
    """short_side of evaluation and prediction; null uses the largest value of short_side."""
    test_long_side: PositiveInt | None = None
    """long_side of evaluation and prediction; null uses long_side."""
    flip: Fraction = 0.5
    """Probability of a horizontal flip in training."""
    vertical_flip: Fraction = 0.0
    """Probability of a vertical flip in training, for images without a fixed orientation, such as microscope or
    satellite images."""
    jitter: JitterConfig = JitterConfig()
    transform: CodePath | list[CodePath] | None = None
    """Your own augmentations: import path package.module:name of a function that takes a Sample and a
    torch.Generator and returns a Sample, or a list of them. Applied after the built-in ones, in training only."""
    sampling: Literal["uniform", "class_balanced", "repeat_factor"] = "uniform"
    """Which images an epoch contains. uniform: each image once. repeat_factor: images of rare classes several times
    (LVIS). class_balanced: as many draws as images; each draw picks a class, then an image of that class."""
    repeat_threshold: Annotated[float, Field(gt=0, le=1)] = 0.001
    """repeat_factor only: an image with a class that occurs in a share f of all images is repeated
    sqrt(repeat_threshold / f) times per epoch, but at least once."""
    aspect_ratio_grouping: bool = True
    """Build training batches from only wide or only tall images, which reduces padding."""
    workers: NonNegativeInt = 2
    """Number of loader processes per rank."""
    prefetch: PositiveInt = 2
    """Number of batches each worker prepares in advance."""
    channels: Literal["rgb", "bgr"] = "rgb"
    """Color order of the network's input; weights from Caffe need bgr."""
    mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
    """Mean of each channel, in the order of channels, on the scale 0..255. It is subtracted on the device."""
    std: tuple[PositiveFloat, PositiveFloat, PositiveFloat] = (58.395, 57.12, 57.375)
    """Standard deviation of each channel, in the order of channels, on the scale 0..255. Pixels are divided by it."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        largest = max(self.short_sides)
        if largest > self.long_side:
            raise ValueError(f"short_side {largest} is above long_side {self.long_side}")
        short, long = self.test_sides
        if short > long:
            raise ValueError(f"short side {short} of evaluation is above long side {long}")
        return self

    @property
    def short_sides(self) -> list[int]:
        """`short_side` as a list."""
        return self.short_side if isinstance(self.short_side, list) else [self.short_side]

    @property
    def transforms(self) -> list[str]:
        """`transform` as a list."""
        return self.transform if isinstance(self.transform, list) else [self.transform] if self.transform else []

    @property
    def import_paths(self) -> list[str]:
        """All import paths of the section."""
        train = self.train if isinstance(self.train, list) else [self.train]
        sources = [source.dataset for source in [*train, self.val] if isinstance(source, PythonSource)]
        return [*sources, *self.transforms]

    @property
    def given_paths(self) -> list[str]:
        """The import paths that the user passed."""
        return [path for path in self.import_paths if isinstance(path, ImportPath) and path.is_given]

    @property
    def test_sides(self) -> tuple[int, int]:
        """(short side, long side) of evaluation and prediction, in pixels."""
        return self.test_short_side or max(self.short_sides), self.test_long_side or self.long_side
