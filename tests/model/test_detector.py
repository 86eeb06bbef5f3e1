"""The parts of the detector, one by one and together."""

import dataclasses

import pytest
import torch

from frcnn.config.schema import ModelConfig
from frcnn.errors import ConfigError
from frcnn.model.build_detector import build_detector
from frcnn.model.roi.detection import DetectionSelector
from frcnn.model.roi.targets import RoiSampler
from frcnn.model.rpn.proposals import ProposalSelector
from frcnn.structures import Canvas, GroundTruth, Proposals, RpnOutput, total_loss
from tests.model.detectors import ALL, FPN, MEAN, STD, random_batch, small_detector

SAMPLE_ROIS = RoiSampler(
    num_samples=8,
    positive_fraction=0.25,
    iou_positive=0.5,
    iou_negative_low=0.0,
    ignore_overlap=0.5,
    add_ground_truth=True,
)
PROPOSE = ProposalSelector(
    pre_nms_top_n=100,
    post_nms_top_n=4,
    post_nms_top_n_per_level=None,
    nms_threshold=0.7,
    min_box_size=1.0,
    min_box_size_in="canvas",
    score_threshold=0.0,
    skip_padding=True,
    max_growth=62.5,
    plus_one=False,
)
SELECT = DetectionSelector(
    box_weights=(1.0, 1.0, 1.0, 1.0),
    score_threshold=0.05,
    nms_threshold=0.5,
    max_detections=3,
    pre_nms_top_n=100,
    min_box_size=0.01,
    max_growth=62.5,
    plus_one=False,
)


DRAW = torch.arange(3), torch.tensor([5])
"""Positions of the anchors in `scene`, and a seed."""


def scene():
    """One object, one crowd, one empty slot; proposals on the object, in the crowd, elsewhere, and an empty slot."""
    ground_truth = GroundTruth(
        boxes=torch.tensor([[[10.0, 10, 50, 50], [100, 100, 200, 200], [0, 0, 1, 1]]]),
        labels=torch.tensor([[2, 1, 0]]),
        is_ignored=torch.tensor([[False, True, False]]),
        valid=torch.tensor([[True, True, False]]),
    )
    boxes = torch.tensor([[[11.0, 11, 51, 51], [120, 120, 140, 140], [60, 60, 90, 90], [0, 0, 1, 1]]])
    valid = torch.tensor([[True, True, True, False]])
    return Proposals(boxes, torch.zeros(1, 4), torch.tensor([[2, 0, 1, 0]]), valid), ground_truth


def test_regions_are_sampled_by_the_rules():
    proposals, ground_truth = scene()
    samples = SAMPLE_ROIS(proposals, ground_truth, *DRAW)
    real = [(tuple(box.tolist()), label.item()) for box, label in zip(samples.boxes[0], samples.labels[0], strict=True)]
    drawn = {entry for entry, is_real in zip(real, samples.valid[0], strict=True) if is_real}
    assert drawn == {((11, 11, 51, 51), 2), ((10, 10, 50, 50), 2), ((60, 60, 90, 90), 0)}
    assert samples.gt_boxes[0, 0].tolist() == [10, 10, 50, 50]
    empty = ~samples.valid[0]
    assert samples.boxes[0][empty].tolist() == [[0, 0, 1, 1]] * 5 and (samples.labels[0][empty] == 0).all()


def test_ground_truth_is_added_only_if_configured():
    proposals, ground_truth = scene()
    samples = dataclasses.replace(SAMPLE_ROIS, add_ground_truth=False)(proposals, ground_truth, *DRAW)
    assert [10, 10, 50, 50] not in samples.boxes[0].tolist()


def test_background_has_a_lower_bound_of_iou():
    proposals, ground_truth = scene()
    samples = dataclasses.replace(SAMPLE_ROIS, iou_negative_low=0.1)(proposals, ground_truth, *DRAW)
    assert (samples.labels[0][samples.valid[0]] > 0).all()


def crowded_scene(*, slots):
    """More proposals than samples, around three objects, with `slots` ground-truth slots."""
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(1, 60, 2, generator=generator) * 80
    proposals = Proposals(
        torch.cat([corner, corner + 30], dim=2),
        torch.zeros(1, 60),
        torch.randperm(300, generator=generator)[None, :60],
        torch.ones(1, 60, dtype=torch.bool),
    )
    boxes = torch.tensor([0.0, 0, 1, 1]).repeat(1, slots, 1)
    boxes[0, :3] = torch.tensor([[10.0, 10, 40, 40], [60, 60, 90, 90], [20, 70, 50, 100]])
    valid = torch.arange(slots)[None] < 3
    return proposals, GroundTruth(boxes, valid.long(), torch.zeros_like(valid), valid)


