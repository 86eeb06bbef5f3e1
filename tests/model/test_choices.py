"""Every key in which implementations differ reaches the detector and has an effect.

The rules themselves are compared with other implementations in tests/oracle. Here each key is changed alone.
"""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from frcnn.config.schema import ModelConfig
from frcnn.errors import ConfigError
from frcnn.model.backbone.backbone import build_backbone
from frcnn.model.backbone.fpn import FeaturePyramid
from frcnn.model.build_detector import build_detector
from frcnn.model.matching import match_boxes
from frcnn.model.roi.heads import BoxPredictor, ConvFcHead
from frcnn.model.rpn.head import RpnHead
from frcnn.ops import boxes as box_ops
from frcnn.ops.nms import nms
from frcnn.structures import GroundTruth
from tests.model.detectors import C4, FPN, MEAN, STD, random_batch

OUTPUT_CHANGES = {
    "anchors.sizes": [[12.0], [24.0], [48.0], [96.0], [192.0]],
    "anchors.ratios": [0.7, 1.0, 1.4],
    "anchors.rounding": "torchvision",
    "anchors.centre": "middle",
    "rpn.pre_nms_top_n": {"train": 20, "test": 10},
    "rpn.post_nms_top_n": {"train": 20, "test": 5},
    "rpn.post_nms_top_n_per_level": {"train": 5, "test": 3},
    "rpn.nms_threshold": 0.3,
    "rpn.min_box_size": 20.0,
    "rpn.score_threshold": 0.8,
    "rpn.iou_positive": 0.4,
    "rpn.iou_negative": 0.05,
    "rpn.iou_low_quality": 0.69,
    "rpn.samples_per_image": 16,
    "rpn.positive_fraction": 0.01,
    "rpn.inside_only": True,
    "rpn.skip_padding": False,
    "rpn.smooth_l1_beta": 0.0,
    "roi.samples_per_image": 8,
    "roi.positive_fraction": 0.01,
    "roi.iou_positive": 0.2,
    "roi.iou_negative_low": 0.1,
    "roi.add_ground_truth": False,
    "roi.box_weights": (1.0, 1.0, 1.0, 1.0),
    "roi.smooth_l1_beta": 0.0,
    "roi.pooling.kind": "roi_pool",
    "roi.pooling.size": 7,
    "roi.pooling.sampling_ratio": 0,
    "roi.pooling.aligned": True,
    "roi.pooling.canonical_size": 60.0,
    "roi.pooling.canonical_level": 5,
    "detect.score_threshold": 0.3,
    "detect.nms_threshold": 0.1,
    "detect.max_detections": 3,
    "detect.min_box_size": 30.0,
    "max_growth": 1.01,
    "plus_one": True,
    "backbone.norm_eps": 0.5,
}
UNCHANGED = {"roi.pooling.size"}  # set to its default, to show that the comparison can fail


def changed(settings, key, value):
    """A copy of nested settings with the value of a dotted key replaced."""
    first, _, rest = key.partition(".")
    return settings | {first: changed(settings.get(first, {}), rest, value) if rest else value}


@pytest.fixture(scope="module")
def batch():
    torch.manual_seed(4)
    return random_batch(sizes=((64, 96), (64, 70)), objects=(4, 2))


def outputs(settings, batch):
    torch.manual_seed(0)
    detector = build_detector(ModelConfig.model_validate(settings), num_classes=3, mean=MEAN, std=STD)
    with torch.no_grad():
        for layer, scale in ((detector.rpn.objectness, 30), (detector.rpn.deltas, 30), (detector.rpn.convs[0], 3)):
            layer.weight *= scale
        detector.roi_head.predictor.deltas.weight *= 300
        detector.roi_head.predictor.classes.weight *= 10
        losses = detector.train().forward_train(batch)
        found = detector.eval().forward_detect(batch.images, batch.image_sizes, batch.original_sizes)
    return [*losses.values(), found.boxes.flatten(), found.scores.flatten()]


@pytest.fixture(scope="module")
def plain(batch):
    return outputs(FPN, batch)


@pytest.mark.parametrize("key", OUTPUT_CHANGES)
def test_key_changes_losses_or_detections(key, batch, plain):
    now = outputs(changed(FPN, key, OUTPUT_CHANGES[key]), batch)
    is_same = all(one.shape == two.shape and torch.equal(one, two) for one, two in zip(now, plain, strict=True))
    assert is_same == (key in UNCHANGED)


