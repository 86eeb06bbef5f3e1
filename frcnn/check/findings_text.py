"""Format the results of a check as text and as plain data."""

from collections.abc import Sequence
from typing import Any

from frcnn.check.anchor_fit import AnchorFit, RecallGroup, recall_by_ratio, recall_by_size
from frcnn.check.findings import KINDS, SEVERITIES, Finding
from frcnn.check.run_checks import SPLITS, Check

BAR = 30
"""Length of the longest bar in characters."""
MOST_CLASSES = 100
"""Number of classes that the report lists."""


def format_report(check: Check, *, most_examples: int = 3) -> str:
    """Format a check: sources, findings, classes, histograms, anchors, and a summary line at the end.

    Args:
        most_examples: number of cases to show for each finding.
    """
    parts = [
        _sources(check),
        _findings(check.findings, most_examples),
        _classes(check),
        _histograms(check),
        *(_anchors(split, check.fits[split]) for split in SPLITS if split in check.fits),
        _suggestion(check),
        verdict(check),
    ]
    return "\n\n".join(part for part in parts if part)


def verdict(check: Check) -> str:
    """Number of findings by severity in one line."""
    counts = [(severity, len(check.of_severity(severity))) for severity in SEVERITIES]
    found = ", ".join(f"{count} {severity}{'s' if count != 1 else ''}" for severity, count in counts if count)
    return f"{found or 'no problems found'} ({check.seconds:.1f} s)"


def summary(check: Check) -> dict[str, Any]:
    """The check as plain data for a JSON file."""
    return {
        "cases": {
            severity: sum(len(finding.examples) for finding in check.of_severity(severity)) for severity in SEVERITIES
        },
        "findings": [
            {
                "kind": finding.kind,
                "severity": finding.severity,
                "split": finding.split,
                "source": finding.source.raw.name if finding.source else None,
                "count": len(finding.examples),
                "cases": [
                    {"text": each.text, "image": str(finding.source.raw.images[each.row].image_id)}
                    if finding.source and each.row >= 0
                    else {"text": each.text}
                    for each in finding.examples
                ],
            }
            for finding in check.findings
        ],
        "splits": {
            split: {
                "images": sum(len(source.raw.images) for source in check.sources if source.split == split),
                "files_read": sum(
                    facts is not None for source in check.sources if source.split == split for facts in source.facts
                ),
                "classes": {
                    name: {"objects": int(objects), "images": int(images)}
                    for name, objects, images in zip(check.class_names, *check.counts[split], strict=True)
                },
                "boxes": check.histograms[split],
                "anchors": _fit_summary(check.fits.get(split)),
            }
            for split in SPLITS
        },
        "suggested_anchors": check.suggestion._asdict() if check.suggestion else None,
        "seconds": round(check.seconds, 2),
    }


def _fit_summary(fit: AnchorFit | None) -> dict[str, Any] | None:
    if fit is None:
        return None
    return {
        "recall_50": fit.recall(0.5),
        "recall_70": fit.recall(0.7),
        "by_size": [group._asdict() for group in recall_by_size(fit)],
        "by_ratio": [group._asdict() for group in recall_by_ratio(fit)],
    }


def _sources(check: Check) -> str:
    lines = []
    for source in check.sources:
        read = sum(facts is not None for facts in source.facts)
        lines.append(
            f"{source.split:6} {source.raw.name}: {len(source.raw.images)} images, {len(source.raw.objects.rows)} "
            f"objects; {read} image files read"
        )
    return "\n".join(lines)


def _findings(findings: Sequence[Finding], most_examples: int) -> str:
    lines = []
    for finding in findings:
        advice = KINDS[finding.kind].advice
        text = f"{finding.text}: {advice}" if advice else finding.text
        lines.append(f"{finding.severity.upper():8} {finding.split}: {text} [{finding.kind}]")
        lines += [f"           {example.text}" for example in finding.examples[:most_examples]]
        if len(finding.examples) > most_examples:
            lines.append(f"           ... and {len(finding.examples) - most_examples} more")
    return "\n".join(lines)


def _classes(check: Check) -> str:
    train, val = check.counts["train"], check.counts["val"]
    rows = sorted(
        zip(check.class_names, train.objects.tolist(), train.images.tolist(), val.objects.tolist(), strict=True),
        key=lambda row: -row[1],
    )
    width = max(5, *(len(row[0]) for row in rows))
    lines = [f"{'class':{width}}  train objects  train images  val objects"]
    largest = max(1, *(row[1] for row in rows))
    for name, objects, images, in_val in rows[:MOST_CLASSES]:
        lines.append(f"{name:{width}}  {objects:13}  {images:12}  {in_val:11}  {_bar(objects, largest)}".rstrip())
    if len(rows) > MOST_CLASSES:
        lines.append(f"... and {len(rows) - MOST_CLASSES} more")
    return "\n".join(lines)


def _histograms(check: Check) -> str:
    found = check.histograms["train"]
    if not found["boxes"]:
        return ""
    low, middle, high = found["size_percentiles"]
    lines = [
        "box sizes in train, square root of the area in original pixels "
        f"(percentiles 5, 50, 95: {low:g}, {middle:g}, {high:g})",
        *_histogram_lines(found["size"]),
    ]
    low, middle, high = found["ratio_percentiles"]
    lines += [
        "",
        f"box ratios in train, height / width (percentiles 5, 50, 95: {low:g}, {middle:g}, {high:g})",
        *_histogram_lines(found["ratio"]),
    ]
    return "\n".join(lines)


def _histogram_lines(counts: dict[str, Any]) -> list[str]:
    largest = max(1, *counts.values())
    return [f"  {name:12} {count:8}  {_bar(count, largest)}".rstrip() for name, count in counts.items()]


def _bar(count: int, largest: int) -> str:
    return "#" * -(-count * BAR // largest)


def _anchors(split: str, fit: AnchorFit) -> str:
    scales = "" if fit.iou.shape[0] == 1 else f", mean over {fit.iou.shape[0]} short sides"
    lines = [
        f"anchors on {split}, in pixels after the resize{scales}: {fit.recall(0.5):.1%} of the boxes have an anchor "
        f"with IoU >= 0.5, {fit.recall(0.7):.1%} with IoU >= 0.7"
    ]
    if split == "train":
        for title, groups in (("size", recall_by_size(fit)), ("height / width", recall_by_ratio(fit))):
            lines.append(f"  {title:14}   share   IoU 0.5   IoU 0.7")
            lines += [_group_line(group) for group in groups]
    return "\n".join(lines)


def _group_line(group: RecallGroup) -> str:
    return f"  {group.name:14} {group.share:7.1%}  {group.recall_50:8.1%}  {group.recall_70:8.1%}"


def _suggestion(check: Check) -> str:
    made = check.suggestion
    if made is None:
        return ""
    if not made.is_better:
        return "anchors from k-means do not fit better than the configured ones"
    sizes = made.sizes[0] if len(made.sizes) == 1 else made.sizes
    return (
        f"suggested anchors (k-means on IoU): {made.recall_50:.1%} of the boxes with IoU >= 0.5, "
        f"{made.recall_70:.1%} with IoU >= 0.7\n"
        f'  "model.anchors.sizes={_numbers(sizes)}" "model.anchors.ratios={_numbers(made.ratios)}"'
    )


def _numbers(values: Sequence) -> str:
    inner = (_numbers(each) if isinstance(each, list) else f"{each:g}" for each in values)
    return f"[{', '.join(inner)}]"
