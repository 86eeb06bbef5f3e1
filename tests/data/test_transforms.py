"""Resize, flip and jitter: boxes follow the pixels, and every draw comes from the generator."""

import pytest
import torch
from torchvision.transforms import functional as oracle
from torchvision.transforms.v2 import functional as v2

from frcnn.data.augment.flip import flip
from frcnn.data.augment.jitter import ColorJitter
from frcnn.data.augment.resize import resize, resize_sample, resized_size
from frcnn.data.augment.transforms import TrainTransform
from frcnn.data.batching import Sample
from frcnn.data.sampler import image_generator


@pytest.fixture
def image():
    return torch.randint(0, 256, (3, 6, 8), dtype=torch.uint8).repeat_interleave(10, 1).repeat_interleave(10, 2)


BOXES = torch.tensor([[0.0, 0.0, 80.0, 60.0], [10.0, 20.0, 30.0, 50.0]])
NONE = torch.zeros(0, 4)


def sample_of(image, boxes=NONE):
    labels = torch.arange(1, len(boxes) + 1)
    return Sample(image, boxes, labels, labels % 2 == 0, torch.tensor(image.shape[1:]), index=3, seed=4)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((480, 640), (600, 800)),
        ((640, 480), (800, 600)),
        ((100, 400), (250, 1000)),  # the long side limits
        ((333, 500), (600, 901)),  # 900.9 is rounded up
        ((427, 640), (600, 899)),  # 899.3 is rounded down
        ((1, 5000), (1, 1000)),  # never 0
        ((1200, 1200), (600, 600)),
    ],
)
def test_resized_size(size, expected):
    assert resized_size(*size, short_side=600, long_side=1000) == expected


def test_resized_size_reaches_one_of_its_limits_exactly():
    for height in range(1, 700, 13):
        for width in range(1, 700, 11):
            short, long = sorted(resized_size(height, width, short_side=600, long_side=1000))
            assert short == 600 and long <= 1000 or long == 1000 and short <= 600


def test_resize_filters_as_torchvision_does_for_either_memory_order(image):
    expected = oracle.resize(image.float(), [23, 31], antialias=True)
    channels_last = image.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    for each in (image, channels_last):
        resized = resize(each, (23, 31))
        assert resized.dtype == torch.uint8
        assert (resized - expected).abs().max() <= 1  # uint8 weights are rounded
    assert resize(image, (60, 80)) is image


def test_boxes_are_scaled_by_the_real_ratio_of_each_axis(image):
    sample = sample_of(image[:, :, :79], BOXES)
    resized = resize_sample(sample, short_side=33, long_side=1000)
    assert resized.image.shape == (3, 33, 43)  # 43.45 is rounded
    assert resized[2:] == sample[2:]
    expected = BOXES * torch.tensor([43 / 79, 33 / 60, 43 / 79, 33 / 60])
    assert torch.allclose(resized.boxes, expected)


def test_flip_moves_boxes_with_their_pixels():
    image = torch.zeros(3, 20, 30, dtype=torch.uint8)
    image[:, 4:9, 2:12] = 255
    sample = sample_of(image, torch.tensor([[2.0, 4.0, 12.0, 9.0]]))
    flipped = flip(sample)
    assert flipped.boxes.tolist() == [[18, 4, 28, 9]] and flipped[2:] == sample[2:]
    assert (flipped.image[:, 4:9, 18:28] == 255).all() and int((flipped.image > 0).sum()) == 3 * 50
    assert torch.equal(flip(flipped).boxes, sample.boxes)


def test_vertical_flip_moves_boxes_with_their_pixels():
    image = torch.zeros(3, 20, 30, dtype=torch.uint8)
    image[:, 4:9, 2:12] = 255
    boxes = torch.tensor([[2.0, 4.0, 12.0, 9.0]])
    transform = TrainTransform(short_sides=[20], long_side=30, flip=0.0, vertical_flip=1.0)
    flipped = transform(sample_of(image, boxes), torch.Generator())
    assert torch.equal(flipped.image, image.flip(-2))
    assert flipped.boxes.tolist() == [[2.0, 11.0, 12.0, 16.0]]


def test_flip_probability(image):
    never = TrainTransform(short_sides=[60], long_side=100, flip=0.0)
    always = TrainTransform(short_sides=[60], long_side=100, flip=1.0)
    sometimes = TrainTransform(short_sides=[60], long_side=100, flip=0.3)
    flipped = 0
    for index in range(300):

        def draw(transform, index=index):
            return transform(sample_of(image), image_generator(seed=0, epoch=0, index=index)).image

        assert torch.equal(draw(never), image) and torch.equal(draw(always), image.flip(-1))
        flipped += torch.equal(draw(sometimes), image.flip(-1))
    assert 60 < flipped < 120