def test_normaliser_where_there_are_fewer_anchors_than_samples(batch):
    settings = changed(FPN, "rpn.samples_per_image", 5000)
    sampled, constant = (outputs(changed(settings, "rpn.normaliser", kind), batch) for kind in ("sampled", "constant"))
    assert constant[0] < sampled[0] and constant[1] < sampled[1]
    assert torch.equal(constant[2], sampled[2])


def test_min_box_size_counts_canvas_or_original_pixels(batch):
    """Original sizes are twice the image sizes, so 20 original pixels are 10 canvas pixels."""
    settings = changed(FPN, "rpn.min_box_size", 20.0)
    original = outputs(changed(settings, "rpn.min_box_size_in", "original"), batch)
    same = outputs(changed(FPN, "rpn.min_box_size", 10.0), batch)
    canvas = outputs(settings, batch)
    assert all(torch.equal(one, two) for one, two in zip(original, same, strict=True))
    assert not all(torch.equal(one, two) for one, two in zip(original, canvas, strict=True))


def test_bgr_reverses_the_channels_before_mean_and_deviation():
    def detector(channels, mean, std):
        torch.manual_seed(0)
        return build_detector(ModelConfig.model_validate(FPN), num_classes=3, mean=mean, std=std, channels=channels)

    image = torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8)
    size = torch.tensor([[32, 32]])
    bgr = detector("bgr", (1.0, 2.0, 3.0), (4.0, 5.0, 6.0)).normalise(image, size)
    expected = torch.stack([(image[0, 2 - i] - (1.0 + i)) / (4.0 + i) for i in range(3)])[None]
    torch.testing.assert_close(bgr, expected)


class TestObjectness:
    def test_softmax_has_two_logits_per_anchor_background_first(self):
        torch.manual_seed(0)
        head = RpnHead(8, channels=None, num_anchors=3, objectness="softmax")
        assert head.objectness.out_channels == 6
        feature = torch.randn(1, 8, 4, 5)
        hidden = F.relu(head.convs[0](feature))
        logits = head.objectness(hidden)[0].permute(1, 2, 0).reshape(-1, 2)  # anchor by anchor
        ours = head([feature]).objectness[0]
        torch.testing.assert_close(ours.sigmoid(), logits.softmax(dim=1)[:, 1])
        is_object = torch.randint(0, 2, ours.shape)
        torch.testing.assert_close(
            F.binary_cross_entropy_with_logits(ours, is_object.float()), F.cross_entropy(logits, is_object)
        )

    def test_num_convs(self):
        assert len(RpnHead(8, channels=16, num_anchors=3, num_convs=2).convs) == 2


def test_score_threshold_is_a_probability(batch, plain):
    """A threshold below all probabilities has no effect; a threshold above all of them leaves no proposal."""
    everything = outputs(changed(FPN, "rpn.score_threshold", 1e-6), batch)
    assert all(torch.equal(one, two) for one, two in zip(everything, plain, strict=True))
    nothing = outputs(changed(FPN, "rpn.score_threshold", 1.0), batch)
    assert nothing[-1].sum() == 0


def test_the_limit_per_level_is_applied_before_that_of_the_image():
    """Level 0 has the three best of five disjoint boxes. With a limit of two, the best box of level 1 is kept."""
    boxes = torch.tensor([[[float(x), 0.0, x + 5.0, 5.0] for x in range(0, 50, 10)]])
    scores, levels = torch.tensor([[5.0, 4, 3, 2, 1]]), torch.tensor([[0, 0, 0, 1, 1]])
    settings = {"groups": levels, "iou_threshold": 0.7, "k": 3}
    assert nms(boxes, scores, **settings)[0].tolist() == [[0, 1, 2]]
    assert nms(boxes, scores, **settings, k_per_group=2)[0].tolist() == [[0, 1, 3]]
    assert nms(boxes, scores, **settings, k_per_group=1)[1].tolist() == [[True, True, False]]


