"""Detectron2's R50 detectors as functions of a state dict with its names, from the documented formulas.

Boxes are continuous, anchors centered on corners of positions, background is the last class. One image at a time.
"""

import math

import torch
import torchvision
from torch.nn import functional as F

STRIDES = {"c4": [16], "dc5": [16], "fpn": [4, 8, 16, 32, 64]}
SIZES = {"c4": [[32, 64, 128, 256, 512]], "dc5": [[32, 64, 128, 256, 512]], "fpn": [[32], [64], [128], [256], [512]]}
MEAN = torch.tensor([103.53, 116.28, 123.675])[:, None, None]  # BGR; the deviation is 1
BLOCKS = (3, 4, 6, 3)


def conv_norm(state, name, x, *, stride=1, padding=0, dilation=1):
    x = F.conv2d(x, state[f"{name}.weight"], stride=stride, padding=padding, dilation=dilation)
    scale = state[f"{name}.norm.weight"] / (state[f"{name}.norm.running_var"] + 1e-5).sqrt()
    shift = state[f"{name}.norm.bias"] - state[f"{name}.norm.running_mean"] * scale
    return x * scale[:, None, None] + shift[:, None, None]


def res_stage(state, prefix, stage, x, *, stride, dilation=1):
    """The stride is in the first 1x1 convolution, as in MSRA's networks."""
    for block in range(BLOCKS[stage - 2]):
        name = f"{prefix}res{stage}.{block}"
        step = stride if block == 0 else 1
        out = F.relu(conv_norm(state, f"{name}.conv1", x, stride=step))
        out = F.relu(conv_norm(state, f"{name}.conv2", out, padding=dilation, dilation=dilation))
        out = conv_norm(state, f"{name}.conv3", out)
        x = F.relu(out + (conv_norm(state, f"{name}.shortcut", x, stride=step) if block == 0 else x))
    return x


def features_of(state, image, kind):
    """BGR image 0..255, padded with 0 after the mean is subtracted -> maps, fine to coarse."""
    prefix = "backbone.bottom_up." if kind == "fpn" else "backbone."
    x = F.relu(conv_norm(state, f"{prefix}stem.conv1", image, stride=2, padding=3))
    x = F.max_pool2d(x, 3, stride=2, padding=1)
    maps = {}
    for stage in range(2, 5 if kind == "c4" else 6):
        is_dilated = kind == "dc5" and stage == 5
        stride = 1 if stage == 2 or is_dilated else 2
        x = maps[stage] = res_stage(state, prefix, stage, x, stride=stride, dilation=2 if is_dilated else 1)
    if kind != "fpn":
        return [x]
    levels, above = [], None
    for stage in (5, 4, 3, 2):
        name = f"backbone.fpn_lateral{stage}"
        merged = F.conv2d(maps[stage], state[f"{name}.weight"], state[f"{name}.bias"])
        if above is not None:
            merged = merged + F.interpolate(above, scale_factor=2.0, mode="nearest")
        above, name = merged, f"backbone.fpn_output{stage}"
        levels.insert(0, F.conv2d(merged, state[f"{name}.weight"], state[f"{name}.bias"], padding=1))
    return [*levels, F.max_pool2d(levels[-1], kernel_size=1, stride=2)]


def anchors_of(height, width, stride, sizes):
    cell = []
    for size in sizes:
        for ratio in (0.5, 1.0, 2.0):
            w = math.sqrt(size**2 / ratio)
            cell.append([-w / 2, -ratio * w / 2, w / 2, ratio * w / 2])
    shifts = [[x * stride, y * stride, x * stride, y * stride] for y in range(height) for x in range(width)]
    return (torch.tensor(shifts, dtype=torch.float64)[:, None] + torch.tensor(cell, dtype=torch.float64)).view(-1, 4)


def apply_deltas(deltas, boxes, weights):
    dx, dy, dw, dh = (deltas / deltas.new_tensor(weights)).unbind(-1)
    dw, dh = (side.clamp(max=math.log(1000 / 16)) for side in (dw, dh))
    width, height = boxes[..., 2] - boxes[..., 0], boxes[..., 3] - boxes[..., 1]
    x, y = boxes[..., 0] + width / 2 + dx * width, boxes[..., 1] + height / 2 + dy * height
    width, height = dw.exp() * width, dh.exp() * height
    return torch.stack([x - width / 2, y - height / 2, x + width / 2, y + height / 2], dim=-1)


def deltas_to(boxes, targets, weights):
    size, target = boxes[:, 2:] - boxes[:, :2], targets[:, 2:] - targets[:, :2]
    shift = ((targets[:, :2] + target / 2) - (boxes[:, :2] + size / 2)) / size
    return torch.cat([shift, (target / size).log()], dim=1) * boxes.new_tensor(weights)


def clip(boxes, height, width):
    return torch.stack([boxes[..., i].clamp(0, width if i % 2 == 0 else height) for i in range(4)], dim=-1)


