"""The original arithmetic (`plus_one`, rounded anchors) against an independent implementation in whole pixels.

Our boxes have continuous edges: the whole pixels x1..x2 are the box [x1, x2 + 1].
"""

import dataclasses

import numpy as np
import pytest
import torch

from frcnn.model.detector import FasterRCNN
from frcnn.model.roi.detection import DetectionSelector
from frcnn.model.roi.pooling import RoiPooling
from frcnn.model.rpn.anchors import AnchorGenerator, cell_anchors
from frcnn.model.rpn.proposals import ProposalSelector
from frcnn.ops import boxes as box_ops
from frcnn.ops.roi_pooling import roi_pool
from frcnn.structures import Canvas, GroundTruth, Proposals, RpnOutput
from tests.oracle import caffe

SIZES, RATIOS = (128.0, 256.0, 512.0), (0.5, 1.0, 2.0)
MATLAB = [
    [-83, -39, 100, 56],
    [-175, -87, 192, 104],
    [-359, -183, 376, 200],
    [-55, -55, 72, 72],
    [-119, -119, 136, 136],
    [-247, -247, 264, 264],
    [-35, -79, 52, 96],
    [-79, -167, 96, 184],
    [-167, -343, 184, 360],
]  # of the first position, as published by the authors: 1-based and inclusive


def edges(whole_pixels):
    """0-based inclusive pixels as continuous edges."""
    return torch.tensor(np.asarray(whole_pixels) + [0, 0, 1, 1], dtype=torch.float32)


def test_the_nine_anchors():
    anchors = AnchorGenerator(sizes=[SIZES], ratios=RATIOS, strides=(16,), rounding="caffe", centre="middle")
    first = anchors([(1, 1)], (16, 16))
    assert (first + torch.tensor([1.0, 1, 0, 0])).tolist() == MATLAB
    assert torch.equal(first, edges(caffe.anchors_of_a_cell(SIZES, RATIOS)))


def test_anchors_of_a_map_and_what_each_choice_changes():
    def anchors(rounding, centre):
        settings = {"sizes": [SIZES], "ratios": RATIOS, "strides": (16,)}
        return AnchorGenerator(**settings, rounding=rounding, centre=centre)([(3, 5)], (48, 80))

    expected = edges(caffe.anchors_of_a_map(caffe.anchors_of_a_cell(SIZES, RATIOS), 3, 5, 16))
    assert torch.equal(anchors("caffe", "middle"), expected)
    assert torch.equal(anchors("caffe", "corner"), expected - 8)
    # simple-faster-rcnn: exact sides around the middle.
    exact = anchors("none", "middle")[0]
    torch.testing.assert_close(
        exact, torch.tensor([8 - 128 / 2**0.5, 8 - 64 / 2**0.5, 8 + 128 / 2**0.5, 8 + 64 / 2**0.5])
    )
    assert not torch.equal(
        cell_anchors(SIZES, RATIOS, rounding="torchvision"), cell_anchors(SIZES, RATIOS, rounding="caffe")
    )


def test_arithmetic_of_whole_pixels_equals_that_of_their_edges():
    """IoU and encoding with + 1 on whole pixels equal our results on edges; only decoding differs."""
    generator = np.random.default_rng(0)
    corner = generator.integers(0, 200, (50, 2))
    boxes = np.concatenate([corner, corner + generator.integers(0, 90, (50, 2))], axis=1)
    ours = box_ops.iou(edges(boxes), edges(boxes))
    expected = [[caffe.iou(box, other) for other in boxes] for box in boxes]
    np.testing.assert_allclose(ours, expected, atol=1e-6)
    other = generator.permutation(boxes)
    np.testing.assert_allclose(box_ops.encode(edges(other), edges(boxes)), caffe.encode(boxes, other), atol=1e-5)


@pytest.fixture
def rpn_output():
    generator = torch.Generator().manual_seed(1)
    cell = caffe.anchors_of_a_cell((16.0, 32.0), RATIOS)
    whole = caffe.anchors_of_a_map(cell, 6, 9, 16)
    output = RpnOutput(
        torch.randn(1, len(whole), generator=generator), torch.randn(1, len(whole), 4, generator=generator) * 0.4
    )
    return whole, output


PROPOSE = ProposalSelector(
    pre_nms_top_n=10_000,
    post_nms_top_n=60,
    post_nms_top_n_per_level=None,
    nms_threshold=0.7,
    min_box_size=16.0,
    min_box_size_in="original",
    score_threshold=0.0,
    skip_padding=False,
    max_growth=None,
    plus_one=True,
)


def proposals_of(rpn_output, **changes):
    whole, output = rpn_output
    propose = dataclasses.replace(PROPOSE, **changes)
    found = propose(
        output, edges(whole), [len(whole)], Canvas((96, 160), torch.tensor([[90, 140]]), torch.tensor([1.6]))
    )
    return found.boxes[0][found.valid[0]]


def test_proposals_equal_the_proposal_layer(rpn_output):
    whole, output = rpn_output
    expected = caffe.propose(
        whole,
        output.deltas[0].numpy().astype(np.float64),
        output.objectness[0].numpy(),
        size=(90, 140),
        scale=1.6,
        pre_nms=10_000,
        post_nms=60,
        threshold=0.7,
        min_size=16,
    )
    ours = proposals_of(rpn_output)
    assert len(expected) > 20
    torch.testing.assert_close(ours, edges(expected), atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    "change", [{"plus_one": False}, {"min_box_size_in": "canvas"}, {"min_box_size": 0.0}, {"nms_threshold": 0.5}]
)
def test_each_rule_of_the_proposal_layer_matters(rpn_output, change):
    ours, other = proposals_of(rpn_output), proposals_of(rpn_output, **change)
    assert len(ours) != len(other) or not torch.allclose(ours, other, atol=1e-2)


