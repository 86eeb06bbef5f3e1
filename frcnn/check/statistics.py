"""What a data set holds: its boxes as they are trained on, and histograms of them."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from frcnn.check.anchor_fit import RATIO_EDGES, SIZE_EDGES, GroundTruthBoxes, group_names
from frcnn.check.box_checks import BoxFaults
from frcnn.check.class_checks import labels_of
from frcnn.check.findings import Source
from frcnn.data.dataset import DetectionDataset

RATIO_NAMES = ("1/3", "1/2", "3/4", "4/3", "2", "3")


def ground_truth(
    sources: Sequence[tuple[Source, BoxFaults]], class_names: Sequence[str]
) -> tuple[GroundTruthBoxes, list[tuple[Source, int]]]:
    """Boxes of a split that are trained on: usable, of a known class, in an image of known size, no ignore region.

    Returns:
        the boxes, and for each its source and column there.
    """
    boxes, rows, sizes, owners, start = [np.zeros((0, 4))], [np.zeros(0, np.int64)], [np.zeros((0, 2))], [], 0
    for source, faults in sources:
        objects = source.raw.objects
        size = np.array([(image.height, image.width) for image in source.raw.images], np.float64).reshape(-1, 2)
        has_size = np.count_nonzero(np.isfinite(size), axis=1) == 2
        is_used = faults.is_usable & (objects.rows >= 0) & ~objects.is_region & (labels_of(source, class_names) > 0)
        is_used[is_used] = has_size[objects.rows[is_used]]
        boxes.append(faults.clipped[is_used])
        rows.append(objects.rows[is_used] + start)
        sizes.append(np.nan_to_num(size, nan=1.0))
        owners += [(source, number) for number in np.flatnonzero(is_used).tolist()]
        start += len(size)
    return GroundTruthBoxes(np.concatenate(boxes), np.concatenate(rows), np.concatenate(sizes)), owners


def truth_of_dataset(dataset: DetectionDataset) -> GroundTruthBoxes:
    """The same of a data set that is read already."""
    records = dataset.records
    counts = [int((~record.is_ignored).sum()) for record in records]
    boxes = [record.boxes[~record.is_ignored] for record in records]
    return GroundTruthBoxes(
        boxes=np.concatenate([np.zeros((0, 4)), *boxes]),
        rows=np.repeat(np.arange(len(records)), counts),
        sizes=np.array([(record.height, record.width) for record in records], np.float64),
    )


def histograms(truth: GroundTruthBoxes) -> dict[str, Any]:
    """Boxes by size (square root of the area, pixels of the original image) and by ratio (height / width), in words.

    `percentiles` are the 5th, 50th and 95th.
    """
    sides = truth.boxes[:, 2:] - truth.boxes[:, :2]
    sizes, ratios = np.sqrt(sides.prod(axis=1)), sides[:, 1] / sides[:, 0]
    size_names = group_names([str(edge) for edge in SIZE_EDGES])
    return {
        "boxes": len(sides),
        "size": _histogram(sizes, SIZE_EDGES, size_names),
        "size_percentiles": _percentiles(sizes),
        "ratio": _histogram(ratios, RATIO_EDGES, group_names(RATIO_NAMES)),
        "ratio_percentiles": _percentiles(ratios),
    }


def _histogram(values: np.ndarray, edges: Sequence[float], names: Sequence[str]) -> dict[str, int]:
    counts = np.bincount(np.digitize(values, edges), minlength=len(names))
    return dict(zip(names, counts.tolist(), strict=True))


def _percentiles(values: np.ndarray) -> list[float]:
    return [round(float(value), 2) for value in np.percentile(values, (5, 50, 95))] if len(values) else []
