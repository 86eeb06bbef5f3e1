"""Pure functions against torchvision's."""

import pytest
import torch
import torchvision
from torch.autograd.graph import saved_tensors_hooks
from torchvision.models.detection._utils import BoxCoder
from torchvision.ops import MultiScaleRoIAlign

from frcnn.ops import boxes as box_ops
from frcnn.ops.nms import nms
from frcnn.ops.pixel_table import pixel_table
from frcnn.ops.roi_pooling import PART, assign_levels, roi_align, roi_align_adaptive, roi_pool

STRIDES = (4, 8, 16, 32)


def random_boxes(count, *, extent=300.0, smallest=1.0):
    corner = torch.rand(count, 2) * extent
    size = torch.rand(count, 2) ** 2 * extent + smallest
    return torch.cat([corner, corner + size], dim=1)


def hard_boxes(count):
    """Random boxes; some are empty, tiny, outside, partly outside, or the whole canvas."""
    boxes = random_boxes(count)
    special = [[10, 10, 10, 10], [5, 5, 5.1, 5.1], [900, 900, 950, 950], [-40, -40, -10, -10], [-20, -20, 60, 60]]
    boxes[: len(special) + 1] = torch.tensor([*special, [0, 0, 352, 320]])
    return boxes


def test_iou_equals_torchvision():
    boxes, others = hard_boxes(200), random_boxes(150)
    torch.testing.assert_close(
        box_ops.iou(boxes[5:], others), torchvision.ops.box_iou(boxes[5:], others), atol=1e-6, rtol=0
    )


def test_iou_of_empty_boxes_is_zero():
    empty = torch.zeros(2, 4)
    assert box_ops.iou(empty, empty).tolist() == [[0, 0], [0, 0]]


def test_iou_is_batched():
    boxes, others = random_boxes(40).view(2, 20, 4), random_boxes(14).view(2, 7, 4)
    expected = torch.stack([torchvision.ops.box_iou(a, b) for a, b in zip(boxes, others, strict=True)])
    torch.testing.assert_close(box_ops.iou(boxes, others), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0, 1.0), (10.0, 10.0, 5.0, 5.0)])
def test_encode_and_decode_equal_torchvision(weights):
    boxes, references = random_boxes(100, smallest=20), random_boxes(100, smallest=20)
    coder = BoxCoder(weights)
    deltas = box_ops.encode(boxes, references, weights=weights)
    torch.testing.assert_close(deltas, coder.encode_single(boxes, references), atol=1e-5, rtol=1e-5)
    wild = torch.randn(100, 4) * 8  # beyond the clamp of dw and dh
    torch.testing.assert_close(
        box_ops.decode(wild, references, weights=weights), coder.decode_single(wild, references), atol=1e-2, rtol=1e-5
    )
    torch.testing.assert_close(box_ops.decode(deltas, references, weights=weights), boxes, atol=1e-3, rtol=1e-4)


def test_clip_equals_torchvision():
    boxes = hard_boxes(50)
    clipped = box_ops.clip(boxes[None], torch.tensor([[120, 200]]))[0]
    assert torch.equal(clipped, torchvision.ops.clip_boxes_to_image(boxes, (120, 200)))


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7])
def test_nms_equals_torchvision_in_every_image_and_group(threshold):
    boxes = torch.stack([random_boxes(400, extent=100), random_boxes(400, extent=100)])
    scores = (torch.rand(2, 400) * 20).round() / 20  # many ties
    groups = torch.randint(0, 5, (2, 400))
    scores[:, ::7] = -torch.inf
    index, valid = nms(boxes, scores, groups=groups, iou_threshold=threshold, k=150)
    for image in range(2):
        real = torch.nonzero(scores[image] > -torch.inf).squeeze(1)
        expected = torch.cat(
            [
                members[torchvision.ops.nms(boxes[image, members], scores[image, members], threshold)]
                for group in range(5)
                for members in [real[groups[image, real] == group]]
            ]
        )
        expected = sorted(expected.tolist(), key=lambda i: (-scores[image, i].item(), i))[:150]
        assert index[image][valid[image]].tolist() == expected
        assert valid[image].sum() == len(expected)


def test_nms_without_boxes():
    index, valid = nms(torch.zeros(2, 5, 4), torch.full((2, 5), -torch.inf), iou_threshold=0.5, k=3)
    assert index.tolist() == [[0] * 3] * 2 and not valid.any()


