"""What a conversion did, for a person to read."""

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
    """A paragraph for each question: what was it, where did the tensors go, what was done to them, what was left."""
    conversion, classes = imported.conversion, imported.classes
    lines = [
        f"{path}: {conversion.program}, {len(classes.names)} classes; taken as {imported.like}",
        "",
        *table(imported.checkpoint["model"]),
    ]
    lines += _section("done, and taken for granted", conversion.changes)
    lines += _section("set by the file", [f"{key} = {value}" for key, value in conversion.settings.items()])
    lines += _section("left out", [f"{name}: {reason}" for name, reason in conversion.left_out.items()])
    others = []
    if imported.filled:
        others.append(f"{len(imported.filled)} counters of batch norm, which nothing reads, are set to 0")
    if imported.cast:
        others.append(f"{len(imported.cast)} tensors of another precision became float32, such as {imported.cast[0]}")
    lines += _section("besides", others)
    named = ["first to last: " + shorten(classes.names)]
    if classes.is_assumed:
        known = {"coco": "COCO", "voc": "Pascal VOC"}[classes.dataset or "coco"]
        named.append(f"taken for those of {known} by their number; --classes names others")
    lines += _section("classes", named)
    return "\n".join(lines)


def table(model: Mapping[str, Tensor]) -> list[str]:
    """Tensors and numbers in each part of a detector."""
    rows = [f"{'part':12}{'tensors':>10}{'numbers':>14}"]
    for part, prefix in PARTS.items():
        sizes = [tensor.numel() for name, tensor in model.items() if name.startswith(prefix)]
        if sizes:
            rows.append(f"{part:12}{len(sizes):10}{sum(sizes):14,}")
    return rows


def _section(title: str, entries: Sequence[str]) -> list[str]:
    return ["", title, *(f"  {entry}" for entry in entries)] if entries else []