def drawn_boxes(proposals, ground_truth, *, seed=5):
    samples = SAMPLE_ROIS(proposals, ground_truth, torch.arange(300), torch.tensor([seed]))
    assert samples.valid.all()
    return samples.boxes[0].tolist()


def test_sampled_regions_do_not_depend_on_their_slots():
    """The order of proposals, empty slots among them and the bucket of the ground truth do not change the sample."""
    proposals, ground_truth = crowded_scene(slots=8)
    expected = drawn_boxes(proposals, ground_truth)
    order = torch.randperm(60)
    shuffled = Proposals(*(field[:, order] for field in proposals))
    assert drawn_boxes(shuffled, ground_truth) == expected
    padded = Proposals(*(torch.cat([torch.zeros_like(field[:, :7]), field], dim=1) for field in proposals))
    assert drawn_boxes(padded, crowded_scene(slots=32)[1]) == expected
    assert drawn_boxes(proposals, ground_truth, seed=6) != expected


def test_sampled_anchors_do_not_depend_on_the_canvas_or_the_batch():
    """An image is trained on the same anchors alone and in a batch with a larger image."""
    rpn = small_detector().rpn

    def drawn(batch):
        map_sizes = [(batch.images.shape[2] // stride, batch.images.shape[3] // stride) for stride in (4, 8, 16, 32)]
        map_sizes.append(tuple((side + 1) // 2 for side in map_sizes[-1]))
        anchors = rpn.anchors(map_sizes, tuple(batch.images.shape[2:]))
        labels = rpn.label_anchors(anchors, batch.ground_truth, batch.image_sizes)
        index, valid = rpn.sample_anchors(labels, rpn.anchors.positions(map_sizes), batch.seed)
        return anchors[index[0]], labels.label[0, index[0]], valid[0]

    both = random_batch(sizes=((96, 128), (160, 224)), objects=(3, 2))
    ground_truth = GroundTruth(*(field[:1] for field in both.ground_truth))
    alone = type(both)(both.images[:1, :, :96, :128], *(field[:1] for field in both[1:-1]), ground_truth)
    for mine, other in zip(drawn(both), drawn(alone), strict=True):
        assert torch.equal(mine, other)


def canvas_of(size):
    return Canvas((128, 128), torch.tensor([size]), torch.ones(1))


def propose_with(objectness, *, deltas=None, anchors, per_level=None, size=(100, 100), **settings):
    objectness = torch.tensor([objectness])
    deltas = torch.zeros(1, len(anchors), 4) if deltas is None else deltas
    anchors = torch.tensor(anchors)
    return dataclasses.replace(PROPOSE, **settings)(
        RpnOutput(objectness, deltas), anchors, per_level or [len(anchors)], canvas_of(size)
    )


def test_proposals_are_clipped_suppressed_and_sorted():
    anchors = [[0.0, 0, 20, 20], [1, 0, 21, 20], [50, 50, 130, 90], [-30, -30, -10, 95], [110, 0, 150, 20]]
    proposals = propose_with([1.0, 2.0, 3.0, 4.0, 5.0], anchors=anchors)
    # 3 is empty once clipped, 4 is centered in the padding, 0 is suppressed by 1.
    assert proposals.valid[0].tolist() == [True, True, False, False]
    assert proposals.boxes[0, :2].tolist() == [[50, 50, 100, 90], [1, 0, 21, 20]]
    assert proposals.scores[0].tolist() == [3, 2, -torch.inf, -torch.inf]
    assert proposals.anchor_index[0].tolist() == [2, 1, 0, 0]


def test_levels_do_not_suppress_each_other():
    anchors = [[0.0, 0, 20, 20], [0, 0, 20, 20]]
    assert propose_with([1.0, 2.0], anchors=anchors).valid.sum() == 1
    assert propose_with([1.0, 2.0], anchors=anchors, per_level=[1, 1]).valid.sum() == 2


def test_pre_nms_top_n_counts_on_each_level():
    anchors = [[float(x), 0.0, x + 5.0, 5.0] for x in range(0, 60, 10)]
    proposals = propose_with([6.0, 5.0, 4.0, 3.0, 2.0, 1.0], anchors=anchors, per_level=[3, 3], pre_nms_top_n=2)
    assert proposals.boxes[0, :, 0].tolist() == [0, 10, 30, 40]


def detect_with(logits, deltas, boxes):
    count = len(boxes)
    index, valid = torch.arange(count)[None], torch.ones(1, count, dtype=torch.bool)
    proposals = Proposals(torch.tensor([boxes]), torch.zeros(1, count), index, valid)
    return SELECT(torch.tensor([logits]), deltas, proposals, canvas_of((100, 100)))


def test_each_class_has_its_own_box_and_its_own_suppression():
    deltas = torch.zeros(1, 2, 2, 4)
    deltas[0, 0, 1, 0] = 1.0  # the box of class 2 is one width to the right
    detections = detect_with([[0.0, 4.0, 3.9], [0.0, -0.5, -9.0]], deltas, [[10.0, 10, 20, 20], [11, 10, 21, 20]])
    assert detections.valid[0].tolist() == [True, True, False]
    assert detections.labels[0].tolist() == [1, 2, 0]  # the second proposal says class 1 again
    assert detections.boxes[0].tolist() == [[10, 10, 20, 20], [20, 10, 30, 20], [0, 0, 1, 1]]
    assert detections.scores[0, 2] == 0


def test_empty_proposals_and_low_scores_are_not_detected():
    deltas = torch.zeros(1, 2, 1, 4)
    detections = detect_with([[9.0, 0.0], [0.0, 9.0]], deltas, [[10.0, 10, 20, 20], [30, 30, 30, 60]])
    assert not detections.valid.any()


@pytest.mark.parametrize("kind", ALL)
def test_every_trainable_parameter_receives_a_gradient(kind):
    detector = small_detector(ALL[kind])
    total_loss(detector.forward_train(random_batch(objects=(4, 3)))).backward()
    for name, parameter in detector.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("kind", ALL)
def test_a_step_in_bfloat16_is_close_to_one_in_float32(kind):
    detector, batch = small_detector(ALL[kind]), random_batch(objects=(4, 3))
    losses, norms = [], []
    for is_enabled in (False, True):
        torch.manual_seed(1)
        detector.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=is_enabled):
            losses.append(detector.forward_train(batch))
        total_loss(losses[-1]).backward()
        norms.append(torch.stack([parameter.grad.norm() for parameter in detector.parameters()]))
    for name, exact in losses[0].items():
        torch.testing.assert_close(losses[1][name].float(), exact, rtol=0.05, atol=0.01)
    assert norms[1].isfinite().all()
    torch.testing.assert_close(norms[1].norm(), norms[0].norm(), rtol=0.1, atol=0)


def test_a_batch_without_any_object_trains():
    losses = small_detector().forward_train(random_batch(objects=(0, 0)))
    total_loss(losses).backward()
    assert all(loss.isfinite() for loss in losses.values())
    assert losses["rpn_box"] == 0 and losses["roi_box"] == 0 and losses["rpn_class"] > 0


def test_detections_lie_in_the_image_and_not_in_its_padding():
    detector, batch = small_detector().eval(), random_batch()
    select = detector.roi_head.select_detections
    detector.roi_head.select_detections = dataclasses.replace(select, score_threshold=0.0)
    with torch.no_grad():
        detections = detector.forward_detect(batch.images, batch.image_sizes)
    assert detections.valid.any(dim=1).all()
    for image, (height, width) in enumerate(batch.image_sizes.tolist()):
        boxes = detections.boxes[image][detections.valid[image]]
        assert (boxes >= 0).all() and (boxes[:, 2] <= width).all() and (boxes[:, 3] <= height).all()
        scores = detections.scores[image]
        assert (scores.diff() <= 0).all()


def test_an_image_gives_the_same_features_alone_and_padded():
    """Padding is 0 after normalization and not black, so it does not depend on the size of the canvas."""
    detector, batch = small_detector().eval(), random_batch()
    normalised = detector.normalise(batch.images, batch.image_sizes)
    assert (normalised[1, :, 96:] == 0).all() and (normalised[1, :, :, 128:] == 0).all()
    red = batch.images[0, 0].float()
    torch.testing.assert_close(normalised[0, 0], (red - MEAN[0]) / STD[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"backbone": FPN["backbone"] | {"norm": "frozen_bn"}}, "frozen layers would stay random.*backbone.norm=bn"),
        ({"backbone": FPN["backbone"] | {"frozen_stages": 1}}, "frozen_stages"),
        ({"anchors": {"sizes": [[32.0], [64.0]]}}, "2 lists for 5 levels"),
        ({"anchors": {"sizes": [[32.0, 40.0], [64.0], [8.0], [8.0], [8.0]]}}, "same number of sizes"),
    ],
)
def test_contradictory_settings_are_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        build_detector(ModelConfig.model_validate(FPN | change), num_classes=3, mean=MEAN, std=STD)