def pyramid(channels=16, batch=2, dtype=torch.float32):
    return [torch.randn(batch, channels, 320 // s, 352 // s, dtype=dtype, requires_grad=True) for s in STRIDES]


def as_rois(boxes, batch=2):
    return torch.cat([(torch.arange(len(boxes)) % batch)[:, None].to(boxes.dtype), boxes], dim=1)


def align(features, rois, level, *, sampling_ratio, **settings):
    """RoIAlign with a fixed number of samples, or adaptive RoIAlign for 0."""
    if sampling_ratio == 0:
        return roi_align_adaptive(features, rois, level, **settings)
    return roi_align(pixel_table(features), rois, level, sampling_ratio=sampling_ratio, **settings)


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("sampling_ratio", [0, 1, 2, 3])
@pytest.mark.parametrize("size", [7, 14])
def test_roi_align_on_one_map_equals_torchvision(aligned, sampling_ratio, size):
    feature = torch.randn(2, 8, 20, 22, requires_grad=True)
    rois = as_rois(hard_boxes(60))
    level = torch.zeros(60, dtype=torch.int64)
    ours = align([feature], rois, level, strides=(16,), size=size, sampling_ratio=sampling_ratio, aligned=aligned)
    ratio = sampling_ratio or -1
    theirs = torchvision.ops.roi_align(feature, rois, size, 1 / 16, ratio, aligned)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    upstream = torch.randn_like(ours)
    torch.testing.assert_close(
        *(torch.autograd.grad(result, feature, upstream)[0] for result in (ours, theirs)), atol=1e-4, rtol=1e-5
    )


@pytest.mark.parametrize("sampling_ratio", [0, 2])
def test_roi_align_on_a_pyramid_equals_torchvision(sampling_ratio):
    features = pyramid()
    boxes = random_boxes(120, extent=700)
    rois = as_rois(boxes)
    level = assign_levels(boxes, strides=STRIDES)
    assert set(level.tolist()) == {0, 1, 2, 3}, "the boxes should use every level"
    ours = align(features, rois, level, strides=STRIDES, size=7, sampling_ratio=sampling_ratio, aligned=False)
    pooler = MultiScaleRoIAlign(["0", "1", "2", "3"], 7, sampling_ratio or -1)
    by_image = [boxes[rois[:, 0] == image] for image in range(2)]
    theirs = pooler(dict(zip("0123", features, strict=True)), by_image, [(320, 352)] * 2)
    theirs = theirs.new_empty(theirs.shape).index_copy(0, rois[:, 0].argsort(stable=True), theirs)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    upstream = torch.randn_like(ours)
    gradients = [torch.autograd.grad(result, features, upstream) for result in (ours, theirs)]
    for mine, other in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, other, atol=1e-4, rtol=1e-5)


def test_maps_that_are_not_pooled_from_have_no_effect():
    """RoIAlign shares a table with the RPN, which has one more level. Many channels: copied in parts."""
    features = [torch.randn(2, PART + 24, 160 // s, 192 // s, requires_grad=True) for s in (8, 16, 32)]
    boxes = random_boxes(40, extent=160)
    rois, level = as_rois(boxes), assign_levels(boxes, strides=(8, 16))
    settings = {"strides": (8, 16), "size": 7, "sampling_ratio": 2, "aligned": False}
    ours, fewer = align(features, rois, level, **settings), align(features[:2], rois, level, **settings)
    assert torch.equal(ours, fewer)
    upstream = torch.randn_like(ours)
    *mine, of_unused = torch.autograd.grad(ours, features, upstream)
    for one, two in zip(mine, torch.autograd.grad(fewer, features[:2], upstream), strict=True):
        assert torch.equal(one, two)
    assert not of_unused.any()
    for image in range(2):
        for position, scale in enumerate((1 / 8, 1 / 16)):
            chosen = (rois[:, 0] == image) & (level == position)
            theirs = torchvision.ops.roi_align(features[position], rois[chosen], 7, scale, 2, False)
            torch.testing.assert_close(ours[chosen], theirs, atol=1e-5, rtol=1e-5)
            gradient = torch.autograd.grad(theirs, features[position], upstream[chosen])[0]
            own = torch.autograd.grad(
                align(features, rois[chosen], level[chosen], **settings), features[position], upstream[chosen]
            )[0]
            torch.testing.assert_close(own, gradient, atol=1e-4, rtol=1e-5)


def test_roi_pool_equals_torchvision_on_one_map_and_on_a_pyramid():
    features, boxes = pyramid(), hard_boxes(120).clamp(min=0)
    rois = as_rois(boxes)
    level = assign_levels(boxes, strides=STRIDES)
    alone = roi_pool(features[2:3], rois, torch.zeros_like(level), strides=(16,), size=7)
    assert torch.equal(alone, torchvision.ops.roi_pool(features[2], rois, 7, 1 / 16))

    ours = roi_pool(features, rois, level, strides=STRIDES, size=7)
    theirs = torch.zeros_like(ours)
    for position, stride in enumerate(STRIDES):
        mine = level == position
        theirs[mine] = torchvision.ops.roi_pool(features[position], rois[mine], 7, 1 / stride)
    assert torch.equal(ours, theirs)
    upstream = torch.randn_like(ours)
    gradients = [torch.autograd.grad(result, features, upstream) for result in (ours, theirs)]
    for mine, other in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, other, atol=1e-5, rtol=1e-5)


def test_roi_align_compiles_alone_for_maps_of_any_size():
    settings = {"strides": (8, 16), "size": 7, "sampling_ratio": 2, "aligned": False}

    def pool(fine, coarse, rois, level):
        return roi_align(pixel_table([fine, coarse]), rois, level, **settings)

    compiled = torch.compile(pool, fullgraph=True, backend="aot_eager")
    for height, width in ((64, 96), (96, 128), (160, 64)):
        maps = [torch.randn(2, 8, height // stride, width // stride, requires_grad=True) for stride in (8, 16)]
        rois, level = as_rois(random_boxes(20, extent=100)), torch.arange(20) % 2
        results = [function(*maps, rois, level) for function in (compiled, pool)]
        torch.testing.assert_close(*results)
        for mine, other in zip(*(torch.autograd.grad(result.square().sum(), maps) for result in results), strict=True):
            torch.testing.assert_close(mine, other)


def test_roi_align_saves_little_for_its_backward_pass():
    """It saves neither the table nor the 16 rows and weights of each bin."""
    rois, kept = as_rois(random_boxes(100)), []
    table = pixel_table(pyramid())

    def keep(tensor):
        kept.append(tensor)
        return tensor

    settings = {"strides": STRIDES, "size": 7, "sampling_ratio": 2, "aligned": False}
    with saved_tensors_hooks(keep, lambda tensor: tensor):
        roi_align(table, rois, torch.zeros(len(rois), dtype=torch.int64), **settings)
    assert kept
    assert sum(tensor.numel() for tensor in kept) <= 10 * len(rois)


def test_roi_align_on_more_pixels_than_float32_can_count():
    feature = torch.rand(4, 1, 2001, 3001)  # odd area: float32 cannot represent the row of the first pixel of image 3
    rois = as_rois(random_boxes(20, extent=2000), batch=4)
    level = torch.zeros(20, dtype=torch.int64)
    ours = align([feature], rois, level, strides=(1,), size=7, sampling_ratio=2, aligned=True)
    theirs = torchvision.ops.roi_align(feature, rois, 7, 1.0, 2, True)
    torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=0)


def test_roi_pool_in_bfloat16_equals_float32():
    feature, rois = torch.randn(1, 4, 20, 22).bfloat16(), as_rois(random_boxes(10), batch=1)
    level = torch.zeros(10, dtype=torch.int64)
    low = roi_pool([feature], rois, level, strides=(16,), size=7)
    assert low.dtype == torch.bfloat16
    assert torch.equal(low.float(), roi_pool([feature.float()], rois, level, strides=(16,), size=7))


def test_roi_align_in_bfloat16_computes_in_float32():
    feature = torch.randn(1, 4, 20, 22)
    rois = as_rois(random_boxes(10), batch=1)
    arguments = {"strides": (16,), "size": 7, "sampling_ratio": 2, "aligned": False}
    level = torch.zeros(10, dtype=torch.int64)
    low = align([feature.bfloat16()], rois, level, **arguments)
    assert low.dtype == torch.bfloat16
    exact = align([feature.bfloat16().float()], rois, level, **arguments)
    assert torch.equal(low, exact.bfloat16())


def test_to_original_inverts_the_resize_of_each_axis():
    boxes = torch.tensor([[[10.0, 20.0, 30.0, 400.0]]])
    original = box_ops.to_original(boxes, torch.tensor([[300, 200]]), torch.tensor([[600, 100]]))
    assert original.tolist() == [[[5.0, 40.0, 15.0, 600.0]]]  # clipped to the height of 600
