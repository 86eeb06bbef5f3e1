"""Every reordered tensor, compared with the programs' documentation of their outputs."""

import math

import torch
from torch.nn import functional as F

from frcnn.convert.formats import find_conversion
from frcnn.model.roi.heads import BoxPredictor
from frcnn.model.rpn.anchors import cell_anchors
from frcnn.model.rpn.head import RpnHead
from frcnn.ops.boxes import decode
from tests.convert import peers

WIDTH = 6
SIZES = [32.0, 64.0, 128.0, 256.0, 512.0]
RATIOS = [0.5, 1.0, 2.0]


def convert(body, layers, content=None):
    """Convert a body without data and layers with data, in which all numbers differ."""
    state = peers.meta(body) | {name: tensor / 100 for name, tensor in peers.random(layers).items()}
    return state, find_conversion(state, content or {}, file_name="x").state


def run_rpn(state, feature, *, num_anchors, objectness):
    """Our RPN with the converted layers: objectness (H*W*k,), deltas (H*W*k, 4)."""
    head = RpnHead(
        feature.shape[1], channels=WIDTH, num_anchors=num_anchors, num_convs=1, objectness=objectness
    ).double()
    head.load_state_dict({name[4:]: value.double() for name, value in state.items() if name.startswith("rpn.")})
    with torch.no_grad():
        hidden = F.relu(head.convs[0](feature))
        output = head([feature])
        return hidden, output.objectness[0].double(), output.deltas[0].double()


def run_predictor(state, hidden, *, num_classes, class_agnostic=False):
    predictor = BoxPredictor(
        hidden.shape[1], num_classes=num_classes, class_agnostic=class_agnostic, init="normal"
    ).double()
    prefix = "roi_head.predictor."
    predictor.load_state_dict(
        {name.removeprefix(prefix): value.double() for name, value in state.items() if name.startswith(prefix)}
    )
    with torch.no_grad():
        return predictor(hidden)


def linear(state, name, inputs):
    """A peer's linear layer or 1x1 convolution on (N, D)."""
    return inputs @ state[f"{name}.weight"].double().flatten(1).T + state[f"{name}.bias"].double()


def only(shapes, *prefixes):
    return {name: shape for name, shape in shapes.items() if name.startswith(prefixes)}


# ----------------------------------------------------------------------------------------------------------- detectron2


def detectron2_anchors():
    """Ordered by size, then by ratio, as documented."""
    anchors = []
    for size in SIZES:
        for ratio in RATIOS:
            width = math.sqrt(size**2 / ratio)
            anchors.append([-width / 2, -ratio * width / 2, width / 2, ratio * width / 2])
    return torch.tensor(anchors)


def test_detectron2_anchors_and_background():
    name = "proposal_generator.rpn_head"
    body = only(peers.detectron2("c4"), "backbone", "roi_heads.res5")
    layers = peers.layer(f"{name}.conv", WIDTH, 4, 3, 3) | peers.layer(f"{name}.objectness_logits", 15, WIDTH, 1, 1)
    layers |= peers.layer(f"{name}.anchor_deltas", 60, WIDTH, 1, 1)
    layers |= peers.layer("roi_heads.box_predictor.cls_score", 4, WIDTH)
    layers |= peers.layer("roi_heads.box_predictor.bbox_pred", 12, WIDTH)
    theirs, ours = convert(body, layers)

    feature = torch.randn(1, 4, 3, 5).double()
    hidden, objectness, deltas = run_rpn(ours, feature, num_anchors=15, objectness="sigmoid")
    places = hidden[0].flatten(1).T  # (H*W, WIDTH)
    match = torch.cdist(cell_anchors(SIZES, RATIOS), detectron2_anchors()).argmin(dim=1)
    torch.testing.assert_close(cell_anchors(SIZES, RATIOS), detectron2_anchors()[match])
    assert match.tolist() != list(range(15))
    expected = linear(theirs, f"{name}.objectness_logits", places)[:, match]
    torch.testing.assert_close(objectness.reshape(15, 15), expected)
    expected = linear(theirs, f"{name}.anchor_deltas", places).unflatten(1, (15, 4))[:, match]
    torch.testing.assert_close(deltas.reshape(15, 15, 4), expected)

    regions = torch.randn(7, WIDTH).double()
    logits, box_deltas = run_predictor(ours, regions, num_classes=3)
    expected = linear(theirs, "roi_heads.box_predictor.cls_score", regions)
    torch.testing.assert_close(logits[:, 0], expected[:, 3])
    torch.testing.assert_close(logits[:, 1:], expected[:, :3])
    expected = linear(theirs, "roi_heads.box_predictor.bbox_pred", regions).unflatten(1, (3, 4))
    torch.testing.assert_close(box_deltas, expected)