def test_low_quality_matches_need_their_iou():
    """The only anchor near the object has IoU 0.25."""
    anchors = torch.tensor([[[0.0, 0, 10, 10], [50, 50, 60, 60]]])
    is_real = torch.ones(1, 1, dtype=torch.bool)
    ground_truth = GroundTruth(torch.tensor([[[0.0, 0, 20, 20]]]), is_real.long(), ~is_real, is_real)
    assert match_boxes(anchors, ground_truth).is_best_of_object.tolist() == [[True, False]]
    assert match_boxes(anchors, ground_truth, iou_low_quality=0.25).is_best_of_object.tolist() == [[True, False]]
    assert match_boxes(anchors, ground_truth, iou_low_quality=0.3).is_best_of_object.tolist() == [[False, False]]


@pytest.mark.parametrize(("max_growth", "width"), [(62.5, 625.0), (2.0, 20.0), (None, 10 * math.exp(9))])
def test_growth_of_decoded_boxes(max_growth, width):
    box = box_ops.decode(torch.tensor([[0.0, 0, 9, 9]]), torch.tensor([[0.0, 0, 10, 10]]), max_growth=max_growth)
    torch.testing.assert_close(box[0, 2] - box[0, 0], torch.tensor(width))


class TestFirstWeights:
    """Variances of uniform weights (bound**2 / 3) for a layer with 400 inputs and 100 outputs."""

    VARIANCE = {"pytorch": 1 / (3 * 400), "caffe2_xavier": 1 / 400, "xavier": 2 / 500}

    @pytest.mark.parametrize("init", VARIANCE)
    def test_head(self, init):
        torch.manual_seed(0)
        head = ConvFcHead(16, size=5, channels=100, num_convs=0, num_fcs=2, norm="none", init=init)
        assert head.fc6.weight.var().item() == pytest.approx(self.VARIANCE[init], rel=0.05)
        assert (head.fc6.bias.abs().max() == 0) == (init != "pytorch")

    @pytest.mark.parametrize("init", ["caffe2_xavier", "xavier"])
    def test_neck(self, init):
        torch.manual_seed(0)
        neck = FeaturePyramid([400], channels=100, norm="none", init=init, extra_level=False)
        assert neck.lateral[0][0].weight.var().item() == pytest.approx(self.VARIANCE[init], rel=0.05)

    def test_predictor(self):
        torch.manual_seed(0)
        normal, pytorch = (
            BoxPredictor(400, num_classes=50, class_agnostic=False, init=init) for init in ("normal", "pytorch")
        )
        assert normal.classes.weight.std().item() == pytest.approx(0.01, rel=0.05)
        assert normal.deltas.weight.std().item() == pytest.approx(0.001, rel=0.05)
        assert pytorch.deltas.weight.var().item() == pytest.approx(self.VARIANCE["pytorch"], rel=0.05)

    def test_rpn(self):
        torch.manual_seed(0)
        head = RpnHead(64, channels=64, num_anchors=9)
        assert head.convs[0].weight.std().item() == pytest.approx(0.01, rel=0.05)
        assert head.convs[0].bias.abs().max() == 0

    @pytest.mark.parametrize(
        ("key", "value", "parameter"),
        [
            ("backbone.neck_init", "xavier", "backbone.neck.lateral.0.0.weight"),
            ("roi.head.init", "caffe2_xavier", "roi_head.head.fc6.weight"),
            ("roi.predictor_init", "pytorch", "roi_head.predictor.deltas.weight"),
        ],
    )
    def test_key_reaches_the_layer(self, key, value, parameter):
        stds = []
        for settings in (FPN, changed(FPN, key, value)):
            torch.manual_seed(0)
            detector = build_detector(ModelConfig.model_validate(settings), num_classes=3, mean=MEAN, std=STD)
            stds.append(detector.get_parameter(parameter).std())
        assert abs(stds[0] / stds[1] - 1) > 0.05


def test_conv_fc_has_convolutions_norm_and_one_layer():
    settings = changed(FPN, "roi.head", {"kind": "conv_fc", "convs": 2, "norm": "batch", "channels": 64})
    detector = build_detector(ModelConfig.model_validate(settings), num_classes=3, mean=MEAN, std=STD)
    kinds = [type(layer) for layer in detector.roi_head.head.convs]
    assert kinds == [nn.Conv2d, nn.BatchNorm2d, nn.ReLU] * 2
    assert not hasattr(detector.roi_head.head.fc7, "weight")


