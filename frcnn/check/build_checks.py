"""From the config to a check of its data: the one place of this room that reads it."""

import time

import torch

from frcnn.check.findings import Example, Finding, Source
from frcnn.check.image_headers import read_facts
from frcnn.check.preflight import preflight
from frcnn.check.run_checks import AnchorSettings, Check, check_sources
from frcnn.config.schema import Config
from frcnn.config.schema.data import DataConfig
from frcnn.data.build_data import read_sources
from frcnn.data.dataset import DetectionDataset, did_you_mean, unused_ids
from frcnn.errors import DataError
from frcnn.model.build_detector import build_anchors, build_from_config


def check_config(config: Config, *, most_images: int | None = None, workers: int = 2) -> Check:
    """Check the data of a config, training and validation set.

    Args:
        most_images: image files read of each source, evenly spread over it; None reads all, 0 none.
        workers: threads that read images.

    Raises:
        ConfigError: a model that cannot be built, so that there are no anchors.
        DataError: a source that cannot be read at all.
    """
    start = time.monotonic()
    anchors = anchor_settings(config)
    annotations = read_sources(config.data, "train", "val")
    sources = [Source("val" if key == "data.val" else "train", key, raw) for key, raw in annotations.items()]
    class_names, findings = choose_classes(config.data, sources)
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


def choose_classes(data: DataConfig, sources: list[Source]) -> tuple[list[str], list[Finding]]:
    """The class names that training would use (see `data.build.find_classes`), and what is wrong with them: sources
    that disagree, and listed classes that a source does not have.

    Raises:
        DataError: there are none at all.
    """
    declared = [source for source in sources if source.raw.is_declared]
    if data.classes is not None:
        names, findings = list(data.classes), []
        for source in declared:
            known = {*source.raw.names, *unused_ids(names)}
            examples = [
                Example(f"{name} is no category of {source.raw.name}{did_you_mean(name, source.raw.names)}")
                for name in names
                if name not in known
            ]
            findings += [Finding("class-missing", source.split, examples)] if examples else []
    elif declared:
        names = list(declared[0].raw.names)
        examples = [
            Example(
                f"{source.raw.name} has {', '.join(source.raw.names)}; {declared[0].raw.name} has {', '.join(names)}"
            )
            for source in declared[1:]
            if source.raw.names != names
        ]
        findings = [Finding("class-lists-differ", "train and val", examples)] if examples else []
    else:
        names, findings = sorted({name for source in sources for name in source.raw.names} - {""}), []
    if not names:
        raise DataError(f"{sources[0].raw.name}: no class names; annotate at least one object or set data.classes")
    return names, findings


def anchor_settings(config: Config) -> AnchorSettings:
    """The anchors of a config; its network is built without numbers, to learn the strides of its maps."""
    with torch.device("meta"):
        detector = build_from_config(config, num_classes=1, pretrained=False)
    return _settings(config, strides=detector.backbone.strides)


def preflight_lines(
    config: Config, train_set: DetectionDataset, val_set: DetectionDataset, strides: tuple[int, ...]
) -> list[str]:
    """What `frcnn train` says of its data before it begins; see `preflight`."""
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
