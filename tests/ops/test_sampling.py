"""Balanced sampling."""

import torch

from frcnn.ops.sampling import sample_balanced


def test_quota_of_positives_filled_up_with_negatives_without_repetition():
    label = torch.full((3, 1000), -1)
    label[0, :300], label[0, 300:800] = 1, 0  # more positives than the quota
    label[1, :10], label[1, 10:800] = 1, 0  # fewer
    label[2, :5] = 0  # nearly nothing
    index, valid = sample_balanced(label, num_samples=64, positive_fraction=0.25)
    sampled = label.gather(1, index)
    positives = (valid & (sampled == 1)).sum(dim=1)
    negatives = (valid & (sampled == 0)).sum(dim=1)
    assert positives.tolist() == [16, 10, 0]
    assert negatives.tolist() == [48, 54, 5]
    assert not (valid & (sampled == -1)).any()
    for image in range(3):
        chosen = index[image][valid[image]].tolist()
        assert len(set(chosen)) == len(chosen)
    assert (sampled[:2, :10] == 1).all(), "positives come first"


def test_too_few_negatives_do_not_raise_the_quota():
    label = torch.ones(1, 50, dtype=torch.int8)
    label[0, :3] = 0
    index, valid = sample_balanced(label, num_samples=40, positive_fraction=0.5)
    sampled = label.gather(1, index)
    assert (valid & (sampled == 1)).sum() == 20 and (valid & (sampled == 0)).sum() == 3


def test_fewer_candidates_than_slots():
    index, valid = sample_balanced(torch.tensor([[1, 0, -1]]), num_samples=8, positive_fraction=0.5)
    assert index.shape == (1, 8) and valid.sum() == 2
    assert sorted(index[valid].tolist()) == [0, 1]


def test_every_candidate_is_drawn_equally_often():
    label = torch.zeros(2000, 10, dtype=torch.int8)
    index, _ = sample_balanced(label, num_samples=3, positive_fraction=0.5)
    counts = torch.bincount(index.flatten(), minlength=10).float() / 2000
    assert (counts - 0.3).abs().max() < 0.05


def test_the_draw_follows_the_seed():
    label = torch.zeros(1, 100)
    draws = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        draws.append(sample_balanced(label, num_samples=10, positive_fraction=0.5)[0])
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])
