"""Checks of the configured anchors, and anchors suggested for the boxes of the training set."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from frcnn.check.anchor_fit import AnchorFit, GroundTruthBoxes, fit_anchors
from frcnn.check.clusters import cluster_shapes, round_shapes
from frcnn.check.findings import Example, Finding, Source
from frcnn.model.rpn.anchors import AnchorGenerator

MOST_MISSED = 0.25
"""The anchors do not fit if a larger share of the boxes has no anchor with an IoU of iou_negative or more."""
LEAST_RECALL = 0.5
"""The anchors do not fit if a smaller share of the boxes has an anchor with IoU >= 0.5."""


class AnchorSettings(NamedTuple):
    """The keys of a config that concern anchors and the resize."""

    sizes: list[list[float]]
    """Sizes of each level."""
    ratios: list[float]
    build: Callable[[list[list[float]], list[float]], AnchorGenerator]
    """Builds anchors of the given sizes and ratios, with everything else as configured."""
    short_sides: list[int]
    long_side: int
    test_sides: tuple[int, int]
    inside_only: bool
    skip_padding: bool
    iou_negative: float

    def fit(
        self,
        truth: GroundTruthBoxes,
        *,
        sizes: list[list[float]] | None = None,
        ratios: list[float] | None = None,
        is_train: bool = True,
    ) -> AnchorFit:
        """Find the best anchor of each box at the image sizes of training or evaluation.

        Args:
            sizes, ratios: None uses the configured ones.
        """
        return fit_anchors(
            truth,
            self.build(sizes or self.sizes, ratios or self.ratios),
            short_sides=self.short_sides if is_train else [self.test_sides[0]],
            long_side=self.long_side if is_train else self.test_sides[1],
            inside_only=self.inside_only,
            skip_padding=self.skip_padding,
        )


class Suggestion(NamedTuple):
    """Anchors found by k-means on the boxes of the training set."""

    sizes: list[list[float]]
    ratios: list[float]
    recall_50: float
    recall_70: float
    is_better: bool
    """Whether the sum of both recalls is at least 0.01 higher than with the configured anchors."""


def find_in_anchors(fit: AnchorFit, owners: Sequence[tuple[Source, int]], *, iou_negative: float) -> list[Finding]:
    """Find boxes whose best anchor has an IoU below `iou_negative`, worst first, and check if there are too many.

    Args:
        owners: source and column of each box of `fit`.
    """
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
    if problem := describe_misfit(fit, iou_negative=iou_negative):
        found.append(Finding("anchors-unfit", "train", [Example(problem)]))
    return found


def describe_misfit(fit: AnchorFit, *, iou_negative: float) -> str:
    """The reason why the anchors do not fit the boxes; empty if they fit."""
    share, recall = float(fit.missed(iou_negative).mean()), fit.recall(0.5)
    if share <= MOST_MISSED and recall >= LEAST_RECALL:
        return ""
    return (
        f"{share:.0%} of the boxes have no anchor with IoU >= {iou_negative:g}, {recall:.0%} have one with IoU >= 0.5"
    )


def suggest(truth: GroundTruthBoxes, fit: AnchorFit, anchors: AnchorSettings) -> Suggestion:
    """Find as many sizes and ratios as configured by k-means. With a pyramid, finer levels get the smaller sizes.

    Args:
        fit: fit of the configured anchors to the same boxes.
    """
    num_levels, per_level = len(anchors.sizes), len(anchors.sizes[0])
    sizes, ratios = round_shapes(
        *cluster_shapes(fit.sides.reshape(-1, 2), num_sizes=num_levels * per_level, num_ratios=len(anchors.ratios))
    )
    per_level_sizes = [sizes[start : start + per_level] for start in range(0, len(sizes), per_level)]
    made = anchors.fit(truth, sizes=per_level_sizes, ratios=ratios)
    gain = made.recall(0.5) + made.recall(0.7) - fit.recall(0.5) - fit.recall(0.7)
    return Suggestion(per_level_sizes, ratios, made.recall(0.5), made.recall(0.7), gain >= 0.01)
