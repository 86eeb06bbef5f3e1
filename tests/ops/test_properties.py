"""Laws of box arithmetic, on boxes that hypothesis makes up."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from frcnn.data.augment.flip import flip, flip_vertically
from frcnn.data.augment.resize import resize_boxes, resized_size
from frcnn.data.batching import Sample
from frcnn.ops.boxes import clip, decode, encode, iou, to_original
from frcnn.ops.nms import nms
from frcnn.ops.roi_pooling import assign_levels

COUNTS = st.integers(0, 6)
QUARTERS = st.integers(-2000, 2000).map(lambda value: value / 4)


@st.composite
def boxes(draw, *, count=COUNTS, smallest=0, largest=240):
    """(n, 4) float32 on a grid of quarter pixels, on which sums and mirrored boxes are exact."""
    number = draw(count)
    rows = st.tuples(QUARTERS, QUARTERS, *[st.integers(4 * smallest, 4 * largest).map(lambda side: side / 4)] * 2)
    drawn = draw(st.lists(rows, min_size=number, max_size=number))
    return torch.tensor([(x, y, x + w, y + h) for x, y, w, h in drawn]).reshape(-1, 4)


SHIFTS = st.tuples(QUARTERS, QUARTERS).map(lambda shift: torch.tensor(shift * 2))
IMAGES = st.tuples(st.integers(1, 300), st.integers(1, 300))


@given(boxes(), boxes())
def test_iou_is_symmetric_and_between_0_and_1(first, second):
    found = iou(first, second)
    assert torch.equal(found, iou(second, first).T)
    assert ((found >= 0) & (found <= 1 + 1e-6)).all()


@given(boxes(smallest=1))
def test_iou_with_itself_is_1(own):
    assert torch.equal(iou(own, own).diagonal(), torch.ones(len(own)))


def sample_of(image, own):
    labels = torch.ones(len(own), dtype=torch.int64)
    return Sample(image, own, labels, labels > 1, torch.tensor(image.shape[1:]), index=0, seed=0)


@given(boxes(), boxes(), SHIFTS, IMAGES)
def test_iou_stays_under_shift_and_flips(first, second, shift, size):
    image = torch.zeros(3, *size, dtype=torch.uint8)
    expected = iou(first, second)
    torch.testing.assert_close(iou(first + shift, second + shift), expected)
    for mirror in (flip, flip_vertically):
        mirrored = [mirror(sample_of(image, each)).boxes for each in (first, second)]
        torch.testing.assert_close(iou(*mirrored), expected)


@given(boxes(), IMAGES)
def test_a_flip_undoes_itself(own, size):
    image = torch.randint(0, 256, (3, *size), dtype=torch.uint8)
    for mirror in (flip, flip_vertically):
        once = mirror(sample_of(image, own))
        again = mirror(once)
        assert torch.equal(again.image, image) and torch.equal(again.boxes, own)
        assert (once.boxes[:, 2:] >= once.boxes[:, :2]).all()


@given(st.data(), st.sampled_from([(1, 1, 1, 1), (10, 10, 5, 5)]))
def test_decode_undoes_encode(data, weights):
    own = data.draw(boxes(smallest=5))
    references = data.draw(boxes(count=st.just(len(own)), smallest=5))
    deltas = encode(own, references, weights=weights)
    torch.testing.assert_close(decode(deltas, references, weights=weights), own, atol=2e-3, rtol=0)
    torch.testing.assert_close(encode(decode(deltas, references, weights=weights), references, weights=weights), deltas)


@given(boxes(), IMAGES)
def test_clip_changes_nothing_twice_and_nothing_inside(own, size):
    sizes = torch.tensor([size])
    once = clip(own[None], sizes)
    assert torch.equal(clip(once, sizes), once)
    limit = torch.tensor([size[1], size[0]] * 2)
    assert ((once >= 0) & (once <= limit)).all() and (once[..., 2:] >= once[..., :2]).all()
    is_inside = ((own >= 0) & (own <= limit)).all(dim=1)
    assert torch.equal(once[0, is_inside], own[is_inside])


@given(boxes(), IMAGES, st.integers(1, 400), st.integers(0, 400))
def test_to_original_undoes_resize(own, size, short_side, more):
    new_size = resized_size(*size, short_side=short_side, long_side=short_side + more)
    inside = clip(own[None], torch.tensor([size]))
    resized = resize_boxes(inside[0], old_size=size, new_size=new_size)
    assert ((resized >= 0) & (resized <= torch.tensor([new_size[1], new_size[0]] * 2) + 1e-3)).all()
    back = to_original(resized[None], torch.tensor([new_size]), torch.tensor([size]))
    torch.testing.assert_close(back, inside, atol=1e-3, rtol=1e-5)


@given(IMAGES, st.integers(1, 400), st.integers(0, 400))
def test_a_resized_image_is_within_the_sides(size, short_side, more):
    short, long = sorted(resized_size(*size, short_side=short_side, long_side=short_side + more))
    assert 1 <= short <= short_side and long <= short_side + more
    assert short == short_side or long == short_side + more


@given(st.data(), st.sampled_from([0.0, 0.3, 0.5, 0.7, 1.0]))
def test_nms(data, threshold):
    """What is kept is sorted and apart, what is not has a better neighbour, and once is enough."""
    own = data.draw(boxes(count=st.integers(1, 10), smallest=1, largest=600))
    drawn = [data.draw(st.lists(st.integers(0, high), min_size=len(own), max_size=len(own))) for high in (5, 1)]
    scores, groups = torch.tensor(drawn[0]) / 8, torch.tensor(drawn[1])
    scores[scores == 0] = -torch.inf  # empty slots

    def kept_of(position):
        arguments = {"groups": groups[position][None], "iou_threshold": threshold, "k": len(position)}
        index, valid = nms(own[position][None], scores[position][None], **arguments)
        return position[index[0, valid[0]]]

    kept = kept_of(torch.arange(len(own)))
    real = torch.nonzero(scores > -torch.inf).flatten().tolist()
    assert len(set(kept.tolist())) == len(kept) and set(kept.tolist()) <= set(real)
    assert scores[kept].tolist() == sorted(scores[kept].tolist(), reverse=True)
    near = (iou(own, own) > threshold) & (groups[:, None] == groups)
    near.fill_diagonal_(False)
    assert not near[kept][:, kept].any()
    for dropped in set(real) - set(kept.tolist()):
        assert (near[dropped, kept] & (scores[kept] >= scores[dropped])).any()
    assert torch.equal(kept_of(kept), kept)


@given(boxes(), st.sampled_from(["torchvision", "detectron2", "mmdetection"]), st.sampled_from([1.0, 10.0]))
def test_larger_boxes_come_from_coarser_maps(own, rule, scale):
    own = own * scale
    level = assign_levels(own, strides=[4, 8, 16, 32], rule=rule)
    area = (own[:, 2] - own[:, 0]) * (own[:, 3] - own[:, 1])
    assert ((level >= 0) & (level < 4)).all()
    assert (level[area.argsort()].diff() >= 0).all()
    assert (assign_levels(own * 2, strides=[4, 8, 16, 32], rule=rule) >= level).all()
