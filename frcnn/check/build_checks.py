"""Checks of the data of a config. Only this module of `frcnn.check` reads configs."""

import time

import torch

from frcnn.check.anchor_checks import AnchorSettings
from frcnn.check.findings import Example, Finding, Source, findings_of
from frcnn.check.image_facts import read_facts
from frcnn.check.preflight import preflight
from frcnn.check.run_checks import Check, check_sources
from frcnn.config.schema import Config
from frcnn.config.schema.data import DataConfig
from frcnn.data.build_data import read_sources
from frcnn.data.classes import choose_classes
from frcnn.data.dataset import DetectionDataset, did_you_mean
from frcnn.errors import DataError
from frcnn.model.build_detector import build_anchors, build_from_config


def check_config(config: Config, *, most_images: int | None = None, workers: int = 2) -> Check:
    """Check the training and validation data of a config.

    Args:
        most_images: number of image files to read from each source, evenly spread. None reads all, 0 none.
        workers: number of threads that read images.

    Raises:
        ConfigError: the model, and therefore its anchors, cannot be built.
        DataError: a source cannot be read, or there are no class names.
    """
    start = time.monotonic()
    anchors = anchor_settings(config)
    annotations = read_sources(config.data, "train", "val")
    sources = [Source("val" if key == "data.val" else "train", key, raw) for key, raw in annotations.items()]
    class_names, findings = select_classes(config.data, sources)
    for source in sources:
        paths = [image.path for image in source.raw.images]
        if most_images is not None and len(paths) > most_images:
            step = len(paths) / max(1, most_images)
            chosen = {int(number * step) for number in range(most_images)}
            paths = [path if row in chosen else None for row, path in enumerate(paths)]
        source.facts = read_facts(paths, workers=workers)
    is_filter = config.data.classes is not None
    has_given_classes = is_filter or any(source.raw.is_declared for source in sources)
    check = check_sources(
        sources,
        class_names,
        anchors,
        has_given_classes=has_given_classes,
        is_filter=is_filter,
        findings=findings,
    )
    check.seconds = time.monotonic() - start
    return check


def select_classes(data: DataConfig, sources: list[Source]) -> tuple[list[str], list[Finding]]:
    """Select the class names as `build_datasets` does.

    Returns:
        The class names, and findings where `build_datasets` raises an error: sources that declare different classes,
        and classes of data.classes that a source does not declare.

    Raises:
        DataError: there are no class names.
    """
    choice = choose_classes([source.raw for source in sources], data.classes)
    if not choice.names:
        raise DataError(f"{sources[0].raw.name}: no class names; annotate at least one object or set data.classes")
    findings: list[Finding] = []
    for source in sources:
        missing = dict.fromkeys(name for raw, name in choice.missing if raw is source.raw)
        examples = [
            Example(f"{name} is not a category of {source.raw.name}{did_you_mean(name, source.raw.names)}")
            for name in missing
        ]
        findings += findings_of("class-missing", source.split, examples)
    examples = [
        Example(f"{raw.name} has {', '.join(raw.names)}; expected {', '.join(choice.names)}")
        for raw in choice.different
    ]
    return choice.names, findings + findings_of("class-lists-differ", "train and val", examples)


def anchor_settings(config: Config) -> AnchorSettings:
    """The anchors of a config. The network is built on the meta device to find the strides of its feature maps."""
    with torch.device("meta"):
        detector = build_from_config(config, num_classes=1, pretrained=False)
    return _settings(config, strides=detector.backbone.strides)


def preflight_lines(
    config: Config, train_set: DetectionDataset, val_set: DetectionDataset, strides: tuple[int, ...]
) -> list[str]:
    """Lines that `frcnn train` prints about its data before training, see `preflight`."""
    return preflight(train_set, val_set, _settings(config, strides=strides))


def _settings(config: Config, *, strides: tuple[int, ...]) -> AnchorSettings:
    anchors, data, rpn = config.model.anchors, config.data, config.model.rpn
    return AnchorSettings(
        sizes=build_anchors(anchors, strides).sizes,
        ratios=list(anchors.ratios),
        build=lambda sizes, ratios: build_anchors(
            anchors.model_copy(update={"sizes": sizes, "ratios": ratios}), strides
        ),
        short_sides=data.short_sides,
        long_side=data.long_side,
        test_sides=data.test_sides,
        inside_only=rpn.inside_only,
        skip_padding=rpn.skip_padding,
        iou_negative=rpn.iou_negative,
    )
