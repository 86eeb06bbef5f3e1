"""Other programs' checkpoints to ours and back: `frcnn convert FILE`, or `python tools/convert.py ...`."""

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

Files of torchvision, Detectron2, simple-faster-rcnn, jwyang's faster-rcnn.pytorch and mmdetection are recognised by the
names of their tensors. Nothing in a file is run. The checkpoint goes to --out, by default NAME_frcnn.pt in this folder;
frcnn eval and frcnn predict take it. See docs/convert.md.
"""


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="frcnn convert",
        description="Make a checkpoint from another program's weight file, or a weight file for torchvision from one.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="weight file; with --to a run folder or checkpoint")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="changes of the config in the checkpoint")
    parser.add_argument("--like", metavar="BASE", help="base config (configs/base/BASE.yaml); default: by the tensors")
    parser.add_argument(
        "--classes", metavar="NAMES", help="file with a class name a line, or cat,dog,... in the order of the outputs"
    )
    parser.add_argument(
        "--out", type=Path, metavar="OUT", help="default: NAME_frcnn.pt, with --to NAME_torchvision.pth"
    )
    parser.add_argument("--to", choices=["torchvision"], help="the way back")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    parser = build_parser()
    options = parser.parse_intermixed_args(argv)
    if options.to and (options.like or options.classes or options.overrides):
        parser.error("--to writes what the checkpoint holds; --like, --classes and key=value have no meaning with it")
    return guarded(lambda: run_export(options) if options.to else run_import(options))


def run_import(options: argparse.Namespace) -> int:
    """Read, convert, report, write."""
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
    """Read, rename, write."""
    path = find_checkpoint(options.file)
    out = options.out or Path(f"{options.file.stem}_torchvision.pth")
    refuse_same_file(path, out)
    state, notes = export_checkpoint(load_checkpoint(path), path=path)
    try:
        with replacing(out) as file:
            torch.save(state, file)
    except (OSError, RuntimeError) as error:  # torch's writer notices a full disk in its own words
        raise CheckpointError(f"{out}: cannot be written: {error}") from error
    print(f"{path}: {len(state)} tensors, {notes[0]}")
    for note in notes[1:]:
        print(note)
    print(f"written to {out}")
    return 0


def refuse_same_file(source: Path, out: Path) -> None:
    if source.exists() and source.resolve() == out.resolve():
        raise CheckpointError(f"{out}: would replace the file that is read; choose another name by --out")


def read_class_names(given: str) -> list[str]:
    """The lines of a file, or the entries of a list with commas."""
    path = Path(given)
    if path.is_file():
        try:
            names = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise CheckpointError(f"--classes: {path} cannot be read: {error}") from error
    else:
        names = given.split(",")
    return [name.strip() for name in names if name.strip()]
