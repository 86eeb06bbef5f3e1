"""Convert checkpoints of other programs: `frcnn convert FILE`, or `python tools/convert.py ...`."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from frcnn.cli.run import guarded
from frcnn.convert.build_checkpoint import export_checkpoint, import_checkpoint
from frcnn.convert.conversion_text import describe_import
from frcnn.errors import CheckpointError
from frcnn.files.checkpoint import find_checkpoint, load_checkpoint, save_checkpoint
from frcnn.files.weights import read_weight_file
from frcnn.files.writing import replacing

EXAMPLES = """\
examples:
  frcnn convert fasterrcnn_resnet50_fpn_coco-258fb6c6.pth
  frcnn convert model_final_280758.pkl --out r50_fpn_3x.pt
  frcnn convert mine.pth --classes cat,dog data.val.images=mine data.val.annotations=mine.json
  frcnn convert fasterrcnn_mobilenet.pth --like torchvision_mobilenet_v3_large_320_fpn
  frcnn convert runs/mine --to torchvision --out mine.pth

Files of torchvision, Detectron2, simple-faster-rcnn, jwyang's faster-rcnn.pytorch and mmdetection are recognized by the
names of their tensors. No code in a file is executed. The checkpoint is written to --out, by default NAME_frcnn.pt in
the current folder, and works with frcnn eval and frcnn predict. See docs/convert.md.
"""


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="frcnn convert",
        description="Convert a weight file of another program to a checkpoint, or a checkpoint to torchvision.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="weight file; with --to, a run folder or checkpoint")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="changes to the config in the checkpoint")
    parser.add_argument("--like", metavar="BASE", help="base config configs/base/BASE.yaml (default: by the tensors)")
    parser.add_argument(
        "--classes",
        metavar="NAMES",
        help="cat,dog,... or a file with one name per line, in the order of the outputs",
    )
    parser.add_argument(
        "--out", type=Path, metavar="OUT", help="default: NAME_frcnn.pt; with --to, NAME_torchvision.pth"
    )
    parser.add_argument("--to", choices=["torchvision"], help="export a checkpoint for this program")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    parser = build_parser()
    options = parser.parse_intermixed_args(argv)
    if options.to and (options.like or options.classes or options.overrides):
        parser.error("--to exports the checkpoint as it is; --like, --classes and key=value cannot be combined with it")
    return guarded(lambda: run_export(options) if options.to else run_import(options))


def run_import(options: argparse.Namespace) -> int:
    """Read the file, convert it, print a report, and write the checkpoint."""
    out = options.out or Path(f"{options.file.stem}_frcnn.pt")
    refuse_same_file(options.file, out)
    imported = import_checkpoint(
        read_weight_file(options.file),
        path=options.file,
        like=options.like,
        class_names=None if options.classes is None else read_class_names(options.classes),
        overrides=options.overrides,
    )
    print(describe_import(imported, path=options.file))
    save_checkpoint(out, imported.checkpoint)
    print(f"\nwritten to {out}")
    return 0


def run_export(options: argparse.Namespace) -> int:
    """Read the checkpoint, rename its tensors, and write the weight file."""
    path = find_checkpoint(options.file)
    out = options.out or Path(f"{options.file.stem}_torchvision.pth")
    refuse_same_file(path, out)
    state, notes = export_checkpoint(load_checkpoint(path), path=path)
    try:
        with replacing(out) as file:
            torch.save(state, file)
    except (OSError, RuntimeError) as error:  # torch's writer raises RuntimeError on a full disk
        raise CheckpointError(f"{out}: cannot be written: {error}") from error
    print(f"{path}: {len(state)} tensors, {notes[0]}")
    for note in notes[1:]:
        print(note)
    print(f"written to {out}")
    return 0


def refuse_same_file(source: Path, out: Path) -> None:
    if source.exists() and source.resolve() == out.resolve():
        raise CheckpointError(f"{out}: this would overwrite the input file; choose another name with --out")


def read_class_names(given: str) -> list[str]:
    """Read the lines of a file, or the entries of a comma-separated list."""
    path = Path(given)
    if path.is_file():
        try:
            names = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise CheckpointError(f"--classes: {path} cannot be read: {error}") from error
    else:
        names = given.split(",")
    return [name.strip() for name in names if name.strip()]
