"""All metrics, as the content of eval.json and as a text table."""

from collections.abc import Sequence
from typing import Any

from frcnn.annotations import ImageDetections, ImageRecord
from frcnn.evaluation.coco import evaluate_coco
from frcnn.evaluation.voc import evaluate_voc

FAMILIES = {"coco": "", "voc": "voc_"}
"""Families of metrics in the order of a report, and the prefix of their names in a table of all metrics."""
TITLES = {"mAP_11point": "11-point", "voc_AP": "VOC AP", "voc_AP_11point": "11-point"}
"""Column titles that differ from the metric's name."""
METRICS_PER_LINE = 6


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

    A family of metrics is a function of records, detections and class names. It returns values by name, and
    values for each class under per_class. To add one, write its module and enter it here and in `FAMILIES`.

    Returns:
        plain data that can be written as JSON, without NaN:

        coco       the 12 metrics, in 0..1
        voc        mAP and mAP_11point at IoU 0.5
        per_class  {name: {AP, AP50, voc_AP, voc_AP_11point, objects}}
        images     n

        A metric is None if there is no object to measure it on. `objects` does not count crowds and difficult objects.
    """
    results = {
        "coco": evaluate_coco(records, detections, class_names=class_names, backend=backend),
        "voc": evaluate_voc(records, detections, class_names=class_names),
    }
    rows_of = {family: results[family].pop("per_class") for family in FAMILIES}
    per_class = {
        name: {
            f"{prefix}{metric}": value
            for family, prefix in FAMILIES.items()
            for metric, value in rows_of[family][name].items()
            if metric != "objects"
        }
        | {"objects": rows_of["voc"][name]["objects"]}
        for name in class_names
    }
    return {**{family: results[family] for family in FAMILIES}, "per_class": per_class, "images": len(records)}


def flat_metrics(report: dict[str, Any]) -> dict[str, float | None]:
    """The metrics of all families in one mapping: AP and the other COCO metrics, voc_mAP, voc_mAP_11point."""
    return {
        f"{prefix}{metric}": value for family, prefix in FAMILIES.items() for metric, value in report[family].items()
    }


def format_report(report: dict[str, Any]) -> str:
    """Format a report of `compute_metrics` as text: the metrics of each family, and a row for each class with objects.

    Values are percentages; `-` stands for a metric that is None.
    """
    per_class = report["per_class"]
    measured = {name: row for name, row in per_class.items() if row["objects"]}
    lines = [f"images: {report['images']}   objects: {sum(row['objects'] for row in per_class.values())}", ""]
    for family in FAMILIES:
        metrics = list(report[family].items())
        for start in range(0, len(metrics), METRICS_PER_LINE):
            names, values = zip(*metrics[start : start + METRICS_PER_LINE], strict=True)
            title = family.upper() if start == 0 else ""
            lines += _table([[title, *map(_title, names)], ["", *map(_percent, values)]], first=4)
    if measured:
        columns = [column for column in next(iter(measured.values())) if column != "objects"]
        rows = [["class", "objects", *map(_title, columns)]]
        rows += [
            [name, str(row["objects"]), *(_percent(row[column]) for column in columns)]
            for name, row in measured.items()
        ]
        lines += ["", *_table(rows)]
    absent = [name for name in per_class if name not in measured]
    if absent:
        lines += ["", f"classes without objects in this dataset: {', '.join(absent)}"]
    return "\n".join(lines)


def _title(metric: str) -> str:
    return TITLES.get(metric, metric)


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
