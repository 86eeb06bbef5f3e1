"""Datasets and loaders from the `data` section of a config."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from frcnn.config.schema.data import (
    CocoSource,
    CsvSource,
    DataConfig,
    OpenImagesSource,
    PythonSource,
    ShapesSource,
    Source,
    SourceSection,
    VocSource,
    YoloSource,
)
from frcnn.data.annotated import AnnotatedDataset
from frcnn.data.augment.custom import CustomAugmentation
from frcnn.data.augment.resize import resized_size
from frcnn.data.augment.transforms import TrainTransform
from frcnn.data.balance import class_balanced_factors, repeat_factors
from frcnn.data.batching import canvas_size
from frcnn.data.classes import choose_classes
from frcnn.data.concat import ConcatDataset
from frcnn.data.dataset import DetectionDataset, check_class_names
from frcnn.data.formats.coco import read_coco
from frcnn.data.formats.csv_boxes import read_csv
from frcnn.data.formats.imported import read_imported
from frcnn.data.formats.openimages import read_openimages
from frcnn.data.formats.raw import RawAnnotation
from frcnn.data.formats.shapes import read_shapes
from frcnn.data.formats.voc import read_voc
from frcnn.data.formats.yolo import read_yolo
from frcnn.data.loader import BatchLoader, EvalSamples, TrainSamples
from frcnn.data.problems import ErrorPolicy
from frcnn.data.sampler import EvalSampler, TrainSampler
from frcnn.errors import DataError

Split = Literal["train", "val"]

READERS: dict[type[SourceSection], Callable[[Any, str], RawAnnotation]] = {
    VocSource: lambda source, key: read_voc(source.root, source.split, coordinates=source.coordinates),
    CocoSource: lambda source, key: read_coco(source.images, source.annotations),
    YoloSource: lambda source, key: read_yolo(source.root, source.data, split=source.split),
    CsvSource: lambda source, key: read_csv(source.images, source.annotations, classes_file=source.classes_file),
    OpenImagesSource: lambda source, key: read_openimages(source.images, source.boxes, source.classes),
    ShapesSource: lambda source, key: read_shapes(
        num_images=source.num_images, seed=source.seed, height=source.height, width=source.width
    ),
    PythonSource: lambda source, key: read_imported(source.dataset, source.arguments, key=f"{key}.dataset"),
}
"""The reader of each format. It takes the source and its config key, such as data.train.0, for messages."""


def build_datasets(data: DataConfig) -> tuple[DetectionDataset, DetectionDataset]:
    """The training set and the validation set, with the same classes in the same order.

    The class names are data.classes, or else those that `choose_classes` finds in all sources.

    Raises:
        ConfigError: a user-defined dataset class cannot be imported or does not fit.
        DataError: the annotations cannot be used (see `AnnotatedDataset`), or the class names are empty, repeated or
            differ between sources.
    """
    annotations = read_sources(data, "train", "val")
    class_names = _class_names(data, annotations)
    return _build_split(data, "train", annotations, class_names), _build_split(data, "val", annotations, class_names)


def build_dataset(data: DataConfig, split: Split, *, class_names: Sequence[str] | None = None) -> DetectionDataset:
    """Build one of the two datasets of `build_datasets`.

    The sources of the other one are read only if their class names are needed.

    Args:
        class_names: the classes of a checkpoint, in label order; None uses them from the config or the data.
    """
    if class_names is None:
        class_names = data.classes
    splits: Sequence[Split] = ("train", "val") if class_names is None else (split,)
    annotations = read_sources(data, *splits)
    return _build_split(data, split, annotations, class_names or _class_names(data, annotations))


def read_sources(data: DataConfig, *splits: Split) -> dict[str, RawAnnotation]:
    """The annotations of each source by its config key. Equal sources are read once."""
    read: list[tuple[Source, RawAnnotation]] = []
    annotations: dict[str, RawAnnotation] = {}
    for key, source in (item for split in splits for item in sources_of(data, split).items()):
        raw = next((raw for other, raw in read if other == source), None)
        if raw is None:
            raw = READERS[type(source)](source, key)
            read.append((source, raw))
        annotations[key] = raw
    return annotations


def sources_of(data: DataConfig, split: Split) -> dict[str, Source]:
    """The sources of a split by their config keys, in order: data.train, or data.train.0, data.train.1, ..."""
    given = data.train if split == "train" else data.val
    if isinstance(given, list):
        return {f"data.{split}.{number}": source for number, source in enumerate(given)}
    return {f"data.{split}": given}


def build_factors(data: DataConfig, dataset: DetectionDataset) -> list[float] | None:
    """The average number of draws of each training image in an epoch (data.sampling); None means one.

    Raises:
        DataError: data.sampling is class_balanced and no image has an object.
    """
    num_classes = len(dataset.class_names)
    if data.sampling == "repeat_factor":
        return repeat_factors(dataset.records, num_classes=num_classes, threshold=data.repeat_threshold)
    if data.sampling == "class_balanced":
        return class_balanced_factors(dataset.records, num_classes=num_classes, name=dataset.name)
    return None


def train_canvases(data: DataConfig, dataset: DetectionDataset) -> set[tuple[int, int]]:
    """(height, width) of the canvas of each single training image, for every short side that may be drawn.

    A batch has the largest height and the largest width of its images, which may be yet another canvas. User-defined
    augmentations (data.transform) that change the size of an image are not considered.
    """
    sizes = {(record.height, record.width) for record in dataset.records}
    return {
        canvas_size(*resized_size(*size, short_side=short_side, long_side=data.long_side))
        for size in sizes
        for short_side in data.short_sides
    }


def build_train_loader(
    data: DataConfig,
    dataset: DetectionDataset,
    *,
    batch_size: int,
    accumulate: int,
    seed: int,
    start_step: int,
    rank: int = 0,
    world_size: int = 1,
    pin_memory: bool = False,
) -> BatchLoader:
    """Endless micro-batches of batch_size / (world_size * accumulate) images, starting at optimizer step `start_step`.

    The pixels of a step are a function of the data and of (seed, step) only. Neither the number of workers nor an
    interruption changes them.

    Raises:
        ConfigError: batch_size cannot be divided, or a user-defined augmentation cannot be imported or does not fit.
        DataError: the dataset is smaller than a batch.
    """
    sampler = TrainSampler(
        len(dataset),
        batch_size=batch_size,
        accumulate=accumulate,
        seed=seed,
        start_step=start_step,
        rank=rank,
        world_size=world_size,
        is_wide=[each.width >= each.height for each in dataset.records] if data.aspect_ratio_grouping else None,
        factors=build_factors(data, dataset),
    )
    transform = TrainTransform(
        short_sides=data.short_sides,
        long_side=data.long_side,
        flip=data.flip,
        vertical_flip=data.vertical_flip,
        **data.jitter.model_dump(),
        custom=[CustomAugmentation(path, key="data.transform") for path in data.transforms],
    )
    samples = TrainSamples(dataset, transform, seed=seed)
    return BatchLoader(samples, sampler, workers=data.workers, prefetch=data.prefetch, pin_memory=pin_memory)


def build_eval_loader(
    data: DataConfig,
    dataset: DetectionDataset,
    *,
    batch_size: int,
    rank: int = 0,
    world_size: int = 1,
    pin_memory: bool = False,
) -> BatchLoader:
    """The images rank, rank + world_size, ... once, in order. `Batch.index` has their positions.

    A batch is None if none of its images can be read.
    """
    short_side, long_side = data.test_sides
    sampler = EvalSampler(len(dataset), batch_size=batch_size, rank=rank, world_size=world_size)
    samples = EvalSamples(dataset, short_side=short_side, long_side=long_side)
    return BatchLoader(samples, sampler, workers=data.workers, prefetch=data.prefetch, pin_memory=pin_memory)


def _class_names(data: DataConfig, annotations: Mapping[str, RawAnnotation]) -> list[str]:
    choice = choose_classes(list(annotations.values()), data.classes)
    if choice.different:
        other, first = choice.different[0], next(raw for raw in annotations.values() if raw.names == choice.names)
        raise DataError(
            f"{other.place} and {first.place} have different classes: {', '.join(other.names)} / "
            f"{', '.join(first.names)}; set data.classes to the names to use, in label order"
        )
    return choice.names


def _build_split(
    data: DataConfig, split: Split, annotations: Mapping[str, RawAnnotation], class_names: Sequence[str]
) -> DetectionDataset:
    """A validation set keeps crowds, difficult objects and images without objects, because its metrics need them."""
    check_class_names(class_names, source="data.classes" if data.classes is not None else f"data.{split}")
    problems = ErrorPolicy(data.on_error, name=f"data.{split}")
    parts = [
        AnnotatedDataset(
            annotations[key],
            problems=problems,
            class_names=class_names,
            is_filter=data.classes is not None,
            regions=source.regions if split == "train" else "ignore",
            empty=data.empty if split == "train" else "keep",
        )
        for key, source in sources_of(data, split).items()
    ]
    return parts[0] if len(parts) == 1 else ConcatDataset(parts)