def rpn_of(state, maps):
    """For each level: logits (H*W*k,) and deltas (H*W*k, 4)."""
    name, found = "proposal_generator.rpn_head", []
    for level in maps:
        hidden = F.relu(F.conv2d(level, state[f"{name}.conv.weight"], state[f"{name}.conv.bias"], padding=1))
        logits = F.conv2d(hidden, state[f"{name}.objectness_logits.weight"], state[f"{name}.objectness_logits.bias"])
        deltas = F.conv2d(hidden, state[f"{name}.anchor_deltas.weight"], state[f"{name}.anchor_deltas.bias"])
        k, (height, width) = logits.shape[1], logits.shape[2:]
        deltas = deltas.view(k, 4, height, width).permute(2, 3, 0, 1).reshape(-1, 4)
        found.append((logits[0].permute(1, 2, 0).flatten(), deltas))
    return found


def proposals_of(rpn, anchors, size, *, pre_nms, post_nms):
    boxes, scores, levels = [], [], []
    for level, ((logits, deltas), own) in enumerate(zip(rpn, anchors, strict=True)):
        best = logits.sort(descending=True).indices[:pre_nms]
        decoded = clip(apply_deltas(deltas[best], own[best], (1, 1, 1, 1)), *size)
        keep = ((decoded[:, 2] - decoded[:, 0]) > 0) & ((decoded[:, 3] - decoded[:, 1]) > 0)
        boxes.append(decoded[keep])
        scores.append(logits[best][keep])
        levels.append(torch.full_like(scores[-1], level))
    boxes, scores, levels = torch.cat(boxes), torch.cat(scores), torch.cat(levels)
    return boxes[torchvision.ops.batched_nms(boxes, scores, levels, 0.7)[:post_nms]]


def pool(maps, boxes, kind):
    size = 14 if kind == "c4" else 7
    maps = maps[:4] if kind == "fpn" else maps
    rois = torch.cat([torch.zeros(len(boxes), 1, dtype=boxes.dtype), boxes], dim=1)
    if len(maps) == 1:
        return torchvision.ops.roi_align(maps[0], rois, size, 1 / 16, 0, True)
    side = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).sqrt()
    level = torch.floor(4 + torch.log2(side / 224 + 1e-8)).clamp(2, 5)
    pooled = torch.zeros(len(boxes), maps[0].shape[1], size, size, dtype=boxes.dtype)
    for number, feature in enumerate(maps, start=2):
        mine = level == number
        pooled[mine] = torchvision.ops.roi_align(feature, rois[mine], size, 1 / 2**number, 0, True)
    return pooled


def head_of(state, maps, boxes, kind):
    """Logits (N, K + 1), background last, and deltas (N, K, 4)."""
    x = pool(maps, boxes, kind)
    if kind == "c4":
        x = res_stage(state, "roi_heads.", 5, x, stride=2).mean(dim=(2, 3))
    else:
        for layer in ("roi_heads.box_head.fc1", "roi_heads.box_head.fc2"):
            x = F.relu(F.linear(x.flatten(1), state[f"{layer}.weight"], state[f"{layer}.bias"]))
    name = "roi_heads.box_predictor"
    logits = F.linear(x, state[f"{name}.cls_score.weight"], state[f"{name}.cls_score.bias"])
    deltas = F.linear(x, state[f"{name}.bbox_pred.weight"], state[f"{name}.bbox_pred.bias"])
    return logits, deltas.view(len(boxes), -1, 4)


def detections_of(logits, deltas, boxes, size):
    """Boxes, scores and 0-based classes of the 100 best detections with area."""
    scores = logits.softmax(dim=1)[:, :-1]
    decoded = clip(apply_deltas(deltas, boxes[:, None].expand_as(deltas), (10, 10, 5, 5)), *size)
    region, label = torch.nonzero(scores > 0.05, as_tuple=True)
    decoded, scores = decoded[region, label], scores[region, label]
    kept = torchvision.ops.batched_nms(decoded, scores, label, 0.5)[:100]
    kept = kept[((decoded[kept, 2] - decoded[kept, 0]) > 0) & ((decoded[kept, 3] - decoded[kept, 1]) > 0)]
    return decoded[kept], scores[kept], label[kept]


def rpn_losses(logits, deltas, anchors, labels, matched, *, batch):
    """Losses of a batch: sums over sampled anchors (label 1 or 0; -1 for not sampled), divided by 256 per image."""
    sampled, positive = labels >= 0, labels == 1
    class_loss = F.binary_cross_entropy_with_logits(logits[sampled], labels[sampled].to(logits.dtype), reduction="sum")
    box_loss = (deltas[positive] - deltas_to(anchors[positive], matched[positive], (1, 1, 1, 1))).abs().sum()
    return class_loss / (256 * batch), box_loss / (256 * batch)


def roi_losses(logits, deltas, boxes, labels, matched):
    """Losses of the sampled regions; labels are 0-based, background is the last one."""
    foreground = torch.nonzero(labels < deltas.shape[1]).squeeze(1)
    own = deltas[foreground, labels[foreground]]
    target = deltas_to(boxes[foreground], matched[foreground], (10, 10, 5, 5))
    return F.cross_entropy(logits, labels), (own - target).abs().sum() / len(labels)
