"""Loaders with and without worker processes, on valid and broken data."""

import logging
from itertools import islice

import pytest
import torch

from frcnn.config.schema import DataConfig
from frcnn.data import build_dataset, build_eval_loader, build_train_loader
from frcnn.data.augment.transforms import TrainTransform
from frcnn.data.loader import TrainSamples
from frcnn.errors import DataError
from frcnn.structures import Batch, GroundTruth


def shapes_config(**options):
    return DataConfig(
        train={"format": "shapes", "num_images": 20, "height": 96, "width": 128},
        val={"format": "shapes", "num_images": 7, "seed": 1, "height": 96, "width": 128},
        **{"short_side": [64, 96], "long_side": 200, "workers": 0, "jitter": {"brightness": 0.3}, **options},
    )


def voc_config(root, **options):
    source = {"format": "voc", "root": root}
    return DataConfig(train=source, val=source, **{"short_side": 40, "workers": 0, **options})


@pytest.fixture
def broken_root(voc_root):
    """Images a..f. b is empty and c is truncated."""
    root = voc_root({stem: (40, 60, [("cat", (1, 1, 20, 30), False)]) for stem in "abcdef"})
    (root / "JPEGImages/b.jpg").write_bytes(b"")
    whole = (root / "JPEGImages/c.jpg").read_bytes()
    (root / "JPEGImages/c.jpg").write_bytes(whole[: len(whole) // 2])
    return root


def train_batches(data, dataset, count, **options):
    options = {"batch_size": 4, "accumulate": 1, "seed": 0, "start_step": 0, **options}
    return list(islice(iter(build_train_loader(data, dataset, **options)), count))


def tensors(batch):
    return [*batch[:-1], *batch.ground_truth]


def equal(batch_a, batch_b):
    return all(torch.equal(a, b) for a, b in zip(tensors(batch_a), tensors(batch_b), strict=True))


def test_workers_do_not_change_the_batches():
    alone, helped = shapes_config(), shapes_config(workers=2)
    dataset = build_dataset(alone, "train")
    expected = train_batches(alone, dataset, 12)
    for got, wanted in zip(train_batches(helped, dataset, 12), expected, strict=True):
        assert isinstance(got, Batch) and isinstance(got.ground_truth, GroundTruth)
        assert equal(got, wanted)


def test_resuming_in_the_middle_of_an_epoch_gives_equal_pixels():
    data = shapes_config()
    dataset = build_dataset(data, "train")
    whole = train_batches(data, dataset, 24, accumulate=2)
    resumed = train_batches(data, dataset, 10, accumulate=2, start_step=7)
    assert all(equal(a, b) for a, b in zip(resumed, whole[14:], strict=True))
    assert whole[0].images.shape[0] == 2


def test_two_ranks_make_the_batch_of_one():
    data = shapes_config()
    dataset = build_dataset(data, "train")
    ranks = [train_batches(data, dataset, 6, rank=rank, world_size=2) for rank in range(2)]
    for step, whole in enumerate(train_batches(data, dataset, 6)):
        assert torch.cat([ranks[0][step].index, ranks[1][step].index]).tolist() == whole.index.tolist()


def test_loaders_do_not_change_the_global_generator():
    data = shapes_config()
    dataset = build_dataset(data, "train")
    state = torch.random.get_rng_state()
    train_batches(data, dataset, 2)
    list(build_eval_loader(data, dataset, batch_size=3))
    assert torch.equal(torch.random.get_rng_state(), state)


def test_evaluation_gives_every_image_once_unchanged():
    data = shapes_config(test_short_side=48)
    dataset = build_dataset(data, "val")
    loader = build_eval_loader(data, dataset, batch_size=3)
    for _ in range(2):  # a loader serves every evaluation of a run
        batches = list(loader)
        assert len(batches) == len(loader) == 3
        assert torch.cat([batch.index for batch in batches]).tolist() == list(range(7))
        assert batches[0].image_sizes.tolist() == [[48, 64]] * 3
        assert batches[0].original_sizes.tolist() == [[96, 128]] * 3
    ranks = [list(build_eval_loader(data, dataset, batch_size=2, rank=rank, world_size=2)) for rank in range(2)]
    assert [[int(i) for batch in rank for i in batch.index] for rank in ranks] == [[0, 2, 4, 6], [1, 3, 5]]


def test_sizes_of_evaluation_default_to_the_largest_of_training():
    data = shapes_config()
    batch = next(iter(build_eval_loader(data, build_dataset(data, "val"), batch_size=1)))
    assert batch.image_sizes.tolist() == [[96, 128]]


def test_aspect_ratio_grouping_can_be_switched_off(voc_root):
    root = voc_root(
        {f"i{n}": ((40, 60) if n % 2 else (60, 40), [("cat", (1, 1, 9, 9), False)])[:1][0] + ([],) for n in range(8)}
    )
    counts = {}
    for grouping in (True, False):
        data = voc_config(root, classes=["cat"], aspect_ratio_grouping=grouping)
        dataset = build_dataset(data, "train")
        batches = train_batches(data, dataset, 20, batch_size=2)
        counts[grouping] = sum(len(set(map(tuple, batch.image_sizes.tolist()))) > 1 for batch in batches)
    assert counts[True] == 0 and counts[False] > 0


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_image_stops_a_run_with_the_same_error_from_a_worker(broken_root, workers):
    data = voc_config(broken_root, workers=workers)
    dataset = build_dataset(data, "train")
    for batches in (
        build_train_loader(data, dataset, batch_size=3, accumulate=1, seed=0, start_step=0),
        build_eval_loader(data, dataset, batch_size=6),
    ):
        with pytest.raises(DataError) as caught:
            list(islice(iter(batches), 4))
        message = str(caught.value)
        assert "JPEGImages" in message and "cannot read image" in message
        assert "Traceback" not in message and "DataLoader" not in message


@pytest.mark.parametrize("workers", [0, 2])
def test_skipping_in_training_takes_the_next_readable_image_and_counts_in_the_main_process(
    broken_root, workers, caplog
):
    data = voc_config(broken_root, workers=workers, on_error="skip")
    dataset = build_dataset(data, "train")
    with caplog.at_level(logging.WARNING, logger="frcnn.data"):
        batches = train_batches(data, dataset, 9, batch_size=6)  # nine epochs
    assert [sorted(batch.index.tolist()) for batch in batches] == [[0, 3, 3, 3, 4, 5]] * 9
    assert dataset.problems.count == 2
    assert sorted(message.split("JPEGImages/")[1][:5] for message in caplog.messages) == ["b.jpg", "c.jpg"]
    assert all("skipped" in message for message in caplog.messages)


@pytest.mark.parametrize("workers", [0, 1])
def test_skipped_images_are_missing_in_evaluation_and_empty_batches_are_none(broken_root, workers):
    data = voc_config(broken_root, workers=workers, on_error="skip")
    dataset = build_dataset(data, "val")
    indices = [batch.index.tolist() for batch in build_eval_loader(data, dataset, batch_size=2)]
    assert indices == [[0], [3], [4, 5]]
    singles = list(build_eval_loader(data, dataset, batch_size=1))
    assert [batch is None for batch in singles] == [False, True, True, False, False, False]
    assert dataset.problems.count == 2


def test_the_replacement_of_the_last_image_is_the_first(broken_root):
    (broken_root / "JPEGImages/f.jpg").unlink()
    data = voc_config(broken_root, on_error="skip")
    samples = TrainSamples(build_dataset(data, "train"), TrainTransform(short_sides=[40], long_side=99), seed=0)
    attempt = samples[0, 5]
    assert attempt.sample.index == 0 and len(attempt.problems) == 1 and "f.jpg" in attempt.problems[0]


def test_training_without_a_readable_image_is_an_error(broken_root):
    for path in (broken_root / "JPEGImages").iterdir():
        path.write_bytes(b"")
    data = voc_config(broken_root, on_error="skip")
    dataset = build_dataset(data, "train")
    with pytest.raises(DataError, match="no image can be read"):
        train_batches(data, dataset, 1)
    assert dataset.problems.count == 6


def test_a_defect_is_not_reported_as_bad_data(broken_root):
    data = voc_config(broken_root, on_error="skip")
    dataset = build_dataset(data, "train")
    dataset.read_image = lambda index: 1 / 0
    with pytest.raises(ZeroDivisionError):
        train_batches(data, dataset, 1)


def test_a_worker_has_one_thread():
    class ThreadCount(TrainSamples):
        def __getitem__(self, key):
            attempt = super().__getitem__(key)
            return attempt._replace(sample=attempt.sample._replace(index=torch.get_num_threads()))

    from frcnn.data.loader import BatchLoader

    dataset = build_dataset(shapes_config(), "train")
    samples = ThreadCount(dataset, TrainTransform(short_sides=[64], long_side=99), seed=0)
    loader = BatchLoader(samples, [[(0, 0), (0, 1)]], workers=1, prefetch=2, pin_memory=False)
    assert next(iter(loader)).index.tolist() == [1, 1]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_pinned_batches(broken_root):
    data = voc_config(broken_root, workers=1, on_error="skip")
    dataset = build_dataset(data, "train")
    batch = train_batches(data, dataset, 1, batch_size=6, pin_memory=True)[0]
    assert isinstance(batch, Batch) and all(tensor.is_pinned() for tensor in tensors(batch))
    assert dataset.problems.count == 2
    assert None in list(build_eval_loader(data, dataset, batch_size=1, pin_memory=True))
