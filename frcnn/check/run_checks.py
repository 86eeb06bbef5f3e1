"""All checks of a data set, one after the other."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from frcnn.check import anchor_fit as fitting
from frcnn.check.box_checks import BoxFaults, find_in_boxes, find_near_repeats, judge_boxes
from frcnn.check.class_checks import (
    ClassCounts,
    count_classes,
    find_alike,
    find_category_gaps,
    find_in_classes,
    find_other_classes,
)
from frcnn.check.clusters import cluster_shapes, round_shapes
from frcnn.check.coordinates import guess_coordinates
from frcnn.check.file_checks import (
    find_in_annotation,
    find_in_images,
    find_lookalikes,
    find_repeated_images,
    find_without_objects,
)
from frcnn.check.findings import SEVERITIES, Example, Finding, Source
from frcnn.check.statistics import ground_truth, histograms
from frcnn.model.rpn.anchors import AnchorGenerator

SPLITS = ("train", "val")
MOST_MISSED = 0.25
"""Share of boxes without an anchor of iou_negative from which on the anchors are called unfit."""
LEAST_RECALL = 0.5
"""Share of boxes with an anchor of IoU 0.5 below which they are, too."""


class AnchorSettings(NamedTuple):
    """What the config says of anchors and resizing."""

    sizes: list[list[float]]
    """Of each level."""
    ratios: list[float]
    build: Callable[[list[list[float]], list[float]], AnchorGenerator]
    """From sizes and ratios, all else as configured."""
    short_sides: list[int]
    long_side: int
    test_sides: tuple[int, int]
    inside_only: bool
    skip_padding: bool
    iou_negative: float


class Suggestion(NamedTuple):
    """Anchors that k-means made of the training boxes."""

    sizes: list[list[float]]
    ratios: list[float]
    recall_50: float
    recall_70: float
    is_better: bool
    """Whether they gain a percent over the configured ones."""


@dataclass
class Check:
    """What came of it."""

    sources: list[Source]
    faults: list[BoxFaults]
    """Of each source."""
    class_names: list[str]
    has_given_classes: bool
    """Whether the config or a file says which classes there are; False where they are those found."""
    is_filter: bool
    """Whether the config lists the classes, so that objects of others are left out."""
    anchors: AnchorSettings
    counts: dict[str, ClassCounts]
    """Of train and val."""
    findings: list[Finding]
    histograms: dict[str, dict[str, Any]]
    fits: dict[str, fitting.AnchorFit]
    """Of train at its short sides, of val at that of evaluation; a split without boxes has none."""
    suggestion: Suggestion | None = None
    seconds: float = field(default=0.0)

    def of_severity(self, severity: str) -> list[Finding]:
        return [finding for finding in self.findings if finding.severity == severity]


def check_sources(
    sources: list[Source],
    class_names: list[str],
    anchors: AnchorSettings,
    *,
    has_given_classes: bool = True,
    is_filter: bool = False,
    findings: Sequence[Finding] = (),
) -> Check:
    """Run every check.

    Args:
        sources: with the facts of their image files, as far as these were read.
        class_names: K, in label order.
        has_given_classes, is_filter: see `Check`.
        findings: what was found on the way to here.
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

    check = Check(sources, faults, class_names, has_given_classes, is_filter, anchors, counts, findings, {}, {})
    for split in SPLITS:
        truth, owners = ground_truth(by_split[split], class_names)
        check.histograms[split] = histograms(truth)
        if len(owners):
            short_sides = anchors.short_sides if split == "train" else [anchors.test_sides[0]]
            long_side = anchors.long_side if split == "train" else anchors.test_sides[1]
            generator = anchors.build(anchors.sizes, anchors.ratios)
            fit = check.fits[split] = _fit(truth, anchors, generator, short_sides, long_side)
            if split == "train":
                check.findings += find_in_anchors(fit, owners, iou_negative=anchors.iou_negative)
                check.suggestion = suggest(truth, fit, anchors)
    check.findings.sort(key=lambda finding: SEVERITIES.index(finding.severity))
    return check


def find_in_anchors(
    fit: fitting.AnchorFit, owners: Sequence[tuple[Source, int]], *, iou_negative: float
) -> list[Finding]:
    """Boxes that no anchor reaches, those of the worst fit first, and whether they are too many."""
    findings: dict[int, Finding] = {}
    best = fit.iou.max(axis=0)
    missed = np.flatnonzero(fit.missed(iou_negative))
    for place in missed[np.argsort(best[missed], kind="stable")].tolist():
        source, number = owners[place]
        width, height = fit.sides[int(fit.iou[:, place].argmax()), place].tolist()
        text = f"{source.subject(number)}: best IoU {best[place]:.2f}, {width:.0f} x {height:.0f} pixels when resized"
        finding = findings.setdefault(id(source), Finding("anchors-miss", source.split, [], source))
        finding.examples.append(Example(text, int(source.raw.objects.rows[number]), (number,)))
    found = list(findings.values())
    share, recall = len(missed) / fit.iou.shape[1], fit.recall(0.5)
    if share > MOST_MISSED or recall < LEAST_RECALL:
        text = f"{share:.0%} of the boxes are below IoU {iou_negative:g} with every anchor, {recall:.0%} reach 0.5"
        found.append(Finding("anchors-unfit", "train", [Example(text)]))
    return found


def suggest(truth: fitting.GroundTruthBoxes, fit: fitting.AnchorFit, anchors: AnchorSettings) -> Suggestion:
    """As many anchors as are configured, made to measure; on a pyramid the smaller sizes go to the finer levels."""
    num_levels, per_level = len(anchors.sizes), len(anchors.sizes[0])
    sizes, ratios = round_shapes(
        *cluster_shapes(fit.sides.reshape(-1, 2), num_sizes=num_levels * per_level, num_ratios=len(anchors.ratios))
    )
    per_level_sizes = [sizes[start : start + per_level] for start in range(0, len(sizes), per_level)]
    generator = anchors.build(per_level_sizes, ratios)
    made = _fit(truth, anchors, generator, anchors.short_sides, anchors.long_side)
    gain = made.recall(0.5) + made.recall(0.7) - fit.recall(0.5) - fit.recall(0.7)
    return Suggestion(per_level_sizes, ratios, made.recall(0.5), made.recall(0.7), gain >= 0.01)


def _fit(
    truth: fitting.GroundTruthBoxes,
    anchors: AnchorSettings,
    generator: AnchorGenerator,
    short_sides: Sequence[int],
    long_side: int,
) -> fitting.AnchorFit:
    return fitting.fit_anchors(
        truth,
        generator,
        short_sides=short_sides,
        long_side=long_side,
        inside_only=anchors.inside_only,
        skip_padding=anchors.skip_padding,
    )


def summary(check: Check) -> dict[str, Any]:
    """The check as plain data, for a JSON file."""
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


def _fit_summary(fit: fitting.AnchorFit | None) -> dict[str, Any] | None:
    if fit is None or math.isnan(fit.recall(0.5)):
        return None
    return {
        "recall_50": fit.recall(0.5),
        "recall_70": fit.recall(0.7),
        "by_size": [group._asdict() for group in fitting.recall_by_size(fit)],
        "by_ratio": [group._asdict() for group in fitting.recall_by_ratio(fit)],
    }
