"""Compare speed and memory with a peer: `python tools/benchmark.py train CONFIG [key=value ...]`."""

import argparse
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.build_loading import compare_config_loading
from benchmarks.build_sides import Sides, build_sides
from benchmarks.compare import compare
from benchmarks.comparison_text import format_comparison, format_evaluation, format_loading, format_point
from benchmarks.evaluation import compare_evaluation
from benchmarks.sweep import VALUES, sweep
from benchmarks.sweep_plot import draw_sweep
from frcnn.analyze.build_scene import read_config
from frcnn.cli.arguments import positive, size
from frcnn.cli.run import guarded
from frcnn.errors import ConfigError
from frcnn.files.writing import save_picture, write_json
from frcnn.model.speed.device import find_device, set_tf32

EXAMPLES = """\
examples:
  python tools/benchmark.py train configs/base/torchvision_resnet50_fpn.yaml --size 320x320 --batch 2
  python tools/benchmark.py detect configs/base/resnet50_fpn.yaml --size 800x1333 --rounds 10 --json detect.json
  python tools/benchmark.py train configs/base/vgg16.yaml --size 600x1000 model.roi.pooling.kind=roi_align
  python tools/benchmark.py train mine.yaml --sweep objects --values 1,10,100 --plot objects.png --json objects.json
  python tools/benchmark.py data configs/coco/resnet50_fpn_1x.yaml --images 100
  python tools/benchmark.py eval --images 5000 --classes 80 --detections 500000

train, detect  compares with torchvision's model of the same architecture and weights, after a check that both give the
               same losses and gradients, or the same detections. The weights are random but behave like trained ones.
               The config does not have to name data.
data           compares reading and resizing of images with Pillow and with torchvision's reference scripts
eval           compares COCO evaluation of generated detections with pycocotools

See docs/benchmarking.md.
"""

