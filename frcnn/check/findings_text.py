"""A check as text."""

from collections.abc import Sequence
from typing import Any

from frcnn.check.anchor_fit import AnchorFit, RecallGroup, recall_by_ratio, recall_by_size
from frcnn.check.findings import KINDS, SEVERITIES, Finding
from frcnn.check.run_checks import SPLITS, Check

BAR = 30
"""Characters of the longest bar."""
MOST_CLASSES = 100


def format_report(check: Check, *, most_examples: int = 3) -> str:
    """Findings first, the worst at the top; then what the data set holds; then the anchors; a verdict at the end."""
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
    """One line: how much was found."""
    counts = [(severity, len(check.of_severity(severity))) for severity in SEVERITIES]
    found = ", ".join(f"{count} {severity}{'s' if count != 1 else ''}" for severity, count in counts if count)
    return f"{found or 'nothing wrong was found'} ({check.seconds:.1f} s)"


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
        lines.append(
            f"{finding.severity.upper():8} {finding.split}: {finding.text} [{finding.kind}]"
            + (f"; {advice}" if advice else "")
        )
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
    lines = [f"{'class':{width}}   objects  in images  in val"]
    largest = max(1, *(row[1] for row in rows))
    for name, objects, images, in_val in rows[:MOST_CLASSES]:
        lines.append(f"{name:{width}}  {objects:8}  {images:9}  {in_val:6}  {_bar(objects, largest)}".rstrip())
    if len(rows) > MOST_CLASSES:
        lines.append(f"... and {len(rows) - MOST_CLASSES} more")
    return "\n".join(lines)


def _histograms(check: Check) -> str:
    found = check.histograms["train"]
    if not found["boxes"]:
        return ""
    low, middle, high = found["size_percentiles"]
    lines = [
        "size of the boxes in train: square root of the area in pixels of the file "
        f"(5, 50, 95 %: {low:g}, {middle:g}, {high:g})",
        *_histogram_lines(found["size"]),
    ]
    low, middle, high = found["ratio_percentiles"]
    lines += ["", f"height / width (5, 50, 95 %: {low:g}, {middle:g}, {high:g})", *_histogram_lines(found["ratio"])]
    return "\n".join(lines)


def _histogram_lines(counts: dict[str, Any]) -> list[str]:
    largest = max(1, *counts.values())
    return [f"  {name:12} {count:8}  {_bar(count, largest)}".rstrip() for name, count in counts.items()]


def _bar(count: int, largest: int) -> str:
    return "#" * -(-count * BAR // largest)


def _anchors(split: str, fit: AnchorFit) -> str:
    scales = "" if fit.iou.shape[0] == 1 else f", mean over {fit.iou.shape[0]} short sides"
    lines = [
        f"anchors on {split}, pixels after the resize{scales}: IoU 0.5 is reached for {fit.recall(0.5):.1%} "
        f"of the boxes, 0.7 for {fit.recall(0.7):.1%}"
    ]
    if split == "train":
        for title, groups in (("size", recall_by_size(fit)), ("height / width", recall_by_ratio(fit))):
            lines.append(f"  {title:16} share   IoU 0.5   IoU 0.7")
            lines += [_group_line(group) for group in groups]
    return "\n".join(lines)


def _group_line(group: RecallGroup) -> str:
    return f"  {group.name:14} {group.share:7.1%}  {group.recall_50:8.1%}  {group.recall_70:8.1%}"


def _suggestion(check: Check) -> str:
    made = check.suggestion
    if made is None:
        return ""
    if not made.is_better:
        return "anchors by k-means fit no better than those configured"
    sizes = made.sizes[0] if len(made.sizes) == 1 else made.sizes
    return (
        f"suggested anchors (k-means on IoU): IoU 0.5 for {made.recall_50:.1%}, 0.7 for {made.recall_70:.1%}\n"
        f'  "model.anchors.sizes={_numbers(sizes)}" "model.anchors.ratios={_numbers(made.ratios)}"'
    )


def _numbers(values: Sequence) -> str:
    inner = (_numbers(each) if isinstance(each, list) else f"{each:g}" for each in values)
    return f"[{', '.join(inner)}]"
