"""R50-FPN, C4 and DC5 with Detectron2's numbers against an independent implementation of its formulas.

A random state dict with Detectron2's names is converted to ours, and used unchanged by `tests.oracle.detectron2`.
"""

from pathlib import Path

import pytest
import torch

from frcnn.config import load_config
from frcnn.convert.from_detectron2 import convert
from frcnn.data.formats.shapes import ShapesDataset
from frcnn.data.problems import ErrorPolicy
from frcnn.model.build_detector import build_detector
from frcnn.model.losses.losses import RoiLoss, RpnLoss
from frcnn.ops.roi_pooling import assign_levels
from frcnn.structures import AnchorLabels, RoiSamples, RpnOutput
from tests.convert import peers
from tests.oracle import detectron2
from tests.oracle.test_detector import assert_same_up_to_ties

BASE = Path(__file__).resolve().parents[2] / "configs" / "base"
NUM_CLASSES, SIZE = 5, (96, 128)
FEWER = ("model.rpn.post_nms_top_n.test=40", "data.train.format=shapes", "data.val.format=shapes")


def random_state(kind):
    """Layers that keep the scale of activations, and statistics of batch norm around 0 and 1."""
    generator = torch.Generator().manual_seed(5)
    state = {}
    for name, shape in peers.detectron2(kind, num_classes=NUM_CLASSES).items():
        if "cell_anchors" in name or name.startswith("pixel_"):
            continue
        if name.endswith("running_var") or name.endswith("norm.weight"):
            low, high = (0.2, 0.4) if "conv3.norm.weight" in name else (0.7, 1.3)
            value = torch.empty(shape).uniform_(low, high, generator=generator)
        else:
            fan_in = torch.Size(shape[1:]).numel()
            gain = 1.0 if "fpn" in name or "predictor" in name else 2.0
            std = (gain / fan_in) ** 0.5 if len(shape) > 1 else 0.1
            value = torch.randn(shape, generator=generator) * std
        state[name] = value.double()
    return state


@pytest.fixture(scope="module", params=["fpn", "c4", "dc5"])
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def state(kind):
    return random_state(kind)


@pytest.fixture(scope="module")
def ours(kind, state):
    config = load_config(BASE / f"detectron2_resnet50_{kind}.yaml", FEWER)
    data = config.data
    detector = build_detector(
        config.model, num_classes=NUM_CLASSES, mean=data.mean, std=data.std, channels=data.channels, pretrained=False
    )
    missing, unexpected = detector.load_state_dict(convert(state, None, file_name="").state, strict=False)
    assert not unexpected and all(name.endswith("num_batches_tracked") for name in missing)
    return detector.double().eval()


@pytest.fixture(scope="module")
def image():
    problems = ErrorPolicy("raise")
    return ShapesDataset(num_images=1, seed=1, height=SIZE[0], width=SIZE[1], problems=problems).read_image(0)


@torch.no_grad()
def test_detections_equal_its_formulas(kind, state, ours, image):
    pixels = (image.flip(0).float() - detectron2.MEAN)[None].double()
    maps = detectron2.features_of(state, pixels / 58, kind)  # see below
    ours.std = torch.full_like(ours.std, 58.0)  # both detectors work better with random layers if pixels have unit size
    features = ours.backbone(ours.normalise(image[None], torch.tensor([SIZE])))
    for mine, other in zip(features, maps, strict=True):
        torch.testing.assert_close(mine, other, atol=1e-6, rtol=1e-6)

    shapes = [tuple(level.shape[2:]) for level in maps]
    anchors = [
        detectron2.anchors_of(*shape, stride, sizes)
        for shape, stride, sizes in zip(shapes, detectron2.STRIDES[kind], detectron2.SIZES[kind], strict=True)
    ]
    pre_nms = 1000 if kind == "fpn" else 6000
    boxes = detectron2.proposals_of(detectron2.rpn_of(state, maps), anchors, SIZE, pre_nms=pre_nms, post_nms=40)
    logits, deltas = detectron2.head_of(state, maps, boxes, kind)
    expected, scores, labels = detectron2.detections_of(logits, deltas, boxes, SIZE)

    found = ours.forward_detect(image[None], torch.tensor([SIZE]))
    assert len(expected) >= 20
    same = {"boxes": expected, "scores": scores, "labels": labels + 1}
    assert_same_up_to_ties(found, 0, same, pixels=1e-3, score=1e-6)


