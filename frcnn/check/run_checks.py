"""The sequence of all checks."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from frcnn.check.anchor_checks import AnchorSettings, Suggestion, find_in_anchors, suggest
from frcnn.check.anchor_fit import AnchorFit
from frcnn.check.box_checks import BoxFaults, find_in_boxes, find_near_repeats, judge_boxes
from frcnn.check.class_checks import (
    ClassCounts,
    count_classes,
    find_alike,
    find_category_gaps,
    find_in_classes,
    find_other_classes,
)
from frcnn.check.coordinates import guess_coordinates
from frcnn.check.file_checks import (
    find_in_annotation,
    find_in_images,
    find_lookalikes,
    find_repeated_images,
    find_without_objects,
)
from frcnn.check.findings import SEVERITIES, Finding, Source
from frcnn.check.statistics import ground_truth, histograms

SPLITS = ("train", "val")


@dataclass
class Check:
    """Results of all checks."""

    sources: list[Source]
    faults: list[BoxFaults]
    """The faults of the boxes of each source."""
    class_names: list[str]
    has_given_classes: bool
    """Whether the config or a file declares the classes. If False, they are the names found in the annotations."""
    is_filter: bool
    """Whether data.classes lists the classes, so that objects of other classes are skipped."""
    counts: dict[str, ClassCounts]
    """Counts by split."""
    findings: list[Finding]
    """All findings, most severe first."""
    histograms: dict[str, dict[str, Any]]
    """Histograms by split, see `statistics.histograms`."""
    fits: dict[str, AnchorFit]
    """Fits by split, at the image sizes of training (train) and evaluation (val). A split without boxes is missing."""
    suggestion: Suggestion | None = None
    seconds: float = field(default=0.0)

    def of_severity(self, severity: str) -> list[Finding]:
        return [finding for finding in self.findings if finding.severity == severity]


def check_sources(
    sources: list[Source],
    class_names: list[str],
    anchors: AnchorSettings,
    *,
    has_given_classes: bool,
    is_filter: bool,
    findings: Sequence[Finding],
) -> Check:
    """Run all checks.

    Args:
        sources: sources with facts about the image files that were read.
        class_names: K names in label order.
        has_given_classes, is_filter: see `Check`.
        findings: earlier findings to include.
    """
    faults = [judge_boxes(source.raw) for source in sources]
    by_split = {
        split: [(source, fault) for source, fault in zip(sources, faults, strict=True) if source.split == split]
        for split in SPLITS
    }
    counts = {split: count_classes(by_split[split], class_names) for split in SPLITS}
    findings = list(findings)
    for source, fault in zip(sources, faults, strict=True):
        findings += find_in_annotation(source)
        findings += find_in_boxes(source, fault)
        findings += find_near_repeats(source, fault)
        findings += find_other_classes(source, class_names, is_filter=is_filter)
        findings += guess_coordinates(source, fault)
        findings += find_in_images(source)
        findings += find_without_objects(source, fault, class_names)
    for source in {source.raw.name: source for source in reversed(sources)}.values():
        findings += find_category_gaps(source)
    other_names = sorted({name for source in sources for name in source.raw.names} - set(class_names))
    findings += find_in_classes(class_names, counts["train"], counts["val"], other_names=other_names)
    findings += find_alike(class_names, (counts["train"].objects + counts["val"].objects).tolist())
    findings += find_repeated_images(sources)
    findings += find_lookalikes(sources)

    check = Check(sources, faults, class_names, has_given_classes, is_filter, counts, findings, {}, {})
    for split in SPLITS:
        truth, owners = ground_truth(by_split[split], class_names)
        check.histograms[split] = histograms(truth)
        if len(owners):
            fit = check.fits[split] = anchors.fit(truth, is_train=split == "train")
            if split == "train":
                check.findings += find_in_anchors(fit, owners, iou_negative=anchors.iou_negative)
                check.suggestion = suggest(truth, fit, anchors)
    check.findings.sort(key=lambda finding: SEVERITIES.index(finding.severity))
    return check
