"""Images of rare classes are drawn more often: the factors, the draws of an epoch, and the batches."""

from collections import Counter
from itertools import islice
from math import sqrt

import numpy as np
import pytest

from frcnn.annotations import ImageRecord
from frcnn.config.schema import DataConfig
from frcnn.data import build_dataset, build_train_loader
from frcnn.data.balance import class_balanced_factors, repeat_factors
from frcnn.data.build_data import build_factors
from frcnn.data.sampler import TrainSampler, draw_epoch, epoch_batches, epoch_size, order_generator
from frcnn.errors import DataError

FACTORS = [1.0, 1.25, 3.6, 0.3, 0.0, 2.0, 1 / 3, 1 / 3, 1 / 3, 1.05]
IS_WIDE = [index % 3 != 0 for index in range(len(FACTORS))]


def record(*labels, ignored=()):
    """An image with one object of each label. The objects at the positions `ignored` are ignore regions."""
    count = len(labels)
    is_ignored = np.array([position in ignored for position in range(count)], dtype=bool)
    label = np.array(labels, dtype=np.int64)
    no = np.zeros(count, dtype=bool)
    return ImageRecord(0, None, 10, 10, np.zeros((count, 4), np.float32), label, np.ones(count), no, no, is_ignored)


def sampler(**options):
    return TrainSampler(len(FACTORS), **{"batch_size": 2, "seed": 0, "factors": FACTORS, **options})


def test_repeat_factors_are_those_of_the_paper():
    """Class 1 in all of four images, class 2 in two, class 3 in one; class 4 only as an ignore region."""
    records = [record(1, 1, 1), record(1, 2), record(1, 3, 2), record(1, 4, ignored=[1])]
    factors = repeat_factors(records, num_classes=4, threshold=0.8)
    assert factors == pytest.approx([1, sqrt(0.8 / 0.5), sqrt(0.8 / 0.25), 1])
    assert repeat_factors(records, num_classes=4, threshold=0.001) == [1, 1, 1, 1]
    assert repeat_factors([record(), record(1)], num_classes=1, threshold=1) == pytest.approx([1, sqrt(2)])


def test_class_balanced_factors_draw_a_class_and_then_an_image():
    records = [record(1), record(1, 1), record(1, 2), record(), record(3, ignored=[0])]
    factors = class_balanced_factors(records, num_classes=3, name="set")
    half = 5 / 2  # each of the two classes has half of the five draws
    assert factors == pytest.approx([half / 3, half / 3, half / 3 + half, 0, 0])
    with pytest.raises(DataError, match="set: data.sampling class_balanced needs objects"):
        class_balanced_factors([record(), record()], num_classes=3, name="set")


def test_an_epoch_rounds_each_factor_up_or_down_and_has_a_fixed_length():
    counts = []
    for epoch in range(2000):
        draws = draw_epoch(FACTORS, order_generator(seed=3, epoch=epoch))
        assert len(draws) == epoch_size(len(FACTORS), FACTORS) == 10
        counts.append(np.bincount(draws, minlength=len(FACTORS)))
    counts = np.array(counts)
    assert (counts <= np.ceil(FACTORS)).all() and (counts >= np.floor(FACTORS) - 1).all()
    # The sum, 10.2, is rounded down by dropping one draw in some epochs.
    assert counts.mean(axis=0) == pytest.approx(np.array(FACTORS) * 10 / sum(FACTORS), abs=0.05)
    orders = {tuple(draw_epoch(FACTORS, order_generator(seed=3, epoch=epoch))) for epoch in range(20)}
    assert len(orders) == 20


def test_whole_numbers_are_kept_to_the_image():
    for epoch in range(50):
        draws = draw_epoch([1.0, 3.0, 0.0, 2.0], order_generator(seed=0, epoch=epoch))
        assert Counter(draws) == {0: 1, 1: 3, 3: 2}
    for count in (3, 7, 49, 1000):  # sums that float arithmetic leaves just below a whole number
        thirds = [1 / count] * count
        assert epoch_size(count, thirds) == 1
        assert all(len(draw_epoch(thirds, order_generator(seed=1, epoch=epoch))) == 1 for epoch in range(20))