def test_rpn_losses_are_divided_by_256_an_image():
    """This also holds if fewer anchors were sampled. The box loss is L1."""
    torch.manual_seed(0)
    anchors = torch.rand(300, 2).repeat(1, 2) * 100 + torch.tensor([0.0, 0, 30, 40])
    objects = torch.tensor([[[5.0, 5, 60, 70], [40, 30, 90, 120]]] * 2)
    labels = torch.randint(-1, 2, (2, 300), dtype=torch.int8)
    matched = torch.randint(0, 2, (2, 300))
    output = RpnOutput(torch.randn(2, 300), torch.randn(2, 300, 4))
    index = torch.arange(300).expand(2, -1)
    expected = detectron2.rpn_losses(
        output.objectness.flatten(),
        output.deltas.flatten(0, 1),
        anchors.repeat(2, 1),
        labels.flatten(),
        torch.cat([objects[image][matched[image]] for image in range(2)]),
        batch=2,
    )
    # 256 slots per image; slots are empty if fewer anchors were sampled.
    order = (labels >= 0).int().sort(dim=1, descending=True, stable=True).indices[:, :256]
    valid = labels.gather(1, order) >= 0
    assert valid.sum() == (labels >= 0).sum() < 512
    given = AnchorLabels(labels, matched)
    index = index.gather(1, order)
    constant, sampled = (
        RpnLoss(smooth_l1_beta=0.0, normaliser=normaliser)(output.at(index), anchors, given, objects, index, valid)
        for normaliser in ("constant", "sampled")
    )
    torch.testing.assert_close(torch.stack([*constant.values()]), torch.stack(expected))
    assert not torch.allclose(sampled["rpn_class"], expected[0])


def test_roi_losses_equal_its_formulas():
    torch.manual_seed(1)
    boxes = torch.rand(64, 2).repeat(1, 2) * 100 + torch.tensor([0.0, 0, 30, 40])
    objects = boxes + torch.rand(64, 4) * 10
    labels = torch.randint(0, 6, (64,))  # 0 is background
    logits, deltas = torch.randn(64, 6), torch.randn(64, 5, 4)
    samples = RoiSamples(boxes[None], labels[None], objects[None], torch.ones(1, 64, dtype=torch.bool))
    loss = RoiLoss(box_weights=(10.0, 10.0, 5.0, 5.0), smooth_l1_beta=0.0)
    ours = [*loss(logits[None], deltas[None], samples).values()]
    expected = detectron2.roi_losses(logits.roll(-1, 1), deltas, boxes, (labels - 1) % 6, objects)
    torch.testing.assert_close(torch.stack(ours), torch.stack(expected))


@pytest.mark.parametrize(
    ("below", "levels"),
    [
        (4e-7, {"torchvision": 3, "detectron2": 2, "mmdetection": 3}),
        (6e-7, {"torchvision": 3, "detectron2": 2, "mmdetection": 2}),
        (8e-7, {"torchvision": 2, "detectron2": 2, "mmdetection": 2}),
    ],
)
def test_level_of_a_region_just_below_a_power_of_two(below, levels):
    """The level is 4 + log2(0.5 (1 - below)) = 3 - below / ln 2. It is rounded up to 3 if `below` is small enough.

    The limit is 6.9e-7 with torchvision's 1e-6, 5e-7 with mmdetection's 2.5e-7 in the quotient, and 2e-8 with
    Detectron2's 1e-8.
    """
    side = 112 * (1 - below)
    box = torch.tensor([[0.0, 0.0, side, side]], dtype=torch.float64)
    strides = (4, 8, 16, 32)
    assert {rule: assign_levels(box, strides=strides, rule=rule).item() + 2 for rule in levels} == levels
