"""Data sets and loaders from the `data` section of a config."""

from typing import Literal

from frcnn.config.schema.data import CocoSource, DataConfig, ShapesSource, VocSource
from frcnn.data import coco, shapes, voc
from frcnn.data.balance import class_balanced_factors, repeat_factors
from frcnn.data.batching import canvas_size
from frcnn.data.concat import ConcatDataset
from frcnn.data.dataset import DetectionDataset, check_class_names
from frcnn.data.loader import BatchLoader, EvalSamples, TrainSamples
from frcnn.data.problems import ErrorPolicy
from frcnn.data.sampler import EvalSampler, TrainSampler
from frcnn.data.transforms import TestTransform, TrainTransform, resized_size
from frcnn.errors import DataError

Source = VocSource | CocoSource | ShapesSource


def build_dataset(data: DataConfig, split: Literal["train", "val"]) -> DetectionDataset:
    """The training or the validation set; both have the same classes in the same order.

    Class names are those of data.classes, else what `find_classes` makes of the training and the validation set
    together; setting data.classes saves reading the annotations of the other set. Difficult objects are never
    dropped from a validation set: its metrics have to know of them.

    Raises:
        DataError: annotations that cannot be used (see the class of each format), or class names that are empty,
            there twice, or not the same in all sources.
    """
    class_names = data.classes if data.classes is not None else find_classes(data)
    check_class_names(class_names, source="data.classes" if data.classes is not None else f"data.{split}")
    problems = ErrorPolicy(data.on_error, name=f"data.{split}")
    sources = _train_sources(data) if split == "train" else [data.val]
    parts = [_build_source(source, class_names, problems, is_train=split == "train") for source in sources]
    return parts[0] if len(parts) == 1 else ConcatDataset(parts)


def find_classes(data: DataConfig) -> list[str]:
    """Class names where the config sets none.

    COCO files and `shapes` declare their classes: these hold for all sources, and must agree where there are several.
    VOC declares none: where all sources are VOC, the names found in all of them are joined and sorted.
    """
    sources = [*_train_sources(data), data.val]
    declared = {name: names for name, names in map(_declared_classes, sources) if names}
    if not declared:
        voc_sources = [source for source in sources if isinstance(source, VocSource)]
        return sorted({name for source in voc_sources for name in voc.find_class_names(source.root, source.split)})
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


def _build_source(source: Source, class_names: list[str], problems: ErrorPolicy, *, is_train: bool) -> DetectionDataset:
    if isinstance(source, VocSource):
        return voc.VocDataset(
            root=source.root,
            split=source.split,
            class_names=class_names,
            difficult=source.difficult if is_train else "ignore",
            coordinates=source.coordinates,
            problems=problems,
        )
    if isinstance(source, CocoSource):
        return coco.CocoDataset(
            images=source.images,
            annotations=source.annotations,
            class_names=class_names,
            crowd=source.crowd if is_train else "ignore",
            problems=problems,
        )
    if list(class_names) != list(shapes.CLASS_NAMES):
        raise DataError(f"the classes of `shapes` are {', '.join(shapes.CLASS_NAMES)}, not {', '.join(class_names)}")
    return shapes.ShapesDataset(
        num_images=source.num_images, seed=source.seed, height=source.height, width=source.width, problems=problems
    )


def _declared_classes(source: Source) -> tuple[str, tuple[str, ...]]:
    """A name for messages, and the class names a source has without looking at its objects."""
    if isinstance(source, CocoSource):
        return str(source.annotations), coco.read_class_names(source.annotations)
    if isinstance(source, ShapesSource):
        return "shapes", shapes.CLASS_NAMES
    return str(source.root), ()


def _train_sources(data: DataConfig) -> list[Source]:
    return list(data.train) if isinstance(data.train, list) else [data.train]
