"""Stateless keys and balanced sampling."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from frcnn.ops.sampling import random_keys, sample_balanced

SEEDS = {
    "neighbours": torch.arange(2000),
    "far apart": torch.randint(2**63 - 1, (2000,), generator=torch.Generator().manual_seed(0)),
    "high words only": torch.arange(2000) << 32,
}


def keys(label, seed=7):
    """Keys for labels (B, N); the images have the seeds `seed`, `seed` + 1, ..."""
    return random_keys(torch.arange(seed, seed + len(label)), torch.arange(label.shape[1]), purpose=1)


def test_keys_are_a_function_of_seed_position_and_purpose_alone():
    seed, position = torch.tensor([3, 2**63 - 1, 0]), torch.arange(50) * 2**31
    whole = random_keys(seed, position, purpose=1)
    assert torch.equal(random_keys(seed[1:2], position, purpose=1), whole[1:2])
    assert torch.equal(random_keys(seed, position[20:30], purpose=1), whole[:, 20:30])
    assert not (random_keys(seed, position, purpose=2) == whole).any()
    assert ((whole >= 0) & (whole < 2**32)).all()


def test_keys_never_change():
    """A run that is resumed with a later version of this package must draw the same samples."""
    found = random_keys(torch.tensor([0, 2**40 + 1]), torch.tensor([0, 1, 2**35]), purpose=1)
    assert found.tolist() == [[3405691463, 4273516306, 4068988070], [1118039283, 1893500945, 333816892]]


def test_keys_are_those_of_a_scalar_hash():
    """Tensors and Python integers give the same keys, so no product overflows int64."""

    def mix(x):
        x = ((x ^ (x >> 16)) * 0x21F0AAAD) % 2**32
        x = ((x ^ (x >> 15)) * 0x735A2D97) % 2**32
        return x ^ (x >> 15)

    generator = torch.Generator().manual_seed(1)
    seeds = torch.randint(2**63 - 1, (20,), generator=generator)
    positions = torch.randint(2**63 - 1, (30,), generator=generator)
    expected = [
        [mix(mix(mix(mix(s % 2**32) ^ s >> 32) ^ 9) ^ mix(mix(p % 2**32) ^ p >> 32)) for p in positions.tolist()]
        for s in seeds.tolist()
    ]
    assert random_keys(seeds, positions, purpose=9).tolist() == expected


@pytest.mark.parametrize("seeds", SEEDS)
@pytest.mark.parametrize("stride", [1, 3, 2**16])
def test_keys_look_random(seeds, stride):
    """Keys are uniform, and uncorrelated between neighboring positions, neighboring images and purposes."""
    position = torch.arange(500) * stride
    key = random_keys(SEEDS[seeds], position, purpose=1).double() / 2**32
    other = random_keys(SEEDS[seeds], position, purpose=2).double() / 2**32
    count = key.numel()
    bins = torch.histc(key, bins=100, min=0, max=1)
    chi_square = ((bins - count / 100) ** 2 / (count / 100)).sum()
    assert 50 < chi_square < 160, "99 degrees of freedom"  # 0.1 % and 99.99 % quantiles: 60 and 161
    pairs = [(key[:, 1:], key[:, :-1]), (key[1:], key[:-1]), (key[2:], key[:-2]), (key, other), (key[1:], other[:-1])]
    for mine, theirs in pairs:
        correlation = torch.corrcoef(torch.stack([mine.flatten(), theirs.flatten()]))[0, 1]
        assert correlation.abs() < 5 / count**0.5
    assert (key.mean(dim=0) - 0.5).abs().max() < 5 * (1 / 12 / len(key)) ** 0.5, "the mean of each position"
    assert (key.mean(dim=1) - 0.5).abs().max() < 5 * (1 / 12 / 500) ** 0.5, "the mean of each image"


def test_positives_up_to_the_quota_then_negatives_without_repetition():
    label = torch.full((3, 1000), -1)
    label[0, :300], label[0, 300:800] = 1, 0  # more positives than the quota
    label[1, :10], label[1, 10:800] = 1, 0  # fewer
    label[2, :5] = 0  # nearly nothing
    for seed in range(0, 300, 3):
        index, valid = sample_balanced(label, keys(label, seed), num_samples=64, positive_fraction=0.25)
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


@pytest.mark.parametrize("key", [0, 2**32 - 1])
def test_equal_keys_keep_the_quota(key):
    label = torch.tensor([[1] * 30 + [0] * 30])
    index, valid = sample_balanced(label, torch.full((1, 60), key), num_samples=16, positive_fraction=0.25)
    assert valid.all() and len(set(index[0].tolist())) == 16
    assert label[0, index[0]].tolist() == [1] * 4 + [0] * 12


def test_too_few_negatives_do_not_raise_the_quota():
    label = torch.ones(1, 50, dtype=torch.int8)
    label[0, :3] = 0
    index, valid = sample_balanced(label, keys(label), num_samples=40, positive_fraction=0.5)
    sampled = label.gather(1, index)
    assert (valid & (sampled == 1)).sum() == 20 and (valid & (sampled == 0)).sum() == 3


@pytest.mark.parametrize(("fraction", "positives"), [(0.0, 0), (1.0, 8)])
def test_no_positives_and_only_positives(fraction, positives):
    label = torch.tensor([[1, 0] * 10])
    index, valid = sample_balanced(label, keys(label), num_samples=8, positive_fraction=fraction)
    assert valid.all() and label.gather(1, index).sum() == positives


def test_fewer_candidates_than_slots():
    label = torch.tensor([[1, 0, -1]])
    index, valid = sample_balanced(label, keys(label), num_samples=8, positive_fraction=0.5)
    assert index.shape == (1, 8) and valid.sum() == 2
    assert sorted(index[valid].tolist()) == [0, 1]


@pytest.mark.parametrize("seeds", SEEDS)
def test_every_candidate_is_sampled_equally_often(seeds):
    """Single candidates, pairs within an image, and the same candidate in the next image."""
    label = torch.cat([torch.ones(2000, 8), torch.zeros(2000, 12)], dim=1)
    key = random_keys(SEEDS[seeds], torch.arange(20), purpose=1)
    index, valid = sample_balanced(label, key, num_samples=8, positive_fraction=0.25)
    assert valid.all()
    is_drawn = torch.zeros(2000, 20).scatter(1, index, 1)
    for own, share, together in ((is_drawn[:, :8], 2 / 8, 2 / 8 * 1 / 7), (is_drawn[:, 8:], 6 / 12, 6 / 12 * 5 / 11)):
        assert (own.mean(dim=0) - share).abs().max() < 4 * (share * (1 - share) / 2000) ** 0.5
        pairs = own.T @ own / 2000
        pairs = pairs[~torch.eye(own.shape[1], dtype=torch.bool)]
        assert (pairs - together).abs().max() < 4.5 * (together / 2000) ** 0.5
        again = own[1:].T @ own[:-1] / 1999
        assert (again - share**2).abs().max() < 4.5 * (share**2 / 2000) ** 0.5


@pytest.mark.parametrize("make", [lambda f: torch.compile(f, backend="eager", fullgraph=True), lambda f: f])
def test_sampling_is_one_graph_without_host_sync(make):
    def draw(label, seed):
        key = random_keys(seed, torch.arange(label.shape[1]), purpose=1)
        return sample_balanced(label, key, num_samples=8, positive_fraction=0.5)

    label, seed = torch.tensor([[1, 0, -1, 0, 1, 0] * 5] * 2), torch.tensor([5, 2**62])
    expected = draw(label, seed)
    for mine, other in zip(make(draw)(label, seed), expected, strict=True):
        assert torch.equal(mine, other)
    with FakeTensorMode() as mode:
        index, _ = draw(mode.from_tensor(label), mode.from_tensor(seed))
    assert index.shape == (2, 8)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_samples_are_the_same_on_a_gpu():
    generator = torch.Generator().manual_seed(2)
    label = torch.randint(-1, 2, (4, 10000), generator=generator)
    seed, position = torch.randint(2**63 - 1, (4,), generator=generator), torch.arange(10000)
    draws = []
    for device in ("cpu", "cuda"):
        key = random_keys(seed.to(device), position.to(device), purpose=1)
        draws.append(sample_balanced(label.to(device), key, num_samples=256, positive_fraction=0.5))
    assert all(torch.equal(mine, other.cpu()) for mine, other in zip(*draws, strict=True))
