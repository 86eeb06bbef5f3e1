"""The arithmetic of py-faster-rcnn, implemented from its description in numpy loops.

Boxes are whole pixels, 0-based and inclusive: [x1, y1, x2, y2] covers x2 - x1 + 1 columns.
"""

import numpy as np


def anchors_of_a_cell(sizes, ratios):
    """Anchors of the 16 x 16 pixels 0..15, ratio by ratio; sides are rounded at size 16, then scaled."""
    centre = 7.5
    anchors = []
    for ratio in ratios:
        width = np.round(np.sqrt(16 * 16 / ratio))
        height = np.round(width * ratio)
        for size in sizes:
            w, h = width * size / 16, height * size / 16
            anchors.append([centre - (w - 1) / 2, centre - (h - 1) / 2, centre + (w - 1) / 2, centre + (h - 1) / 2])
    return np.array(anchors)


def anchors_of_a_map(cell, height, width, stride):
    return np.array(
        [box + stride * np.array([j, i, j, i]) for i in range(height) for j in range(width) for box in cell]
    )


def decode(boxes, deltas):
    """The far corner is not moved back by the 1 that was added to the width."""
    found = []
    for (x1, y1, x2, y2), (dx, dy, dw, dh) in zip(boxes, deltas, strict=True):
        width, height = x2 - x1 + 1, y2 - y1 + 1
        centre_x = x1 + 0.5 * width + dx * width
        centre_y = y1 + 0.5 * height + dy * height
        new_width, new_height = np.exp(dw) * width, np.exp(dh) * height
        found.append(
            [
                centre_x - 0.5 * new_width,
                centre_y - 0.5 * new_height,
                centre_x + 0.5 * new_width,
                centre_y + 0.5 * new_height,
            ]
        )
    return np.array(found)


def encode(boxes, targets):
    def measure(box):
        width, height = box[2] - box[0] + 1, box[3] - box[1] + 1
        return box[0] + 0.5 * width, box[1] + 0.5 * height, width, height

    found = []
    for box, target in zip(boxes, targets, strict=True):
        x, y, width, height = measure(box)
        target_x, target_y, target_width, target_height = measure(target)
        found.append(
            [
                (target_x - x) / width,
                (target_y - y) / height,
                np.log(target_width / width),
                np.log(target_height / height),
            ]
        )
    return np.array(found)


def clip(boxes, height, width):
    return np.stack([boxes[:, side].clip(0, (width if side % 2 == 0 else height) - 1) for side in range(4)], axis=1)


def iou(box, other):
    columns = min(box[2], other[2]) - max(box[0], other[0]) + 1
    rows = min(box[3], other[3]) - max(box[1], other[1]) + 1
    shared = max(columns, 0) * max(rows, 0)
    areas = [(each[2] - each[0] + 1) * (each[3] - each[1] + 1) for each in (box, other)]
    return shared / (sum(areas) - shared)


def nms(boxes, scores, threshold):
    kept = []
    for candidate in np.argsort(-scores, kind="stable"):
        if all(iou(boxes[candidate], boxes[better]) <= threshold for better in kept):
            kept.append(candidate)
    return kept


def propose(anchors, deltas, scores, *, size, scale, pre_nms, post_nms, threshold, min_size):
    """The proposal layer: boxes, best first."""
    boxes = clip(decode(anchors, deltas), *size)
    sides = boxes[:, 2:] - boxes[:, :2] + 1
    keep = np.flatnonzero((sides >= min_size * scale).all(axis=1))
    boxes, scores = boxes[keep], scores[keep]
    order = np.argsort(-scores, kind="stable")[:pre_nms]
    boxes, scores = boxes[order], scores[order]
    return boxes[nms(boxes, scores, threshold)[:post_nms]]


def detect(rois, scores, deltas, *, scale, size, score_threshold, threshold):
    """Detections of all classes in the original image, as rows of box, score, label; scores are (N, K)."""
    boxes = rois / scale
    found = []
    for label in range(scores.shape[1]):
        decoded = clip(decode(boxes, deltas[:, label]), *size)
        chosen = np.flatnonzero(scores[:, label] > score_threshold)
        for kept in nms(decoded[chosen], scores[chosen, label], threshold):
            found.append([*decoded[chosen][kept], scores[chosen][kept, label], label + 1])
    return np.array(sorted(found, key=lambda row: -row[4]))


def roi_pool(feature, roi, *, stride, size):
    """Maximum of each bin: (C, H, W) and one box -> (C, size, size)."""
    x1, y1, x2, y2 = (int(np.floor(side / stride + 0.5)) for side in roi)  # halves away from 0, as C's round
    height, width = max(y2 - y1 + 1, 1), max(x2 - x1 + 1, 1)
    pooled = np.zeros((feature.shape[0], size, size))
    for row in range(size):
        for column in range(size):
            top = np.clip(int(np.floor(row * height / size)) + y1, 0, feature.shape[1])
            bottom = np.clip(int(np.ceil((row + 1) * height / size)) + y1, 0, feature.shape[1])
            left = np.clip(int(np.floor(column * width / size)) + x1, 0, feature.shape[2])
            right = np.clip(int(np.ceil((column + 1) * width / size)) + x1, 0, feature.shape[2])
            if bottom > top and right > left:
                pooled[:, row, column] = feature[:, top:bottom, left:right].max(axis=(1, 2))
    return pooled
