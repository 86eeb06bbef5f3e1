"""Evaluate a detector or saved detections: `frcnn eval RUN_OR_CKPT [key=value ...]`, or `python tools/eval.py ...`."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from frcnn.cli.run import guarded
from frcnn.evaluation.evaluate import format_report
from frcnn.runs.evaluate import evaluate, evaluation_folder

EXAMPLES = """\
examples:
  frcnn eval runs/demo
  frcnn eval runs/demo/checkpoints/last.pt model.detect.score_threshold=0.01 --out evals/last
  frcnn eval runs/demo data.val.format=coco data.val.images=val2017 data.val.annotations=instances_val2017.json
  frcnn eval runs/demo --save-detections
  frcnn eval configs/demo.yaml --detections detections.json
  frcnn eval runs/voc --voc-results results/VOC2007/Main
  frcnn eval configs/voc/vgg16.yaml --detections results/VOC2007/Main

output:
  eval.json is written to --out. The default is the run folder; with overrides it is the folder eval_OVERRIDES in the
  run folder; for a checkpoint or detections NAME it is NAME_eval next to it.
"""


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="frcnn eval",
        description="Evaluate a detector on data.val of its config: COCO's 12 metrics, VOC mAP, and AP of each class.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "source",
        type=Path,
        metavar="RUN_OR_CKPT",
        help="run folder (its best checkpoint) or checkpoint; with --detections also a config file",
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="config keys of the checkpoint to override")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder for eval.json")
    parser.add_argument(
        "--detections",
        type=Path,
        metavar="FILE_OR_DIR",
        help="evaluate these instead of running a model: a COCO results file or a folder of VOC results files",
    )
    parser.add_argument(
        "--save-detections", action="store_true", help="also write detections.json, in COCO's results format"
    )
    parser.add_argument("--compile", action="store_true", help="detect with a compiled graph; compiling takes minutes")
    parser.add_argument(
        "--voc-results",
        type=Path,
        metavar="DIR",
        help="also write results files for VOC's development kit and server, comp4_det_SPLIT_CLASS.txt, to DIR",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    parser = build_parser()
    options = parser.parse_intermixed_args(argv)
    if options.detections and options.save_detections:
        parser.error("--save-detections cannot be combined with --detections")

    def run() -> int:
        out = options.out or evaluation_folder(options.source, options.overrides, options.detections)
        evaluation = evaluate(
            options.source,
            overrides=options.overrides,
            detections=options.detections,
            out=out,
            save_detections=options.save_detections,
            voc_results=options.voc_results,
            compiled=options.compile,
        )
        report = evaluation.report
        print("\n".join([f"{report.get('detections') or report['checkpoint']} on {report['data']}", *evaluation.notes]))
        print(format_report(report))
        if evaluation.skipped:
            print(evaluation.skipped)
        print(f"written to {out}" + (f" and {options.voc_results}" if options.voc_results else ""))
        return 0

    return guarded(run)
