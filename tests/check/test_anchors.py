"""Fit of anchors, compared with the IoU of all anchors with all boxes, and k-means."""

import numpy as np
import pytest
import torch

from frcnn.check.anchor_fit import GroundTruthBoxes, best_iou, fit_anchors, recall_by_ratio, recall_by_size
from frcnn.check.clusters import centred_iou, cluster_shapes, round_shapes, shapes_of
from frcnn.model.matching import is_on_image
from frcnn.model.rpn.anchors import AnchorGenerator
from frcnn.ops import boxes as box_ops


def random_boxes(count, height, width, seed=0):
    corners = np.random.default_rng(seed).uniform(0, 1, (count, 2, 2)) * [width, height]
    boxes = np.concatenate([corners.min(axis=1), corners.max(axis=1) + 1], axis=1).clip(0, [width, height] * 2)
    return torch.from_numpy(boxes).float()


@pytest.mark.parametrize("centre", ["corner", "middle"])
@pytest.mark.parametrize("strides_from", ["level", "canvas"])
@pytest.mark.parametrize("inside_only", [False, True])
@pytest.mark.parametrize("skip_padding", [False, True])
@pytest.mark.parametrize("size", [(75, 130), (96, 64), (33, 200)])
def test_best_iou_equals_the_maximum_over_all_anchors(centre, strides_from, inside_only, skip_padding, size):
    anchors = AnchorGenerator(
        sizes=[[12.0, 20.0], [30.0, 50.0], [70.0, 90.0]],
        ratios=[0.5, 1.0, 2.2],
        strides=[8, 16, 64],
        rounding="torchvision",
        centre=centre,
        strides_from=strides_from,
    )
    boxes, sizes = random_boxes(60, *size), torch.tensor([size])
    canvas = tuple(-(-side // 32) * 32 for side in size)
    everything = anchors([(-(-canvas[0] // stride), -(-canvas[1] // stride)) for stride in anchors.strides], canvas)
    counts = is_on_image(everything, sizes, inside_only=inside_only, skip_padding=skip_padding)[0]
    expected = torch.where(counts, box_ops.iou(boxes, everything), 0).amax(dim=1)
    found = best_iou(boxes, sizes.float().expand(60, 2), anchors, inside_only=inside_only, skip_padding=skip_padding)
    torch.testing.assert_close(found, expected)


def test_recall_over_scales_and_groups():
    anchors = AnchorGenerator(sizes=[[32.0]], ratios=[1.0], strides=[16])
    truth = GroundTruthBoxes(
        boxes=np.array([[16.0, 16, 48, 48], [0, 0, 8, 8]]), rows=np.array([0, 0]), sizes=np.array([[128.0, 128.0]])
    )
    fit = fit_anchors(truth, anchors, short_sides=[128, 64], long_side=200, inside_only=False, skip_padding=True)
    assert fit.iou.shape == (2, 2) and fit.iou[0, 0] == 1 and fit.iou[1, 0] == pytest.approx(0.25)
    assert fit.recall(0.5) == 0.25 and fit.missed(0.3).tolist() == [False, True]
    groups = {group.name: group for group in recall_by_size(fit)}
    assert groups["32 to 64"].recall_70 == 1 and groups["below 16"].recall_50 == 0
    assert [group.name for group in recall_by_ratio(fit)] == ["3/4 to 4/3"]


def test_recall_without_boxes_is_nan():
    anchors = AnchorGenerator(sizes=[[32.0]], ratios=[1.0], strides=[16])
    truth = GroundTruthBoxes(np.zeros((0, 4)), np.zeros(0, np.int64), np.zeros((0, 2)))
    fit = fit_anchors(truth, anchors, short_sides=[64], long_side=64, inside_only=False, skip_padding=True)
    assert np.isnan(fit.recall(0.5)) and recall_by_size(fit) == []


def test_clusters_recover_the_shapes_of_the_boxes():
    rng = np.random.default_rng(0)
    shapes = shapes_of(np.array([20.0, 60.0, 150.0]), np.array([0.5, 1.0, 2.0]))
    sides = np.repeat(shapes, 50, axis=0) * np.exp(rng.normal(0, 0.05, (450, 2)))
    sizes, ratios = round_shapes(*cluster_shapes(sides, num_sizes=3, num_ratios=3))
    assert sizes == pytest.approx([20, 60, 150], rel=0.05) and ratios == pytest.approx([0.5, 1, 2], rel=0.05)
    assert cluster_shapes(sides, num_sizes=3, num_ratios=3) == cluster_shapes(sides, num_sizes=3, num_ratios=3)


def test_clusters_of_fewer_boxes_than_shapes():
    sizes, ratios = cluster_shapes(np.array([[10.0, 20.0]]), num_sizes=3, num_ratios=2)
    assert sizes == pytest.approx([200**0.5] * 3) and ratios == pytest.approx([2.0, 2.0])


def test_centred_iou():
    assert centred_iou(np.array([[10.0, 10.0]]), np.array([[10.0, 10.0], [5.0, 10.0]])).tolist() == [[1.0, 0.5]]
