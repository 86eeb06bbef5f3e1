"""Evaluate a run, a checkpoint or saved detections. `evaluate` is the Python API."""

import re
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from frcnn.annotations import ImageDetections
from frcnn.config import Config, load_config, override_config
from frcnn.data.build_data import build_dataset, build_eval_loader
from frcnn.data.dataset import DetectionDataset
from frcnn.data.formats.coco_results import read_results, write_results
from frcnn.data.formats.voc_results import read_voc_results, write_voc_results
from frcnn.errors import ConfigError, DataError
from frcnn.evaluation.coco_packages import check_installed
from frcnn.files.checkpoint import find_checkpoint, load_checkpoint
from frcnn.files.writing import make_folder, write_json
from frcnn.inference.detect_dataset import Evaluation, detect_dataset, evaluate_dataset
from frcnn.inference.predictor import build_predictor
from frcnn.model.speed.device import find_device


class Source(NamedTuple):
    """A config and, if there is one, a checkpoint."""

    config: Config
    path: Path
    """The checkpoint, or the config file if there is no checkpoint."""
    checkpoint: dict[str, Any] | None
    """None if saved detections are evaluated with a config alone."""


def evaluate(
    source: str | Path,
    *,
    overrides: Sequence[str] = (),
    detections: str | Path | None = None,
    out: str | Path | None = None,
    save_detections: bool = False,
    voc_results: str | Path | None = None,
    compiled: bool = False,
) -> Evaluation:
    """Evaluate a detector on data.val of its config, as `frcnn eval` does.

    The detector runs on train.device in train.precision.

    Args:
        source: a run folder (its best checkpoint) or a checkpoint. With `detections` it may be a config file.
        overrides: changes of the checkpoint's config, such as `["data.val.split=test"]`.
        detections: evaluate these instead of running a model: a file in COCO's results format, or a folder with files
            in VOC's results format.
        out: folder for eval.json; None writes no file.
        save_detections: also write detections.json, in COCO's results format, to `out`.
        voc_results: folder for the results files of VOC's development kit, comp4_det_SPLIT_CLASS.txt.
        compiled: detect with a compiled graph; compiling takes minutes.

    Returns:
        the metrics, and the annotations and detections that they were computed from.

    Raises:
        CheckpointError: there is no such run or checkpoint, or its weights do not fit the config.
        ConfigError: an override cannot be used, or sets classes other than the checkpoint's.
        DataError: the dataset or the detections cannot be used, or the dataset has other classes.
        UserError: a file cannot be written.

    Example:

        evaluation = frcnn.evaluate("runs/demo", overrides=["eval.batch_size=4"])
        print(evaluation.report["coco"]["AP50"])
    """
    if save_detections and out is None:
        raise ConfigError("save_detections writes to the folder out, which is missing")
    opened = open_source(Path(source), overrides, needs_model=detections is None)
    check_installed(opened.config.eval.backend)
    for folder in (out, voc_results):
        if folder is not None:
            make_folder(Path(folder))
    dataset = build_validation_set(opened)
    if detections is not None:
        found = dict(enumerate(read_detections(Path(detections), opened, dataset)))
        about = {"detections": str(detections)}
    else:
        found = run_model(opened, dataset, compiled=compiled)
        about = {"checkpoint": str(opened.path), "step": opened.checkpoint["step"]}  # type: ignore[index]
    evaluation = evaluate_dataset(dataset, found, backend=opened.config.eval.backend)
    evaluation.report.update({"data": dataset.name, **about})
    records = evaluation.records
    if voc_results is not None:
        settings = voc_settings(opened, dataset)
        names = dataset.class_names
        write_voc_results(Path(voc_results), records, evaluation.detections, class_names=names, **settings)
    if out is not None:
        if save_detections:
            ids = dataset.category_ids
            write_results(Path(out) / "detections.json", records, evaluation.detections, category_ids=ids)
        write_json(Path(out) / "eval.json", evaluation.report)
    return evaluation


def open_source(path: Path, overrides: Sequence[str], *, needs_model: bool) -> Source:
    """Read a config file, or a checkpoint with its config, and apply the overrides."""
    if path.suffix in (".yaml", ".yml"):
        if needs_model:
            raise ConfigError(f"{path}: a config holds no weights. Pass a run folder or a checkpoint, or --detections")
        return Source(load_config(path, overrides), path, None)
    path = find_checkpoint(path)
    checkpoint = load_checkpoint(path)
    return Source(override_config(checkpoint["config"], overrides, source=str(path)), path, checkpoint)


def build_validation_set(source: Source) -> DetectionDataset:
    """Read data.val with the classes of the checkpoint, so that labels mean the same.

    Raises:
        ConfigError: an override sets classes other than the checkpoint's.
        DataError: the dataset has other classes.
    """
    data = source.config.data
    if source.checkpoint is None:
        return build_dataset(data, "val")
    class_names = source.checkpoint["class_names"]
    if data.classes is not None and data.classes != class_names:
        raise ConfigError(
            f"{source.path} was trained on the classes {class_names}; data.classes cannot be {data.classes}"
        )
    try:
        return build_dataset(data, "val", class_names=class_names)
    except DataError as error:
        raise DataError(f"{error}\n({source.path} was trained on the classes {', '.join(class_names)})") from error


def read_detections(path: Path, source: Source, dataset: DetectionDataset) -> list[ImageDetections]:
    """Read a folder of VOC results files, or a COCO results file; returns the detections of each image."""
    if path.is_dir():
        settings = voc_settings(source, dataset)
        return read_voc_results(path, dataset.records, class_names=dataset.class_names, **settings)
    return read_results(
        path,
        dataset.records,
        category_ids=dataset.category_ids,
        filtered_category_ids=dataset.filtered_category_ids,
    )


def voc_settings(source: Source, dataset: DetectionDataset) -> dict[str, Any]:
    """`split` and `far_shift` of VOC's results files. For other formats the split is the name of the dataset."""
    val = source.config.data.val
    return {"split": val.results_split or file_name([dataset.name]), "far_shift": val.far_shift}


def run_model(source: Source, dataset: DetectionDataset, *, compiled: bool) -> dict[int, ImageDetections]:
    """Detections by position in the dataset, in the precision of the training run."""
    assert source.checkpoint is not None
    config = source.config
    device = find_device(config.train.device, setting="train.device")
    model = build_predictor(source.checkpoint, config, device=device, source=source.path, compiled=compiled).model
    loader = build_eval_loader(
        config.data, dataset, batch_size=config.eval.batch_size, pin_memory=device.type == "cuda"
    )
    return detect_dataset(model, loader, dataset, device=device, precision=config.train.precision)


def evaluation_folder(source: Path, overrides: Sequence[str], detections: Path | None) -> Path:
    """The folder that `frcnn eval` writes to without --out.

    It is the run folder of a run. With overrides it is a folder in the run folder, named by the overrides, so that the
    run's own eval.json does not change. For a checkpoint or detections NAME it is NAME_eval next to it.
    """
    if detections is None and source.is_dir():
        return source / f"eval_{file_name(overrides)}" if overrides else source
    scored = detections or source
    if scored.is_dir():
        return scored.resolve().with_name(f"{scored.resolve().name}_eval")
    return scored.with_name(f"{scored.stem}_eval")


def file_name(parts: Sequence[str]) -> str:
    """Join strings, such as overrides, to a name that every file system allows.

    Long names are truncated and get a checksum.
    """
    text = "_".join(parts)
    name = re.sub(r"[^\w.=-]+", "-", text)
    return name if len(name) <= 80 else f"{name[:80]}_{zlib.crc32(text.encode()):08x}"
