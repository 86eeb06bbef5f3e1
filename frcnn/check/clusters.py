"""Anchor sizes and ratios fitted to the ground truth by k-means on IoU (Redmon and Farhadi 2017, section 2)."""

import numpy as np

ROUNDS = 60
MOST_BOXES = 50_000
"""Larger sets are subsampled at even steps to at most this number of boxes."""


def cluster_shapes(sides: np.ndarray, *, num_sizes: int, num_ratios: int) -> tuple[list[float], list[float]]:
    """Find sizes and ratios whose combinations fit the boxes.

    1. Start with quantiles of the sizes and of the ratios.
    2. Assign each box to the combination of size and ratio with the highest IoU, with both boxes at the same center.
    3. Set each size to the geometric mean of the sizes of its boxes, and each ratio to that of their ratios. Sizes and
       ratios without boxes stay unchanged.
    4. Repeat from 2 until the assignment is stable. Return the round with the highest mean IoU.

    The result is deterministic.

    Args:
        sides: (N, 2) width and height above 0, N at least 1.

    Returns:
        Sizes (square roots of areas) and ratios (height / width), both ascending.
    """
    sides = sides[:: -(-len(sides) // MOST_BOXES)].astype(np.float64)
    log_size, log_ratio = np.log(sides.prod(axis=1)) / 2, np.log(sides[:, 1] / sides[:, 0])
    sizes = _quantiles(log_size, num_sizes)
    ratios = _quantiles(log_ratio, num_ratios)
    best, best_fit = (sizes, ratios), -1.0
    owner = np.full(len(sides), -1)
    for _ in range(ROUNDS):
        iou = centred_iou(sides, shapes_of(np.exp(sizes), np.exp(ratios)))
        new_owner = iou.argmax(axis=1)
        fit = float(iou.max(axis=1).mean())
        if fit > best_fit:
            best, best_fit = (sizes, ratios), fit
        if (new_owner == owner).all():
            break
        owner = new_owner
        sizes = _means(log_size, owner // num_ratios, sizes)
        ratios = _means(log_ratio, owner % num_ratios, ratios)
    return sorted(np.exp(best[0]).tolist()), sorted(np.exp(best[1]).tolist())


def shapes_of(sizes: np.ndarray, ratios: np.ndarray) -> np.ndarray:
    """Width and height of all combinations, (num_sizes * num_ratios, 2). Ratios vary fastest."""
    size, ratio = np.repeat(sizes, len(ratios)), np.tile(ratios, len(sizes))
    return np.column_stack([size / np.sqrt(ratio), size * np.sqrt(ratio)])


def centred_iou(sides: np.ndarray, shapes: np.ndarray) -> np.ndarray:
    """IoU of boxes (N, 2) with shapes (S, 2), given by width and height, at the same center: (N, S)."""
    shared = np.minimum(sides[:, None], shapes).prod(axis=2)
    return shared / (sides.prod(axis=1)[:, None] + shapes.prod(axis=1) - shared)


def round_shapes(sizes: list[float], ratios: list[float]) -> tuple[list[float], list[float]]:
    """Round for a config: sizes of 10 or more to whole pixels, smaller ones to 0.1, ratios to 0.01."""
    rounded = [float(round(size)) if size >= 10 else round(size, 1) for size in sizes]
    return rounded, [max(0.01, round(ratio, 2)) for ratio in ratios]


def _quantiles(values: np.ndarray, count: int) -> np.ndarray:
    return np.quantile(values, (np.arange(count) + 0.5) / count)


def _means(values: np.ndarray, owner: np.ndarray, before: np.ndarray) -> np.ndarray:
    """Mean of the values of each owner. Owners without values keep the value in `before`."""
    counts = np.bincount(owner, minlength=len(before))
    sums = np.bincount(owner, weights=values, minlength=len(before))
    return np.where(counts > 0, sums / np.maximum(counts, 1), before)