def test_detectron2_anchors_keep_their_order_with_one_size_per_level():
    name = "proposal_generator.rpn_head"
    shapes = peers.detectron2("fpn")
    layers = only(shapes, "roi_heads.box_predictor") | peers.layer(f"{name}.objectness_logits", 3, WIDTH, 1, 1)
    theirs, ours = convert(only(shapes, "backbone"), layers)
    assert torch.equal(ours["rpn.objectness.weight"], theirs[f"{name}.objectness_logits.weight"])


def test_detectron2_resnet_names():
    """Convolutions and norms get the names of torchvision's blocks."""
    name = "backbone.bottom_up"
    layers = {
        f"{name}.stem.conv1.norm.running_var": (64,),
        f"{name}.res4.5.conv2.norm.weight": (256,),
        f"{name}.res3.0.shortcut.weight": (512, 256, 1, 1),
        f"{name}.res3.0.shortcut.norm.running_mean": (512,),
    }
    theirs, ours = convert(only(peers.detectron2("fpn"), "backbone", "proposal", "roi_heads"), layers)
    for old, new in zip(
        layers,
        (
            "bn1.running_var",
            "layer3.5.bn2.weight",
            "layer2.0.downsample.0.weight",
            "layer2.0.downsample.1.running_mean",
        ),
        strict=True,
    ):
        assert torch.equal(ours[f"backbone.body.{new}"], theirs[old])


# ---------------------------------------------------------------------------------------------------------------- vgg16


def test_simple_faster_rcnn_boxes_y_before_x():
    layers = peers.layer("rpn.conv1", WIDTH, 4, 3, 3) | peers.layer("rpn.score", 18, WIDTH, 1, 1)
    layers |= peers.layer("rpn.loc", 36, WIDTH, 1, 1)
    layers |= peers.layer("head.cls_loc", 16, WIDTH) | peers.layer("head.score", 4, WIDTH)
    theirs, ours = convert(peers.vgg16("extractor."), layers)
    feature = torch.randn(1, 4, 2, 3).double() / 50
    hidden, objectness, deltas = run_rpn(ours, feature, num_anchors=9, objectness="softmax")
    places = hidden[0].flatten(1).T

    pairs = linear(theirs, "rpn.score", places).reshape(-1, 2)  # (H*W*9, 2), (background, object)
    torch.testing.assert_close(objectness.sigmoid(), pairs.softmax(dim=1)[:, 1])
    anchors = torch.rand(54, 4).double() * 100
    anchors[:, 2:] += anchors[:, :2] + 10
    boxes = decode_y_first(linear(theirs, "rpn.loc", places).reshape(-1, 4) / 1000, anchors)
    torch.testing.assert_close(decode(deltas / 1000, anchors).double(), boxes, rtol=1e-4, atol=1e-3)

    regions = torch.randn(5, WIDTH).double()
    logits, box_deltas = run_predictor(ours, regions, num_classes=3)
    torch.testing.assert_close(logits, linear(theirs, "head.score", regions))
    expected = linear(theirs, "head.cls_loc", regions).unflatten(1, (4, 4))[:, 1:]  # without background
    torch.testing.assert_close(box_deltas, expected[..., [1, 0, 3, 2]])


def decode_y_first(locations, anchors):
    """Boxes from (dy, dx, dh, dw) and xyxy anchors, as the program documents."""
    dy, dx, dh, dw = locations.unbind(1)
    width, height = anchors[:, 2] - anchors[:, 0], anchors[:, 3] - anchors[:, 1]
    x = dx * width + anchors[:, 0] + width / 2
    y = dy * height + anchors[:, 1] + height / 2
    width, height = dw.exp() * width, dh.exp() * height
    return torch.stack([x - width / 2, y - height / 2, x + width / 2, y + height / 2], dim=1)


