"""Evaluate a detector or saved detections: `frcnn eval RUN_OR_CKPT [key=value ...]`, or `python tools/eval.py ...`."""

import argparse
import re
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from frcnn.annotations import ImageDetections
from frcnn.cli.run import guarded
from frcnn.config import Config, load_config, override_config
from frcnn.data.build_data import build_dataset, build_eval_loader
from frcnn.data.dataset import DetectionDataset
from frcnn.data.formats.coco_results import read_results, write_results
from frcnn.data.formats.voc_results import read_voc_results, write_voc_results
from frcnn.errors import ConfigError, DataError
from frcnn.evaluation.coco_packages import check_installed
from frcnn.evaluation.evaluate import evaluate, format_report
from frcnn.files.checkpoint import find_checkpoint, load_checkpoint
from frcnn.files.output import make_folder, write_json
from frcnn.inference.detect_dataset import detect
from frcnn.inference.predictor import restore
from frcnn.model.speed.device import find_device

EXAMPLES = """\
examples:
  frcnn eval runs/demo
  frcnn eval runs/demo/checkpoints/last.pt model.detect.score_threshold=0.01 --out evals/last
  frcnn eval runs/demo data.val.format=coco data.val.images=val2017 data.val.annotations=instances_val2017.json
  frcnn eval runs/demo --save-detections
  frcnn eval configs/demo.yaml --detections detections.json
  frcnn eval runs/voc --voc-results results/VOC2007/Main
  frcnn eval configs/voc.yaml --detections results/VOC2007/Main

eval.json is written to --out; by default into the run folder, with overrides into its folder eval_OVERRIDES, and for a
checkpoint or detections NAME into NAME_eval beside it.
"""