def test_detections_equal_those_decoded_in_the_original_image():
    generator = torch.Generator().manual_seed(2)
    scale, size = 1.6, (100, 150)
    corner = torch.randint(0, 140, (40, 2), generator=generator)
    whole = torch.cat([corner, corner + torch.randint(4, 90, (40, 2), generator=generator)], dim=1).float().numpy()
    logits = torch.randn(1, 40, 4, generator=generator) * 2
    deltas = torch.randn(1, 40, 3, 4, generator=generator)
    index, valid = torch.arange(40)[None], torch.ones(1, 40, dtype=torch.bool)
    proposals = Proposals(edges(whole)[None], torch.zeros(1, 40), index, valid)
    canvas = Canvas((160, 256), torch.tensor([[160, 240]]), torch.tensor([scale]))
    select = DetectionSelector(
        box_weights=(10.0, 10.0, 5.0, 5.0),
        score_threshold=0.05,
        nms_threshold=0.3,
        max_detections=100,
        pre_nms_top_n=1000,
        min_box_size=0.0,
        max_growth=None,
        plus_one=True,
    )
    ours = select(logits, deltas, proposals, canvas)
    original = box_ops.to_original(ours.boxes, canvas.image_sizes, torch.tensor([size]))[0][ours.valid[0]]
    expected = caffe.detect(
        whole,
        logits[0].softmax(dim=1)[:, 1:].numpy(),
        (deltas[0] / torch.tensor([10.0, 10, 5, 5])).numpy().astype(np.float64),
        scale=scale,
        size=size,
        score_threshold=0.05,
        threshold=0.3,
    )
    assert len(expected) == len(original) > 20
    torch.testing.assert_close(original, edges(expected[:, :4]), atol=1e-3, rtol=0)
    assert ours.labels[0][ours.valid[0]].tolist() == expected[:, 5].tolist()
    plain = dataclasses.replace(select, plus_one=False)(logits, deltas, proposals, canvas)
    assert not torch.allclose(plain.boxes[0][:5], ours.boxes[0][:5], atol=1e-2)


def test_ground_truth_spans_whole_pixels_of_the_canvas():
    """The pixels 10..29 resized by 1.6 are 16..46.4 in the Caffe code, so [16, 47.4] as edges; otherwise [16, 48]."""
    detector = FasterRCNN.__new__(FasterRCNN)
    torch.nn.Module.__init__(detector)
    boxes = torch.tensor([[[10.0, 10, 30, 30]]]) * 1.6
    ground_truth = GroundTruth(boxes, torch.ones(1, 1), torch.zeros(1, 1).bool(), torch.ones(1, 1).bool())
    detector.plus_one = True
    moved = detector._ground_truth(ground_truth, torch.tensor([1.6])).boxes
    torch.testing.assert_close(moved, torch.tensor([[[16.0, 16, 47.4, 47.4]]]))
    detector.plus_one = False
    assert torch.equal(detector._ground_truth(ground_truth, torch.tensor([1.6])).boxes, boxes)


def test_roi_pool_equals_manually_computed_bins():
    """A region of pixels 24..103 x 8..55 at stride 16: columns round(1.5)=2 to round(6.44)=6, rows 1 to 3.

    Five columns in 2 bins: floor(0)..ceil(2.5) = 0..3 and floor(2.5)..ceil(5) = 2..5, so columns 2-4 and 4-6; three
    rows: 0..2 and 1..3, so rows 1-2 and 2-3. Values of the map increase, so each maximum is the last pixel of its bin.
    """
    feature = torch.arange(80.0).view(1, 1, 8, 10)
    pooling = RoiPooling(
        kind="roi_pool", size=2, strides=(16,), sampling_ratio=0, aligned=False, canonical_size=224.0,
        canonical_level=4, level_rule="torchvision", plus_one=True,
    )  # fmt: skip
    boxes = edges([[24, 8, 103, 55]])[None]
    pooled = pooling([feature], boxes)
    assert pooled[0, 0].tolist() == [[2 * 10 + 4, 2 * 10 + 6], [3 * 10 + 4, 3 * 10 + 6]]
    pooling = dataclasses.replace(pooling, plus_one=False)  # the edge 104 / 16 = 6.5 rounds to column 7
    assert pooling([feature], boxes)[0, 0].tolist() == [[2 * 10 + 4, 2 * 10 + 7], [4 * 10 + 4, 4 * 10 + 7]]


def test_roi_pool_equals_the_loop_over_bins():
    generator = torch.Generator().manual_seed(3)
    feature = torch.randn(1, 3, 12, 15, generator=generator)
    corner = torch.randint(0, 150, (30, 2), generator=generator)
    whole = torch.cat([corner, corner + torch.randint(0, 120, (30, 2), generator=generator)], dim=1).float()
    rois = torch.cat([torch.zeros(30, 1), whole], dim=1)
    ours = roi_pool([feature], rois, torch.zeros(30, dtype=torch.int64), strides=(16,), size=7)
    expected = [caffe.roi_pool(feature[0].numpy(), roi, stride=16, size=7) for roi in whole.numpy()]
    np.testing.assert_allclose(ours, np.array(expected), atol=1e-6)
