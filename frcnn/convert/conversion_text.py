"""The report of a conversion."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from frcnn.convert.build_checkpoint import Imported
from frcnn.convert.conversion import shorten

PARTS = {
    "body": "backbone.body.",
    "neck": "backbone.neck.",
    "rpn": "rpn.",
    "head": "roi_head.head.",
    "predictor": "roi_head.predictor.",
}


def describe_import(imported: Imported, *, path: Path) -> str:
    """Describe the program, the converted tensors, changes to them, and skipped tensors."""
    conversion, classes = imported.conversion, imported.classes
    lines = [
        f"{path}: {conversion.program}, {len(classes.names)} classes; converted as {imported.like}",
        "",
        *table(imported.checkpoint["model"]),
    ]
    lines += _section("changes and assumptions", conversion.changes)
    lines += _section("set by the file", [f"{key} = {value}" for key, value in conversion.settings.items()])
    lines += _section("skipped", [f"{name}: {reason}" for name, reason in conversion.skipped.items()])
    others = []
    if imported.filled:
        others.append(f"{len(imported.filled)} missing counters of batch norm, which nothing reads, are set to 0")
    if imported.cast:
        others.append(f"{len(imported.cast)} tensors are cast to the detector's dtype, such as {imported.cast[0]}")
    lines += _section("other", others)
    named = ["first to last: " + shorten(classes.names)]
    if classes.is_assumed:
        known = {"coco": "COCO", "voc": "Pascal VOC"}[classes.dataset or "coco"]
        named.append(f"assumed to be the classes of {known} because of their number; use --classes to set others")
    lines += _section("classes", named)
    return "\n".join(lines)


def table(model: Mapping[str, Tensor]) -> list[str]:
    """A table of the number of tensors and parameters in each part of a detector."""
    rows = [f"{'part':12}{'tensors':>10}{'numbers':>14}"]
    for part, prefix in PARTS.items():
        sizes = [tensor.numel() for name, tensor in model.items() if name.startswith(prefix)]
        if sizes:
            rows.append(f"{part:12}{len(sizes):10}{sum(sizes):14,}")
    return rows


def _section(title: str, entries: Sequence[str]) -> list[str]:
    return ["", title, *(f"  {entry}" for entry in entries)] if entries else []
