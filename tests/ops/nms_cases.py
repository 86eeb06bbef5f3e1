"""Hard cases for NMS, compared with torchvision. Run as a program, it tests Triton's interpreter."""

import torch
import torchvision

CASES = [
    # boxes, groups, threshold, k, k_per_group
    (300, 1, 0.5, 400, 400),
    (300, 1, 0.7, 25, 25),
    (400, 5, 0.3, 150, 150),
    (400, 5, 0.7, 150, 6),
    (130, 90, 0.5, 100, 100),
    (7, 2, 0.5, 20, 3),
]


def hard_boxes(count):
    """Overlapping boxes on a grid with equal IoUs, duplicates, boxes without area, tied scores and empty slots."""
    corner = torch.randint(0, 60, (count, 2)).float()
    size = torch.randint(0, 5, (count, 2)).float() * 10
    boxes = torch.cat([corner, corner + size], dim=1)
    boxes[::5] += torch.rand(len(boxes[::5]), 1)
    boxes[1 : count // 3] = boxes[count // 3 : 2 * (count // 3) - 1]
    scores = (torch.rand(count) * 20).round() / 20
    scores[::7] = -torch.inf
    return boxes, scores


def kept_by_torchvision(boxes, scores, groups, *, threshold, k, k_per_group):
    """Positions of the kept boxes, best first, by torchvision's CPU kernel on each group."""
    kept = []
    for group in groups.unique():
        members = torch.nonzero((groups == group) & (scores > -torch.inf)).squeeze(1)
        kept += members[torchvision.ops.nms(boxes[members], scores[members].to(boxes.dtype), threshold)].tolist()[
            :k_per_group
        ]
    return sorted(kept, key=lambda position: (-scores[position].item(), position))[:k]


def check(first_kept_of_batch, dtype=torch.float32):
    """Compare an implementation for a batch with torchvision on all cases."""
    torch.manual_seed(0)
    for count, num_groups, threshold, k, k_per_group in CASES:
        boxes, scores = map(torch.stack, zip(hard_boxes(count), hard_boxes(count), strict=True))
        boxes, groups = boxes.to(dtype), torch.randint(0, num_groups, (2, count))
        numbers = {"threshold": threshold, "k": k, "k_per_group": k_per_group}
        index, valid = first_kept_of_batch(boxes, scores, groups, **numbers)
        for image in range(2):
            expected = kept_by_torchvision(boxes[image], scores[image], groups[image], **numbers)
            assert index[image][valid[image]].tolist() == expected, (count, num_groups, image)
            assert valid[image].tolist() == [True] * len(expected) + [False] * (k - len(expected))
            assert not index[image][~valid[image]].any()


def by_triton(boxes, scores, groups, *, threshold, k, k_per_group):
    from frcnn.ops.nms import float32_below
    from frcnn.ops.nms_triton import first_kept

    return first_kept(boxes, scores, groups, iou_threshold=float32_below(threshold), k=k, k_per_group=k_per_group)


if __name__ == "__main__":
    check(by_triton)
    nothing = torch.full((1, 4), -torch.inf)
    index, valid = by_triton(torch.zeros(1, 4, 4), nothing, torch.zeros(1, 4).long(), threshold=0.5, k=3, k_per_group=3)
    assert index.tolist() == [[0, 0, 0]] and not valid.any()
    print("equal")
