"""Names and shapes of other programs' state dicts, written from their architectures and not from the converter."""

import torch

BLOCKS = {"resnet50": (3, 4, 6, 3), "resnet101": (3, 4, 23, 3), "resnext101_32x8d": (3, 4, 23, 3)}


def meta(shapes):
    """Tensors with shapes but no data, so that whole detectors need no memory."""
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


def random(shapes):
    """Tensors in which all numbers differ."""
    count = sum(torch.Size(shape).numel() for shape in shapes.values())
    parts = torch.randperm(count).float().split([torch.Size(shape).numel() for shape in shapes.values()])
    return {name: part.reshape(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}


def layer(name, *shape):
    """A layer with weight and bias."""
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def norm(name, channels, counter=False):
    found = {f"{name}.{last}": (channels,) for last in ("weight", "bias", "running_mean", "running_var")}
    return found | ({f"{name}.num_batches_tracked": ()} if counter else {})


def bottlenecks(network):
    """(stage 1..4, block, input, middle and output channels, input channels per group of the 3x3 convolution)."""
    before, is_wide = 64, network.startswith("resnext")
    for stage, count in enumerate(BLOCKS[network], start=1):
        out = 128 * 2**stage
        middle = out // 4 * (4 if is_wide else 1)
        for block in range(count):
            yield stage, block, before, middle, out, middle // (32 if is_wide else 1)
            before = out


def detectron2_resnet(network, prefix, stages):
    """Detectron2's ResNet: each convolution contains its norm."""
    shapes = {}
    if 0 in stages:
        shapes |= {f"{prefix}stem.conv1.weight": (64, 3, 7, 7)} | norm(f"{prefix}stem.conv1.norm", 64)
    for stage, block, before, middle, out, group in bottlenecks(network):
        if stage not in stages:
            continue
        name = f"{prefix}res{stage + 1}.{block}"
        convolutions = {
            "conv1": (middle, before, 1, 1),
            "conv2": (middle, group, 3, 3),
            "conv3": (out, middle, 1, 1),
        }
        if block == 0:
            convolutions["shortcut"] = (out, before, 1, 1)
        for convolution, shape in convolutions.items():
            shapes |= {f"{name}.{convolution}.weight": shape} | norm(f"{name}.{convolution}.norm", shape[0])
    return shapes


def detectron2(kind, *, network="resnet50", num_classes=80, anchors=None):
    """Names and shapes of a detector of Detectron2's model zoo; kind is fpn, c4 or dc5."""
    shapes = {"pixel_mean": (3, 1, 1), "pixel_std": (3, 1, 1)}
    if kind == "fpn":
        shapes |= detectron2_resnet(network, "backbone.bottom_up.", range(5))
        for level in range(2, 6):
            shapes |= layer(f"backbone.fpn_lateral{level}", 256, 64 * 2**level, 1, 1)
            shapes |= layer(f"backbone.fpn_output{level}", 256, 256, 3, 3)
        shapes |= {f"proposal_generator.anchor_generator.cell_anchors.{level}": (3, 4) for level in range(5)}
        channels, k = 256, anchors or 3
    else:
        shapes |= detectron2_resnet(network, "backbone.", range(4 if kind == "c4" else 5))
        shapes |= {"proposal_generator.anchor_generator.cell_anchors.0": (15, 4)}
        channels, k = 1024 if kind == "c4" else 2048, anchors or 15
    if kind == "c4":
        shapes |= detectron2_resnet(network, "roi_heads.", [4])
    else:
        shapes |= layer("roi_heads.box_head.fc1", 1024, channels * 49) | layer("roi_heads.box_head.fc2", 1024, 1024)
    shapes |= layer("proposal_generator.rpn_head.conv", channels, channels, 3, 3)
    shapes |= layer("proposal_generator.rpn_head.objectness_logits", k, channels, 1, 1)
    shapes |= layer("proposal_generator.rpn_head.anchor_deltas", 4 * k, channels, 1, 1)
    width = 2048 if kind == "c4" else 1024
    shapes |= layer("roi_heads.box_predictor.cls_score", num_classes + 1, width)
    return shapes | layer("roi_heads.box_predictor.bbox_pred", 4 * num_classes, width)


def vgg16(prefix):
    """The 13 convolutions by their positions among ReLU and pooling layers."""
    shapes, channels, place = {}, 3, 0
    for width, depth in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(depth):
            shapes |= layer(f"{prefix}{place}", width, channels, 3, 3)
            channels, place = width, place + 2
        place += 1
    return shapes


def simple_faster_rcnn(*, num_classes=20, second=2):
    """simple-faster-rcnn; `second` is the position of fc7 in the classifier, 3 if the program used dropout."""
    shapes = vgg16("extractor.") | layer("rpn.conv1", 512, 512, 3, 3)
    shapes |= layer("rpn.score", 18, 512, 1, 1) | layer("rpn.loc", 36, 512, 1, 1)
    shapes |= layer("head.classifier.0", 4096, 25088) | layer(f"head.classifier.{second}", 4096, 4096)
    return shapes | layer("head.cls_loc", 4 * (num_classes + 1), 4096) | layer("head.score", num_classes + 1, 4096)


def jwyang(network, *, num_classes=20, anchors=9, agnostic=False):
    """jwyang's faster-rcnn.pytorch; network is vgg16 or a ResNet."""
    if network == "vgg16":
        shapes = vgg16("RCNN_base.") | layer("RCNN_top.0", 4096, 25088) | layer("RCNN_top.3", 4096, 4096)
        channels, width = 512, 4096
    else:
        shapes = {"RCNN_base.0.weight": (64, 3, 7, 7)} | norm("RCNN_base.1", 64, counter=True)
        for stage, block, before, middle, out, group in bottlenecks(network):
            name = f"RCNN_top.0.{block}" if stage == 4 else f"RCNN_base.{stage + 3}.{block}"
            shapes |= torchvision_block(name, block, before, middle, out, group, counter=True)
        channels, width = 1024, 2048
    shapes |= layer("RCNN_rpn.RPN_Conv", 512, channels, 3, 3)
    shapes |= layer("RCNN_rpn.RPN_cls_score", 2 * anchors, 512, 1, 1)
    shapes |= layer("RCNN_rpn.RPN_bbox_pred", 4 * anchors, 512, 1, 1)
    shapes |= layer("RCNN_cls_score", num_classes + 1, width)
    return shapes | layer("RCNN_bbox_pred", 4 if agnostic else 4 * (num_classes + 1), width)


def torchvision_block(name, block, before, middle, out, group, *, counter):
    shapes = {f"{name}.conv1.weight": (middle, before, 1, 1)} | norm(f"{name}.bn1", middle, counter)
    shapes |= {f"{name}.conv2.weight": (middle, group, 3, 3)} | norm(f"{name}.bn2", middle, counter)
    shapes |= {f"{name}.conv3.weight": (out, middle, 1, 1)} | norm(f"{name}.bn3", out, counter)
    if block == 0:
        shapes |= {f"{name}.downsample.0.weight": (out, before, 1, 1)} | norm(f"{name}.downsample.1", out, counter)
    return shapes


def mmdetection(*, network="resnet50", num_classes=80, version=2):
    """mmdetection's faster_rcnn_r50_fpn."""
    shapes = {"backbone.conv1.weight": (64, 3, 7, 7)} | norm("backbone.bn1", 64, counter=True)
    for stage, block, *channels in bottlenecks(network):
        shapes |= torchvision_block(f"backbone.layer{stage}.{block}", block, *channels, counter=True)
    for level in range(4):
        shapes |= layer(f"neck.lateral_convs.{level}.conv", 256, 256 * 2**level, 1, 1)
        shapes |= layer(f"neck.fpn_convs.{level}.conv", 256, 256, 3, 3)
    shapes |= layer("rpn_head.rpn_conv", 256, 256, 3, 3)
    shapes |= layer("rpn_head.rpn_cls", 3, 256, 1, 1) | layer("rpn_head.rpn_reg", 12, 256, 1, 1)
    head = "bbox_head" if version == 1 else "roi_head.bbox_head"
    shapes |= layer(f"{head}.fc_cls", num_classes + 1, 1024)
    shapes |= layer(f"{head}.fc_reg", 4 * (num_classes + (version == 1)), 1024)
    return shapes | layer(f"{head}.shared_fcs.0", 1024, 12544) | layer(f"{head}.shared_fcs.1", 1024, 1024)
