"""All metrics, as the content of eval.json and as a text table."""

from collections.abc import Sequence
from typing import Any

from frcnn.annotations import ImageDetections, ImageRecord
from frcnn.evaluation.coco import METRICS, evaluate_coco
from frcnn.evaluation.voc import evaluate_voc


def compute_metrics(
    records: Sequence[ImageRecord],
    detections: Sequence[ImageDetections],
    *,
    class_names: Sequence[str],
    backend: str = "auto",
) -> dict[str, Any]:
    """Compute COCO and VOC metrics, overall and for each class.

    Args:
        records: the annotations of n images.
        detections: detections of the same images in the same order.
        class_names: K names; label k is class_names[k - 1].
        backend: implementation of COCO's metrics, see `evaluate_coco`.

    Returns:
        plain data that can be written as JSON, without NaN:

        coco       the 12 metrics, in 0..1
        voc        mAP and mAP_11point at IoU 0.5
        per_class  {name: {AP, AP50, voc_AP, voc_AP_11point, objects}}
        images     n

        A metric is None if there is no object to measure it on. `objects` does not count crowds and difficult objects.
    """
    coco = evaluate_coco(records, detections, class_names=class_names, backend=backend)
    voc = evaluate_voc(records, detections, class_names=class_names)
    per_class = {}
    for name in class_names:
        by_coco, by_voc = coco["per_class"][name], voc["per_class"][name]
        per_class[name] = {
            "AP": by_coco["AP"],
            "AP50": by_coco["AP50"],
            "voc_AP": by_voc["AP"],
            "voc_AP_11point": by_voc["AP_11point"],
            "objects": by_voc["objects"],
        }
    return {
        "coco": {name: coco[name] for name in METRICS},
        "voc": {"mAP": voc["mAP"], "mAP_11point": voc["mAP_11point"]},
        "per_class": per_class,
        "images": len(records),
    }


def format_report(report: dict[str, Any]) -> str:
    """Format a report of `compute_metrics` as text: 12 COCO metrics, 2 VOC metrics, a row for each class with objects.

    Values are percentages; `-` stands for a metric that is None.
    """
    per_class = report["per_class"]
    measured = {name: row for name, row in per_class.items() if row["objects"]}
    lines = [f"images: {report['images']}   objects: {sum(row['objects'] for row in per_class.values())}", ""]
    lines += _table([["COCO", *METRICS[:6]], ["", *map(_percent, [report["coco"][name] for name in METRICS[:6]])]])
    lines += _table([["", *METRICS[6:]], ["", *map(_percent, [report["coco"][name] for name in METRICS[6:]])]], first=4)
    voc = report["voc"]
    lines += _table([["VOC", "mAP", "11-point"], ["", _percent(voc["mAP"]), _percent(voc["mAP_11point"])]], first=4)
    if measured:
        rows = [["class", "objects", "AP", "AP50", "VOC AP", "11-point"]]
        columns = ("AP", "AP50", "voc_AP", "voc_AP_11point")
        rows += [
            [name, str(row["objects"]), *(_percent(row[column]) for column in columns)]
            for name, row in measured.items()
        ]
        lines += ["", *_table(rows)]
    absent = [name for name in per_class if name not in measured]
    if absent:
        lines += ["", f"classes without objects in this dataset: {', '.join(absent)}"]
    return "\n".join(lines)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def _table(rows: list[list[str]], *, first: int = 0) -> list[str]:
    """Format rows: the first column left-aligned and at least `first` wide, the others right-aligned."""
    width = max(first, *(len(row[0]) for row in rows))
    widths = [max(7, *(len(row[column]) for row in rows)) for column in range(1, len(rows[0]))]
    return [
        "  ".join([row[0].ljust(width), *(cell.rjust(size) for cell, size in zip(row[1:], widths, strict=True))])
        for row in rows
    ]
