"""Batches as a function of (seed, step)."""

from itertools import islice

import pytest

from frcnn.data.sampler import EvalSampler, TrainSampler, epoch_batches, steps_per_epoch
from frcnn.errors import ConfigError, DataError

IS_WIDE = [index % 3 != 0 for index in range(50)]


def steps(count, **options):
    options = {"batch_size": 4, "seed": 0, **options}
    return list(islice(iter(TrainSampler(50, **options)), count))


def test_an_epoch_holds_each_image_at_most_once_and_drops_the_rest():
    assert steps_per_epoch(50, 4) == 12
    for is_wide in (None, IS_WIDE):
        batches = epoch_batches(50, batch_size=4, seed=0, epoch=0, is_wide=is_wide)
        assert [len(batch) for batch in batches] == [4] * 12
        assert len({index for batch in batches for index in batch}) == 48


@pytest.mark.parametrize("num_wide", range(0, 24))
def test_grouping_keeps_the_number_of_batches(num_wide):
    is_wide = [index < num_wide for index in range(23)]
    batches = epoch_batches(23, batch_size=5, seed=1, epoch=0, is_wide=is_wide)
    assert [len(batch) for batch in batches] == [5] * steps_per_epoch(23, 5)


def test_all_grouped_batches_but_the_last_have_one_orientation():
    batches = epoch_batches(50, batch_size=4, seed=0, epoch=0, is_wide=IS_WIDE)
    kinds = [{IS_WIDE[index] for index in batch} for batch in batches]
    assert all(len(kind) == 1 for kind in kinds[:-1])
    order = [kind.pop() for kind in kinds[:-1]]
    assert order != sorted(order) and order != sorted(order, reverse=True)  # wide and tall batches take turns


def test_epochs_and_seeds_differ_and_are_repeatable():
    def order(**key):
        return epoch_batches(50, batch_size=4, is_wide=IS_WIDE, **key)

    assert order(seed=0, epoch=0) == order(seed=0, epoch=0)
    assert order(seed=0, epoch=0) != order(seed=0, epoch=1)
    assert order(seed=0, epoch=0) != order(seed=1, epoch=0)
    assert order(seed=0, epoch=1) != order(seed=1, epoch=0)


def test_keys_carry_the_epoch():
    keys = steps(30)
    assert [{epoch for epoch, _ in batch} for batch in keys] == [{0}] * 12 + [{1}] * 12 + [{2}] * 6


@pytest.mark.parametrize("start", [0, 1, 11, 12, 13, 29])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_start_in_the_middle_continues_as_without_interruption(start, accumulate):
    options = dict(accumulate=accumulate, is_wide=IS_WIDE)
    whole = steps(40 * accumulate, **options)
    assert steps((40 - start) * accumulate, start_step=start, **options) == whole[start * accumulate :]


def test_starting_late_costs_one_epoch(monkeypatch):
    from frcnn.data import sampler

    made = []
    original = sampler.epoch_batches
    monkeypatch.setattr(sampler, "epoch_batches", lambda *a, **k: (made.append(k["epoch"]), original(*a, **k))[1])
    steps(1, start_step=12_000_005)
    assert made == [1_000_000]


def test_ranks_and_parts_divide_the_global_batch():
    whole = steps(20, batch_size=8)
    ranks = [steps(40, batch_size=8, rank=rank, world_size=2, accumulate=2) for rank in range(2)]
    for step, batch in enumerate(whole):
        parts = [part for rank in ranks for part in rank[2 * step : 2 * step + 2]]
        assert [len(part) for part in parts] == [2] * 4
        assert [key for part in parts for key in part] == batch


def test_a_batch_that_cannot_be_divided():
    with pytest.raises(ConfigError, match=r"train\.batch_size 6 .* multiple of 4"):
        TrainSampler(50, batch_size=6, seed=0, world_size=2, accumulate=2)


def test_a_batch_larger_than_the_dataset():
    with pytest.raises(DataError, match=r"lower train\.batch_size to at most 3"):
        TrainSampler(3, batch_size=4, seed=0)
    assert len(next(iter(TrainSampler(4, batch_size=4, seed=0)))) == 4


def test_evaluation_sees_each_image_once_in_order():
    assert list(EvalSampler(5, batch_size=2)) == [[(0, 0), (0, 1)], [(0, 2), (0, 3)], [(0, 4)]]
    ranks = [list(EvalSampler(7, batch_size=2, rank=rank, world_size=3)) for rank in range(3)]
    assert [[index for batch in rank for _, index in batch] for rank in ranks] == [[0, 3, 6], [1, 4], [2, 5]]
    assert len(EvalSampler(7, batch_size=2, rank=0, world_size=3)) == 2
    assert list(EvalSampler(1, batch_size=2, rank=1, world_size=2)) == []