def test_short_side_is_drawn_from_the_list(image):
    transform = TrainTransform(short_sides=[30, 60, 90], long_side=1000, flip=0.0)
    heights = [transform(sample_of(image), image_generator(seed=0, epoch=0, index=i)).image.shape[1] for i in range(60)]
    assert set(heights) == {30, 60, 90}


def test_a_sample_is_a_function_of_the_generator_and_leaves_the_global_one_alone(image):
    transform = TrainTransform(
        short_sides=[30, 60], long_side=100, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1
    )
    state = torch.random.get_rng_state()
    results = []
    for _ in range(2):
        results.append(
            [transform(sample_of(image, BOXES), image_generator(seed=1, epoch=2, index=i)) for i in range(8)]
        )
        torch.rand(3)  # the global state moves on in between
    for one, other in zip(*results, strict=True):
        assert torch.equal(one.image, other.image) and torch.equal(one.boxes, other.boxes)
    torch.random.set_rng_state(state)
    transform(sample_of(image, BOXES), image_generator(seed=1, epoch=2, index=0))
    assert torch.equal(torch.random.get_rng_state(), state)


def test_seed_epoch_and_index_each_change_the_draw(image):
    transform = TrainTransform(short_sides=[60], long_side=100, flip=0.0, brightness=0.5)
    first = transform(sample_of(image), image_generator(seed=0, epoch=0, index=0)).image
    for changed in (dict(seed=1, epoch=0, index=0), dict(seed=0, epoch=1, index=0), dict(seed=0, epoch=0, index=1)):
        assert not torch.equal(first, transform(sample_of(image), image_generator(**changed)).image)


def test_brightness_stays_in_its_range():
    grey = torch.full((3, 8, 8), 100, dtype=torch.uint8)
    transform = TrainTransform(short_sides=[8], long_side=8, flip=0.0, brightness=0.3)
    draws = [transform(sample_of(grey), image_generator(seed=0, epoch=0, index=i)) for i in range(200)]
    levels = [int(each.image[0, 0, 0]) for each in draws]
    assert 70 <= min(levels) < 75 and 125 < max(levels) <= 130


@pytest.mark.parametrize("kind", ["brightness", "contrast", "saturation", "hue"])
def test_each_jitter_changes_colours_and_nothing_else(image, kind):
    plain = TrainTransform(short_sides=[60], long_side=100, flip=0.5)
    jittered = TrainTransform(short_sides=[60], long_side=100, flip=0.5, **{kind: 0.4})
    for index in range(4):
        one = plain(sample_of(image, BOXES), image_generator(seed=0, epoch=0, index=index))
        other = jittered(sample_of(image, BOXES), image_generator(seed=0, epoch=0, index=index))
        assert torch.equal(one.boxes, other.boxes)
        assert other.image.dtype == torch.uint8 and other.image.shape == one.image.shape
        assert not torch.equal(one.image, other.image)


def test_jitter_is_applied_in_random_order():
    image = torch.randint(0, 256, (3, 8, 8), dtype=torch.uint8)
    jitter = ColorJitter()
    called = []
    jitter.changes = tuple(
        (lambda image, factor, name=name: (called.append(name), image)[1], 1.0, 0.5) for name in "bcs"
    )
    for index in range(40):
        jitter(sample_of(image), image_generator(seed=0, epoch=0, index=index))
        called.append("|")
    assert len(set("".join(called).split("|")) - {""}) == 6


def test_draws_and_order_of_the_augmentations(image):
    """The numbers are drawn in the order resize, flip, jitter, vertical flip; the vertical flip precedes the jitter."""
    transform = TrainTransform(short_sides=[30, 60], long_side=100, flip=0.5, vertical_flip=0.5, contrast=0.5)
    for index in range(20):
        generator = image_generator(seed=0, epoch=0, index=index)
        result = transform(sample_of(image, BOXES), image_generator(seed=0, epoch=0, index=index))
        short_side = [30, 60][int(torch.randint(2, (1,), generator=generator))]
        is_flipped = float(torch.rand(1, generator=generator)) < 0.5
        torch.randperm(4, generator=generator)
        factor = 1.0 + 0.5 * float(torch.rand(4, generator=generator)[1] * 2 - 1)
        is_upside_down = float(torch.rand(1, generator=generator)) < 0.5
        expected = resize(image, (short_side, short_side * 4 // 3))
        expected = expected.flip([-1] * is_flipped + [-2] * is_upside_down)
        assert torch.equal(result.image, v2.adjust_contrast(expected, factor))