def test_dropout_of_vgg_fc():
    settings = {
        "backbone": {"name": "vgg16", "weights": None, "frozen_stages": 0},
        "roi": {"pooling": {"kind": "roi_pool"}, "head": {"kind": "vgg_fc", "dropout": 0.25}},
    }
    with torch.device("meta"):
        detector = build_detector(ModelConfig.model_validate(settings), num_classes=3, mean=MEAN, std=STD)
    found = [layer.p for layer in detector.roi_head.head.modules() if isinstance(layer, nn.Dropout)]
    assert found == [0.25, 0.25]


def test_neck_norm_batch():
    detector = build_detector(
        ModelConfig.model_validate(changed(FPN, "backbone.neck_norm", "batch")), num_classes=3, mean=MEAN, std=STD
    )
    convolution, norm = detector.backbone.neck.lateral[0]
    assert convolution.bias is None and isinstance(norm, nn.BatchNorm2d) and norm.weight.requires_grad


def body_of(name="resnet50", **changes):
    settings = {
        "name": name, "weights": None, "frozen_stages": 0, "norm": "bn", "neck": "none", "strides": [16],
        "neck_channels": 8, "neck_norm": "none", "extra_level": False, "head": "two_fc", "dropout": 0.0,
    }  # fmt: skip
    return build_backbone(**(settings | changes))[0]


class TestResnet:
    def test_stride_in_1x1(self):
        strides = {key: (block.conv1.stride[0], block.conv2.stride[0]) for key in (False, True)
                   for block in [body_of(stride_in_1x1=key).body.layer2[0]]}  # fmt: skip
        assert strides == {False: (1, 2), True: (2, 1)}

    def test_dilated_res5_keeps_stride_16_with_the_channels_of_res5(self):
        backbone = body_of(dilated_res5=True)
        assert (backbone.channels, backbone.strides) == (2048, (16,))
        assert {block.conv2.dilation for block in backbone.body.layer4} == {(2, 2)}

    def test_stem_pool_ceil_starts_at_the_first_pixel(self):
        padded, ceil = (body_of("resnet18", stem_pool=kind).body.maxpool for kind in ("padded", "ceil"))
        row = torch.arange(8.0).view(1, 1, 1, 8).expand(1, 1, 8, 8)
        assert padded(row)[0, 0, 0].tolist() == [1, 3, 5, 7]
        assert ceil(row)[0, 0, 0].tolist() == [2, 4, 6, 7]

    @pytest.mark.parametrize("changes", [{"stride_in_1x1": True}, {"dilated_res5": True}])
    def test_blocks_without_bottleneck_are_refused(self, changes):
        with pytest.raises(ConfigError, match="bottleneck"):
            body_of("resnet18", **changes)

    def test_other_networks_are_refused(self):
        with pytest.raises(ConfigError, match="not vgg16"):
            body_of("vgg16", stem_pool="ceil")

    @pytest.mark.parametrize(("name", "groups"), [("resnext50_32x4d", 32), ("resnet152", 1)])
    def test_wider_and_deeper_networks_exist(self, name, groups):
        with torch.device("meta"):
            assert body_of(name).body.layer1[0].conv2.groups == groups

    def test_norm_eps(self):
        eps = {module.eps for module in body_of(norm_eps=0.0).modules() if isinstance(module, nn.BatchNorm2d)}
        assert eps == {0.0}


def test_level_rule_reaches_the_pooling():
    detector = build_detector(
        ModelConfig.model_validate(changed(FPN, "roi.pooling.level_rule", "detectron2")),
        num_classes=3, mean=MEAN, std=STD,
    )  # fmt: skip
    assert detector.roi_head.pooling.level_rule == "detectron2"


def test_keys_of_resnet_reach_the_backbone():
    settings = changed(
        C4, "backbone", C4["backbone"] | {"name": "resnet50", "stride_in_1x1": True, "stem_pool": "ceil"}
    )
    with torch.device("meta"):
        detector = build_detector(ModelConfig.model_validate(settings), num_classes=3, mean=MEAN, std=STD)
    assert detector.roi_head.head.layer4[0].conv1.stride == (2, 2)
    assert detector.backbone.body.maxpool.ceil_mode