class Source(NamedTuple):
    """What is evaluated."""

    config: Config
    path: Path
    checkpoint: dict[str, Any] | None
    """None where detections are scored by a config alone."""


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="frcnn eval",
        description="Measure a detector on data.val of its config: COCO's 12 numbers, VOC mAP, and each class.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "source",
        type=Path,
        metavar="RUN_OR_CKPT",
        help="run folder (its best checkpoint) or checkpoint; with --detections a config will do",
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="changes of the checkpoint's config")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder of eval.json")
    parser.add_argument(
        "--detections",
        type=Path,
        metavar="FILE_OR_DIR",
        help="score these, a file in COCO's results format or a folder of VOC's results files; no model is run",
    )
    parser.add_argument(
        "--save-detections", action="store_true", help="also write detections.json, in COCO's results format"
    )
    parser.add_argument(
        "--compile", action="store_true", help="detect by a compiled graph; it takes minutes before the first image"
    )
    parser.add_argument(
        "--voc-results",
        type=Path,
        metavar="DIR",
        help="also write the files that VOC's development kit and server take, comp4_det_SPLIT_CLASS.txt, into DIR",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    parser = build_parser()
    options = parser.parse_intermixed_args(argv)
    if options.detections and options.save_detections:
        parser.error("--save-detections writes what a model finds; with --detections there is no model")
    return guarded(lambda: run(options))


def run(options: argparse.Namespace) -> int:
    """Build the data set, find or read the detections, and report."""
    source = read_source(options.source, options.overrides, needs_model=options.detections is None)
    check_installed(source.config.eval.backend)
    out = options.out or default_folder(options.source, options.overrides, options.detections)
    for folder in filter(None, (out, options.voc_results)):
        make_folder(folder)
    dataset = build_validation_set(source)
    if options.detections:
        detections = dict(enumerate(read_detections(options.detections, source, dataset)))
        about = {"detections": str(options.detections)}
    else:
        detections = run_model(source, dataset, compiled=options.compile)
        about = {"checkpoint": str(source.path), "step": source.checkpoint["step"]}  # type: ignore[index]
    if not detections:
        raise DataError(f"{dataset.name}: not one image could be read, so there is nothing to evaluate")

    indices = sorted(detections)
    records, found = [dataset.records[index] for index in indices], [detections[index] for index in indices]
    report = evaluate(records, found, class_names=dataset.class_names, backend=source.config.eval.backend)
    report |= {"data": dataset.name, **about}
    if options.save_detections:
        write_results(out / "detections.json", records, found, category_ids=dataset.category_ids)
    if options.voc_results:
        settings = voc_settings(source, dataset)
        write_voc_results(options.voc_results, records, found, class_names=dataset.class_names, **settings)
    write_json(out / "eval.json", report)
    print("\n".join([f"{options.detections or source.path} on {dataset.name}", *dataset.notes]))
    print(format_report(report))
    if dataset.problems.count:
        print(dataset.problems.summary())
    print(f"written to {out}" + (f" and {options.voc_results}" if options.voc_results else ""))
    return 0


def read_source(path: Path, overrides: Sequence[str], *, needs_model: bool) -> Source:
    """The config, changed by `overrides`, and the checkpoint that `path` stands for."""
    if path.suffix in (".yaml", ".yml"):
        if needs_model:
            raise ConfigError(
                f"{path}: a config alone holds no model; give a run folder or checkpoint, or --detections"
            )
        return Source(load_config(path, overrides), path, None)
    path = find_checkpoint(path)
    checkpoint = load_checkpoint(path)
    return Source(override_config(checkpoint["config"], overrides, source=str(path)), path, checkpoint)


def build_validation_set(source: Source) -> DetectionDataset:
    """data.val, read with the classes of the checkpoint, so that labels mean the same.

    Raises:
        ConfigError: an override sets other classes than the checkpoint's.
        DataError: the data set has other classes.
    """
    data = source.config.data
    if source.checkpoint is None:
        return build_dataset(data, "val")
    class_names = source.checkpoint["class_names"]
    if data.classes is not None and data.classes != class_names:
        raise ConfigError(f"{source.path} knows the classes {class_names}; data.classes cannot be {data.classes}")
    try:
        return build_dataset(data, "val", class_names=class_names)
    except DataError as error:
        raise DataError(f"{error}\n({source.path} knows the classes {', '.join(class_names)})") from error


def read_detections(path: Path, source: Source, dataset: DetectionDataset) -> list[ImageDetections]:
    """Those of a folder of VOC's files, or of a file in COCO's format, for each image of the data set."""
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
    """`split` and `far_shift` of VOC's results files; the split of other data is the name of the data set."""
    val = source.config.data.val
    return {"split": val.results_split or file_name([dataset.name]), "far_shift": val.far_shift}


def run_model(source: Source, dataset: DetectionDataset, *, compiled: bool) -> dict[int, ImageDetections]:
    """Detections by position in the data set, in the precision of the training."""
    assert source.checkpoint is not None
    config = source.config
    device = find_device(config.train.device, setting="train.device")
    model = restore(source.checkpoint, config, device=device, source=source.path, compiled=compiled).model
    loader = build_eval_loader(
        config.data, dataset, batch_size=config.eval.batch_size, pin_memory=device.type == "cuda"
    )
    return detect(model, loader, dataset, device=device, precision=config.train.precision)


def default_folder(source: Path, overrides: Sequence[str], detections: Path | None) -> Path:
    """The run folder of a run, or a folder in it called by the overrides, so that the run's own eval.json stays;
    NAME_eval beside a checkpoint, or a file or folder of detections, called NAME.
    """
    if detections is None and source.is_dir():
        return source / f"eval_{file_name(overrides)}" if overrides else source
    scored = detections or source
    if scored.is_dir():
        return scored.resolve().with_name(f"{scored.resolve().name}_eval")
    return scored.with_name(f"{scored.stem}_eval")


def file_name(parts: Sequence[str]) -> str:
    """Overrides, say, as a name that every file system takes; long ones are cut and told apart by a checksum."""
    text = "_".join(parts)
    name = re.sub(r"[^\w.=-]+", "-", text)
    return name if len(name) <= 80 else f"{name[:80]}_{zlib.crc32(text.encode()):08x}"