def test_jwyang_logits_and_background():
    layers = peers.layer("RCNN_rpn.RPN_Conv", WIDTH, 4, 3, 3) | peers.layer("RCNN_rpn.RPN_cls_score", 18, WIDTH, 1, 1)
    layers |= peers.layer("RCNN_rpn.RPN_bbox_pred", 36, WIDTH, 1, 1)
    layers |= peers.layer("RCNN_cls_score", 4, WIDTH) | peers.layer("RCNN_bbox_pred", 16, WIDTH)
    theirs, ours = convert(peers.vgg16("RCNN_base."), layers, {"pooling_mode": "align"})
    feature = torch.randn(1, 4, 2, 3).double() / 500
    hidden, objectness, deltas = run_rpn(ours, feature, num_anchors=9, objectness="softmax")

    places = hidden[0].flatten(1).T
    logits = linear(theirs, "RCNN_rpn.RPN_cls_score", places)  # (H*W, 18)
    probabilities = logits.reshape(-1, 2, 9).softmax(dim=1)  # background or object of each of 9
    torch.testing.assert_close(objectness.sigmoid().reshape(-1, 9), probabilities[:, 1])
    assert probabilities[:, 1].min() < 0.4 < probabilities[:, 1].max()
    torch.testing.assert_close(deltas, linear(theirs, "RCNN_rpn.RPN_bbox_pred", places).reshape(-1, 4))

    regions = torch.randn(5, WIDTH).double()
    class_logits, box_deltas = run_predictor(ours, regions, num_classes=3)
    torch.testing.assert_close(class_logits, linear(theirs, "RCNN_cls_score", regions))
    expected = linear(theirs, "RCNN_bbox_pred", regions).unflatten(1, (4, 4))
    torch.testing.assert_close(box_deltas, expected[:, 1:])


def test_jwyang_one_box_for_all_classes():
    layers = peers.layer("RCNN_rpn.RPN_bbox_pred", 36, WIDTH, 1, 1) | peers.layer("RCNN_rpn.RPN_Conv", WIDTH, 4, 3, 3)
    layers |= peers.layer("RCNN_cls_score", 4, WIDTH) | peers.layer("RCNN_bbox_pred", 4, WIDTH)
    theirs, ours = convert(peers.vgg16("RCNN_base."), layers, {"pooling_mode": "pool", "class_agnostic": True})
    assert torch.equal(ours["roi_head.predictor.deltas.weight"], theirs["RCNN_bbox_pred.weight"])


# ---------------------------------------------------------------------------------------------------------- mmdetection


def test_mmdetection_background():
    for version, head in ((2, "roi_head.bbox_head"), (1, "bbox_head")):
        shapes = peers.mmdetection(num_classes=3, version=version)
        layers = peers.layer(f"{head}.fc_cls", 4, WIDTH) | peers.layer(
            f"{head}.fc_reg", 12 if version == 2 else 16, WIDTH
        )
        theirs, ours = convert({name: shape for name, shape in shapes.items() if name not in layers}, layers)
        regions = torch.randn(5, WIDTH).double()
        logits, deltas = run_predictor(ours, regions, num_classes=3)
        their_logits = linear(theirs, f"{head}.fc_cls", regions)
        their_deltas = linear(theirs, f"{head}.fc_reg", regions).unflatten(1, (-1, 4))
        if version == 2:
            torch.testing.assert_close(logits, their_logits[:, [3, 0, 1, 2]])
            torch.testing.assert_close(deltas, their_deltas)
        else:
            torch.testing.assert_close(logits, their_logits)
            torch.testing.assert_close(deltas, their_deltas[:, 1:])


def test_converted_tensors_are_not_views():
    layers = peers.layer("roi_head.bbox_head.fc_cls", 4, WIDTH) | peers.layer("roi_head.bbox_head.fc_reg", 12, WIDTH)
    shapes = {name: shape for name, shape in peers.mmdetection(num_classes=3).items() if name not in layers}
    _, ours = convert(shapes, layers)
    for name in ("roi_head.predictor.classes.weight", "roi_head.predictor.classes.bias"):
        assert ours[name].untyped_storage().nbytes() == ours[name].numel() * 4
