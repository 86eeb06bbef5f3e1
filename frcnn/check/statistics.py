"""The boxes of a split that training uses, and histograms of their sizes and ratios."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from frcnn.check.anchor_fit import RATIO_GROUPS, SIZE_GROUPS, GroundTruthBoxes, Groups
from frcnn.check.box_checks import BoxFaults
from frcnn.check.findings import Source
from frcnn.data.dataset import DetectionDataset
from frcnn.data.formats.columns import image_sizes, labels_of


def ground_truth(
    sources: Sequence[tuple[Source, BoxFaults]], class_names: Sequence[str]
) -> tuple[GroundTruthBoxes, list[tuple[Source, int]]]:
    """Boxes of a split that training uses: usable, of a known class, in an image of known size, not ignore regions.

    Returns:
        The boxes, and the source and column of each.
    """
    boxes, rows, sizes, owners, start = [np.zeros((0, 4))], [np.zeros(0, np.int64)], [np.zeros((0, 2))], [], 0
    for source, faults in sources:
        objects = source.raw.objects
        size = image_sizes(source.raw)[:, ::-1]
        has_size = np.count_nonzero(np.isfinite(size), axis=1) == 2
        is_used = faults.is_usable & (objects.rows >= 0) & ~objects.is_region & (labels_of(source.raw, class_names) > 0)
        is_used[is_used] = has_size[objects.rows[is_used]]
        boxes.append(faults.clipped[is_used])
        rows.append(objects.rows[is_used] + start)
        sizes.append(np.nan_to_num(size, nan=1.0))
        owners += [(source, number) for number in np.flatnonzero(is_used).tolist()]
        start += len(size)
    return GroundTruthBoxes(np.concatenate(boxes), np.concatenate(rows), np.concatenate(sizes)), owners


def truth_of_dataset(dataset: DetectionDataset) -> GroundTruthBoxes:
    """Boxes of a dataset without ignore regions."""
    records = dataset.records
    counts = [int((~record.is_ignored).sum()) for record in records]
    boxes = [record.boxes[~record.is_ignored] for record in records]
    return GroundTruthBoxes(
        boxes=np.concatenate([np.zeros((0, 4)), *boxes]),
        rows=np.repeat(np.arange(len(records)), counts),
        sizes=np.array([(record.height, record.width) for record in records], np.float64),
    )


def histograms(truth: GroundTruthBoxes) -> dict[str, Any]:
    """Number of boxes by size (square root of the area in pixels of the original image) and ratio (height / width).

    Returns:
        "boxes": number of boxes. "size", "ratio": number of boxes by the name of the group. "size_percentiles",
        "ratio_percentiles": the 5th, 50th and 95th percentile, empty without boxes.
    """
    sides = truth.boxes[:, 2:] - truth.boxes[:, :2]
    sizes, ratios = np.sqrt(sides.prod(axis=1)), sides[:, 1] / sides[:, 0]
    return {
        "boxes": len(sides),
        "size": _histogram(sizes, SIZE_GROUPS),
        "size_percentiles": _percentiles(sizes),
        "ratio": _histogram(ratios, RATIO_GROUPS),
        "ratio_percentiles": _percentiles(ratios),
    }


def _histogram(values: np.ndarray, groups: Groups) -> dict[str, int]:
    counts = np.bincount(np.digitize(values, groups.edges), minlength=len(groups.names))
    return dict(zip(groups.names, counts.tolist(), strict=True))


def _percentiles(values: np.ndarray) -> list[float]:
    return [round(float(value), 2) for value in np.percentile(values, (5, 50, 95))] if len(values) else []
