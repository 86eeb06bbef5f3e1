"""Padding of images and ground truth."""

import torch

from frcnn.data.batching import Sample, collate, ground_truth_slots


def sample(height, width, count, index=0):
    return Sample(
        image=torch.randint(1, 256, (3, height, width), dtype=torch.uint8),
        boxes=torch.rand(count, 4) * 20,
        labels=torch.arange(1, count + 1),
        is_ignored=torch.arange(count) % 2 == 1,
        original_size=torch.tensor([2 * height, 2 * width]),
        index=index,
        seed=index + 2**40,
    )


def test_images_lie_in_the_corner_of_a_canvas_of_whole_tiles():
    samples = [sample(33, 60, 1, index=4), sample(50, 31, 2, index=9)]
    batch = collate(samples)
    assert batch.images.shape == (2, 3, 64, 64) and batch.images.dtype == torch.uint8
    for row, each in enumerate(samples):
        height, width = each.image.shape[1:]
        assert torch.equal(batch.images[row, :, :height, :width], each.image)
        assert int((batch.images[row] > 0).sum()) == 3 * height * width
    assert batch.image_sizes.tolist() == [[33, 60], [50, 31]]
    assert batch.original_sizes.tolist() == [[66, 120], [100, 62]]
    assert batch.index.tolist() == [4, 9]
    assert batch.seed.tolist() == [2**40 + 4, 2**40 + 9]
    integers = (batch.image_sizes, batch.original_sizes, batch.index, batch.seed)
    assert {tensor.dtype for tensor in integers} == {torch.int64}


def test_a_size_that_is_a_multiple_gets_no_more_padding():
    assert collate([sample(64, 96, 0)]).images.shape == (1, 3, 64, 96)


def test_ground_truth_is_padded_to_its_bucket_and_masked():
    samples = [sample(32, 32, 0), sample(32, 32, 9)]
    truth = collate(samples).ground_truth
    assert truth.boxes.shape == (2, 16, 4) and truth.boxes.dtype == torch.float32
    assert torch.equal(truth.boxes[1, :9], samples[1].boxes)
    assert torch.equal(truth.labels[1, :9], samples[1].labels)
    assert torch.equal(truth.is_ignored[1, :9], samples[1].is_ignored)
    assert truth.valid.sum(dim=1).tolist() == [0, 9] and truth.valid[1, :9].all()
    empty = ~truth.valid
    assert (truth.boxes[empty] == torch.tensor([0.0, 0.0, 1.0, 1.0])).all()
    assert not truth.labels[empty].any() and not truth.is_ignored[empty].any()


def test_buckets_never_cut():
    assert [ground_truth_slots(count) for count in (0, 1, 8, 9, 16, 17, 300)] == [8, 8, 8, 16, 16, 32, 512]
    assert int(collate([sample(32, 32, 300)]).ground_truth.valid.sum()) == 300