def test_neighbors_can_be_drawn_together():
    """Systematic sampling in a fixed order would never draw both of two neighbors with factors that add up to 1."""
    pairs = Counter()
    for epoch in range(400):
        pairs[tuple(sorted(draw_epoch([0.5] * 4, order_generator(seed=0, epoch=epoch))))] += 1
    assert len(pairs) == 6 and min(pairs.values()) > 30


@pytest.mark.parametrize("is_wide", [None, IS_WIDE])
@pytest.mark.parametrize("start", [0, 1, 4, 5, 13])
def test_a_start_in_the_middle_continues_as_without_interruption(start, is_wide):
    whole = list(islice(sampler(is_wide=is_wide), 30))
    assert list(islice(sampler(is_wide=is_wide, start_step=start), 30 - start)) == whole[start:]


def test_keys_are_unique_and_an_epoch_has_its_steps():
    keys = [key for batch in islice(sampler(), 5 * 40) for key in batch]
    assert len(set(keys)) == len(keys)
    assert Counter(index for _, index in keys)[2] > 3 * 40  # 3.6 times an epoch
    assert sampler().steps_per_epoch == 5


def test_ranks_and_parts_divide_the_global_batch():
    whole = list(islice(sampler(batch_size=4), 12))
    ranks = [list(islice(sampler(batch_size=4, rank=rank, world_size=2, accumulate=2), 24)) for rank in range(2)]
    for step, batch in enumerate(whole):
        assert [key for rank in ranks for part in rank[2 * step : 2 * step + 2] for key in part] == batch


def test_all_batches_but_the_last_have_one_orientation():
    for epoch in range(20):
        batches = epoch_batches(10, batch_size=2, seed=0, epoch=epoch, is_wide=IS_WIDE, factors=FACTORS)
        kinds = [{IS_WIDE[index] for index in batch} for batch in batches]
        assert len(batches) == 5 and all(len(kind) == 1 for kind in kinds[:-1])


def test_an_epoch_can_be_shorter_than_the_batch():
    with pytest.raises(DataError, match=r"train\.batch_size 11 is larger"):
        sampler(batch_size=11)


def shapes(**options):
    source = {"format": "shapes", "num_images": 12, "height": 64, "width": 64}
    sides = {"short_side": [32, 48], "long_side": 64, "workers": 0}
    return DataConfig(train=source, val=source, **sides, **options)


def test_the_config_decides():
    data = shapes()
    dataset = build_dataset(data, "train")
    assert build_factors(data, dataset) is None
    balanced = build_factors(shapes(sampling="class_balanced"), dataset)
    assert balanced is not None and sum(balanced) == pytest.approx(12) and len({*balanced}) > 1
    repeated = build_factors(shapes(sampling="repeat_factor", repeat_threshold=1.0), dataset)
    assert repeated is not None and min(repeated) >= 1 and sum(repeated) > 12
    assert build_factors(shapes(sampling="repeat_factor"), dataset) == [1.0] * 12
    for wrong in ({"sampling": "fair"}, {"repeat_threshold": 0}, {"repeat_threshold": 1.5}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            shapes(**wrong)


def test_an_image_that_is_drawn_again_looks_different():
    data = shapes(sampling="repeat_factor", repeat_threshold=1.0, jitter={"brightness": 0.5})
    dataset = build_dataset(data, "train")
    loader = build_train_loader(data, dataset, batch_size=1, accumulate=1, seed=0, start_step=0)
    size = epoch_size(12, build_factors(data, dataset))
    seen: dict[int, list] = {}
    for batch in islice(loader, size):
        seen.setdefault(int(batch.index[0]), []).append(batch.images)
    twice = [images for images in seen.values() if len(images) > 1]
    assert twice and all(one.shape != two.shape or bool((one != two).any()) for one, two, *_ in twice)