STEPS = ("train", "detect")
BELONGS = {
    "drawn": (*STEPS, "data"),
    "classes": (*STEPS, "eval"),
    "images": ("data", "eval"),
    "detections": ("eval",),
    **dict.fromkeys(("size", "batch", "objects", "warmup", "against", "device", "precision"), STEPS),
    **dict.fromkeys(("compile", "graphs", "sweep"), STEPS),
}
"""The measurements that take an option; all measurements take the other options."""


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python tools/benchmark.py",
        description="Compare training, detection, data loading and evaluation with a peer that does the same work.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("what", choices=("train", "detect", "data", "eval"), help="what to measure")
    parser.add_argument("config", nargs="?", type=Path, metavar="CONFIG", help="config file (not with eval)")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="changes to the config")
    parser.add_argument("--rounds", type=positive, default=7, metavar="R", help="timed rounds (default: 7)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the results as JSON")
    parser.add_argument("--drawn", action="store_true", help="draw images even if the config's data exist")
    parser.add_argument("--classes", type=positive, metavar="K", help="foreground classes (default: from the data)")
    step = parser.add_argument_group("train and detect")
    step.add_argument("--size", type=size, metavar="HxW", help="resize images to this size (default: as in evaluation)")
    step.add_argument("--batch", type=positive, default=1, metavar="N", help="batch size (default: 1)")
    step.add_argument("--objects", type=positive, metavar="G", help="generated objects per image (default: its own)")
    step.add_argument("--warmup", type=positive, default=2, metavar="W", help="untimed rounds first (default: 2)")
    step.add_argument("--against", choices=("torchvision", "none"), default="torchvision")
    step.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    step.add_argument("--precision", choices=("float32", "bf16"), default="float32", help="precision of both sides")
    step.add_argument("--compile", action="store_true", help="compile our side")
    step.add_argument("--graphs", action="store_true", help="count graph breaks under torch.compile")
    step.add_argument("--sweep", choices=tuple(VALUES), help="measure several values of one setting")
    step.add_argument("--values", type=values, metavar="A,B,...", help="the values of --sweep")
    step.add_argument("--plot", type=Path, metavar="FILE", help="plot the sweep to a .png or .jpg file")
    other = parser.add_argument_group("data and eval")
    other.add_argument("--images", type=positive, metavar="N", help="images (default: 64 for data, 5000 for eval)")
    other.add_argument("--detections", type=positive, default=500_000, metavar="D", help="for eval (default: 500000)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    parser = build_parser()
    options = parser.parse_intermixed_args(argv)
    if options.config is not None and "=" in str(options.config):
        parser.error(f"{options.config} is not a config file; write CONFIG before key=value")
    if options.what == "eval" and options.config is not None:
        parser.error("eval runs on generated data and takes no CONFIG")
    if options.what != "eval" and options.config is None:
        parser.error(f"CONFIG is missing: python tools/benchmark.py {options.what} CONFIG")
    if options.plot and not options.sweep or options.values and not options.sweep:
        parser.error("--plot and --values require --sweep")
    check_options(parser, options)
    if options.plot and options.plot.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        parser.error(f"--plot {options.plot}: not a .png or .jpg file")
    return guarded(lambda: run(options))


def check_options(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Reject options that would have no effect."""
    given = {name for name, value in vars(options).items() if value != parser.get_default(name)}
    for name, kinds in BELONGS.items():
        if name in given and options.what not in kinds:
            parser.error(f"--{name} is an option of {' and '.join(kinds)}, not of {options.what}")
    for name in ("compile", "graphs", options.sweep) if options.sweep else ():
        if name in given:
            parser.error(f"--{name} cannot be combined with --sweep {options.sweep}")


def values(text: str) -> list[int]:
    return [positive(part) for part in text.split(",")]


def run(options: argparse.Namespace) -> int:
    """Measure, print the results, and write the requested files."""
    if options.what == "eval":
        result, text = measure_evaluation(options)
    elif options.what == "data":
        result, text = measure_loading(options)
    elif options.sweep:
        result, text = measure_sweep(options)
    else:
        result, text = measure_step(options)
    print(text)
    if options.json:
        source = {"config": None if options.config is None else str(options.config), "overrides": options.overrides}
        write_json(options.json, source | result)
        print(f"written to {options.json}")
    return 0


def measure_step(options: argparse.Namespace) -> tuple[dict[str, Any], str]:
    result = compare(
        builder(options)(),
        options.what,
        rounds=options.rounds,
        warmup=options.warmup,
        compiles=options.compile,
        counts_graphs=options.graphs,
    )
    return result, format_comparison(result)


def measure_sweep(options: argparse.Namespace) -> tuple[dict[str, Any], str]:
    result = sweep(
        builder(options),
        options.what,
        options.sweep,
        options.values or VALUES[options.sweep],
        rounds=options.rounds,
        warmup=options.warmup,
        on_point=lambda point: print(format_point(options.sweep, point), flush=True),
    )
    if options.plot:
        save_picture(options.plot, draw_sweep(result, title=f"{options.what}, {options.config.stem}"))
    return result, f"written to {options.plot}" if options.plot else ""


def measure_loading(options: argparse.Namespace) -> tuple[dict[str, Any], str]:
    config, names_data = read_config(options.config, options.overrides)
    with tempfile.TemporaryDirectory() as folder:
        result = compare_config_loading(
            config,
            is_drawn=options.drawn or not names_data,
            folder=Path(folder),
            images=options.images or 64,
            rounds=options.rounds,
        )
    return result, format_loading(result)


def measure_evaluation(options: argparse.Namespace) -> tuple[dict[str, Any], str]:
    result = compare_evaluation(
        images=options.images or 5000,
        classes=options.classes or 80,
        detections=options.detections,
        rounds=options.rounds,
    )
    return result, format_evaluation(result)


def builder(options: argparse.Namespace) -> Callable[..., Sides]:
    """A function that builds both sides from the command line; its arguments replace settings."""
    config, names_data = read_config(options.config, options.overrides)
    device = find_device(options.device, setting="--device")
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"--device: {device.type} is not supported by the benchmark; use cpu or cuda")
    if device.index is not None:
        torch.cuda.set_device(device)  # the timer waits for the current device
    set_tf32(config.train.tf32)  # for both sides
    settings = {name: getattr(options, name) for name in ("size", "batch", "objects", "classes")}

    def build(**changed: Any) -> Sides:
        return build_sides(
            config,
            options.what,
            against=options.against,
            is_drawn=options.drawn or not names_data,
            device=device,
            precision=options.precision,
            **settings | changed,
        )

    return build
