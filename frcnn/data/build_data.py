"""Data sets and loaders from the `data` section of a config."""

from collections.abc import Sequence
from typing import Literal

from frcnn.config.schema.data import CocoSource, DataConfig, ShapesSource, VocSource
from frcnn.data.annotated import AnnotatedDataset
from frcnn.data.augment.transforms import TestTransform, TrainTransform, resized_size
from frcnn.data.balance import class_balanced_factors, repeat_factors
from frcnn.data.batching import canvas_size
from frcnn.data.concat import ConcatDataset
from frcnn.data.dataset import DetectionDataset, check_class_names
from frcnn.data.formats import coco, shapes, voc
from frcnn.data.formats.raw import RawAnnotation, from_dataset
from frcnn.data.loader import BatchLoader, EvalSamples, TrainSamples
from frcnn.data.problems import ErrorPolicy
from frcnn.data.sampler import EvalSampler, TrainSampler
from frcnn.errors import DataError

Source = VocSource | CocoSource | ShapesSource


def build_datasets(data: DataConfig) -> tuple[DetectionDataset, DetectionDataset]:
    """The training and the validation set, with the same classes in the same order. Each source is read once.

    Class names are those of data.classes, else what `find_classes` makes of all sources together.

    Raises:
        DataError: annotations that cannot be used (see `AnnotatedDataset`), or class names that are empty, there
            twice, or not the same in all sources.
    """
    train, val = _read_split(data, "train"), _read_split(data, "val")
    class_names = data.classes if data.classes is not None else find_classes([*train, *val])
    return _build_split(data, "train", train, class_names), _build_split(data, "val", val, class_names)


def build_dataset(
    data: DataConfig, split: Literal["train", "val"], *, class_names: Sequence[str] | None = None
) -> DetectionDataset:
    """One of `build_datasets`. The other set is read only where its class names are needed.

    Args:
        class_names: those of a checkpoint, in label order; None takes them from the config or the data.
    """
    annotations = _read_split(data, split)
    if class_names is None:
        class_names = data.classes
    if class_names is None:
        others = _read_split(data, "val" if split == "train" else "train")
        class_names = find_classes([*annotations, *others] if split == "train" else [*others, *annotations])
    return _build_split(data, split, annotations, class_names)


def read_annotations(source: Source) -> RawAnnotation:
    """Read a source, whatever its format: the one parse that class names, datasets and checks are made from."""
    if isinstance(source, VocSource):
        return voc.read_voc(source.root, source.split, coordinates=source.coordinates)
    if isinstance(source, CocoSource):
        return coco.read_coco(source.images, source.annotations)
    drawn = shapes.ShapesDataset(
        num_images=source.num_images,
        seed=source.seed,
        height=source.height,
        width=source.width,
        problems=ErrorPolicy(),
    )
    return from_dataset(drawn)


def find_classes(annotations: Sequence[RawAnnotation]) -> list[str]:
    """Class names where the config sets none.

    COCO files and `shapes` declare their classes: these hold for all sources, and must agree where there are several.
    VOC declares none: where all sources are VOC, the names found in all of them are joined and sorted.
    """
    declared = {raw.place: raw.names for raw in annotations if raw.is_declared and raw.names}
    if not declared:
        return sorted({name for raw in annotations for name in raw.names} - {""})
    (first, class_names), *others = declared.items()
    for other, names in others:
        if names != class_names:
            raise DataError(
                f"{other} and {first} have different classes: {', '.join(names)} / {', '.join(class_names)}; "
                "set data.classes to the names to use, in label order"
            )
    return list(class_names)


def build_factors(data: DataConfig, dataset: DetectionDataset) -> list[float] | None:
    """How often each image of the training set is drawn in an epoch by data.sampling, on average; None is once.

    Raises:
        DataError: class_balanced, and no image holds an object.
    """
    num_classes = len(dataset.class_names)
    if data.sampling == "repeat_factor":
        return repeat_factors(dataset.records, num_classes=num_classes, threshold=data.repeat_threshold)
    if data.sampling == "class_balanced":
        return class_balanced_factors(dataset.records, num_classes=num_classes, name=dataset.name)
    return None


def train_canvases(data: DataConfig, dataset: DetectionDataset) -> set[tuple[int, int]]:
    """(height, width) of the canvas of each training image by itself, for every short side that may be drawn.

    A batch of several of them has the largest height and the largest width, which may be another canvas.
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
    """Endless micro-batches of batch_size / (world_size * accumulate) images, from optimiser step `start_step` on.

    What a step holds, to the pixel, is a function of the data and of (seed, step) alone: neither the number of
    workers nor a stop in between changes it.

    Raises:
        ConfigError, DataError: a batch_size that cannot be divided, or that the data set cannot fill.
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
    """Images rank, rank + world_size, ... once, in order; `Batch.index` tells which. None where all were left out."""
    short_side, long_side = data.test_sides
    transform = TestTransform(short_side=short_side, long_side=long_side)
    sampler = EvalSampler(len(dataset), batch_size=batch_size, rank=rank, world_size=world_size)
    samples = EvalSamples(dataset, transform)
    return BatchLoader(samples, sampler, workers=data.workers, prefetch=data.prefetch, pin_memory=pin_memory)


def sources_of(data: DataConfig, split: Literal["train", "val"]) -> list[Source]:
    """The sources of a split in their order."""
    given = data.train if split == "train" else data.val
    return list(given) if isinstance(given, list) else [given]


def _read_split(data: DataConfig, split: Literal["train", "val"]) -> list[RawAnnotation]:
    return [read_annotations(source) for source in sources_of(data, split)]


def _build_split(
    data: DataConfig, split: Literal["train", "val"], annotations: Sequence[RawAnnotation], class_names: Sequence[str]
) -> DetectionDataset:
    """A validation set keeps crowds, difficult objects and images without objects: its metrics need them."""
    check_class_names(class_names, source="data.classes" if data.classes is not None else f"data.{split}")
    problems = ErrorPolicy(data.on_error, name=f"data.{split}")
    parts = [
        AnnotatedDataset(
            raw,
            problems=problems,
            class_names=class_names,
            is_filter=data.classes is not None,
            regions=_regions(source) if split == "train" else "ignore",
            empty=data.empty if split == "train" else "keep",
        )
        for source, raw in zip(sources_of(data, split), annotations, strict=True)
    ]
    return parts[0] if len(parts) == 1 else ConcatDataset(parts)


def _regions(source: Source) -> Literal["ignore", "keep", "drop"]:
    """What training does with crowds and difficult objects."""
    if isinstance(source, VocSource):
        return source.difficult
    return source.crowd if isinstance(source, CocoSource) else "ignore"
