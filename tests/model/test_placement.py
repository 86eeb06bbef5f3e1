"""Folded detectors in other memory layouts against the plain one: same numbers, names and trained parameters."""

import copy
import pickle
from collections import defaultdict
from weakref import ref

import pytest
import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

from frcnn.model.speed import folding
from frcnn.model.speed.folding import find_pairs, fold_all, fold_frozen
from frcnn.model.speed.placement import copy_for_detection, place_for_training
from frcnn.structures import total_loss
from tests.model.detectors import C4, FPN, random_batch, small_detector

CPU = torch.device("cpu")
EFFICIENTNET = {**FPN, "backbone": {**FPN["backbone"], "name": "timm/tf_efficientnet_lite0"}}
MOBILENET = {**FPN, "backbone": {**FPN["backbone"], "name": "mobilenet_v3_large", "strides": [8, 16, 32]},
             "anchors": {"sizes": [[32.0], [64.0], [128.0], [256.0]]}}  # fmt: skip
NORMED = {**FPN, "backbone": {**FPN["backbone"], "neck_norm": "batch"},
          "roi": {**FPN["roi"], "head": {"kind": "two_fc", "channels": 64, "convs": 1, "norm": "batch"}}}  # fmt: skip
RES5 = {**C4, "rpn": {**C4["rpn"], "post_nms_top_n": {"train": 20, "test": 10}},
        "roi": {**C4["roi"], "samples_per_image": 4}}  # fmt: skip
KINDS = {"fpn": FPN, "c4": RES5, "efficientnet": EFFICIENTNET, "mobilenet": MOBILENET, "normed": NORMED}


def detector_with_statistics(settings, *, is_frozen):
    """A detector in float64 whose batch norm is not the identity; frozen or trained."""
    detector = small_detector(settings)
    generator = torch.Generator().manual_seed(1)
    for module in detector.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5, generator=generator)
            nn.init.normal_(module.bias, std=0.2, generator=generator)
            nn.init.normal_(module.running_mean, std=0.2, generator=generator)
            nn.init.uniform_(module.running_var, 0.5, 1.5, generator=generator)
    if is_frozen:
        detector.backbone.freeze_batch_norm()
        if hasattr(detector.roi_head.head, "freeze_batch_norm"):
            detector.roi_head.head.freeze_batch_norm()
    return detector.double()


def losses_and_gradients(detector, batch):
    losses = detector.forward_train(batch)
    total_loss(losses).backward()
    return list(losses.values()), {name: p.grad for name, p in detector.named_parameters() if p.grad is not None}


@pytest.fixture
def folds(monkeypatch):
    """Weak references to folded kernels, in order of creation, by the convolution's own kernels."""
    made = defaultdict(list)
    original = folding.scaled

    def scaled(kernels, scale):
        folded = original(kernels, scale)
        if isinstance(kernels, nn.Parameter):  # and not a gradient
            made[kernels].append(ref(folded))
        return folded

    monkeypatch.setattr(folding, "scaled", scaled)
    return made


@pytest.mark.parametrize("kind", KINDS)
def test_folding_frozen_norms_leaves_losses_gradients_and_names(kind, folds):
    plain, batch = detector_with_statistics(KINDS[kind], is_frozen=True), random_batch()
    placed = place_for_training(copy.deepcopy(plain), CPU)
    norms = [module for module in placed.modules() if isinstance(module, nn.BatchNorm2d)]
    num_folded = sum(hasattr(module, "norm") and isinstance(module, nn.Conv2d) for module in placed.modules())
    assert num_folded == sum(not norm.weight.requires_grad for norm in norms) > 10
    assert list(placed.state_dict()) == list(plain.state_dict())
    assert all(torch.equal(value, plain.state_dict()[name]) for name, value in placed.state_dict().items())
    mine, gradients = losses_and_gradients(placed.train(), batch)
    other, expected = losses_and_gradients(plain.train(), batch)
    torch.testing.assert_close(torch.stack(mine), torch.stack(other), atol=1e-10, rtol=1e-10)
    assert 0 < len(folds) < num_folded, "both large maps and small ones occur"
    assert gradients.keys() == expected.keys()
    for name, gradient in gradients.items():
        assert (gradient - expected[name]).norm() <= 1e-8 * expected[name].norm() + 1e-12, name


def test_folded_kernels_are_not_kept_until_the_backward_pass(folds):
    detector, batch = place_for_training(detector_with_statistics(FPN, is_frozen=True), CPU).train(), random_batch()
    total = total_loss(detector.forward_train(batch))
    assert [len(made) for made in folds.values()] == [1] * len(folds)
    assert not any(made[0]() is not None for made in folds.values())
    total.backward()
    assert [len(made) for made in folds.values()] == [2] * len(folds), "computed again in the backward pass"


def test_hooks_see_what_a_folded_convolution_keeps():
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).eval().requires_grad_(False)
    fold_frozen(network)
    kept, x = [], torch.randn(1, 3, 8, 8, requires_grad=True)
    with saved_tensors_hooks(lambda tensor: kept.append(tensor.shape) or tensor, lambda tensor: tensor):
        network(x)
    assert x.shape in kept


@pytest.mark.parametrize("changed", ["weights", "input"])
def test_in_place_changes_before_the_backward_pass_are_errors(changed):
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)).eval()
    for index in (1, 3):
        network[index].requires_grad_(False)
    fold_frozen(network)
    x = torch.randn(1, 3, 8, 8)
    total = network(x).sum()
    with torch.no_grad():
        (network[2]._parameters["weight"] if changed == "weights" else x).mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        total.backward()


def test_trained_norms_are_not_folded():
    detector = place_for_training(small_detector(), CPU)
    assert find_pairs(detector.backbone.body), "there are norms that could be folded"
    assert not any(hasattr(module, "norm") for module in detector.modules() if isinstance(module, nn.Conv2d))


def test_folding_follows_weights_that_are_loaded_later():
    placed = place_for_training(detector_with_statistics(FPN, is_frozen=True), CPU)
    plain = detector_with_statistics(FPN, is_frozen=True)
    with torch.no_grad():
        for value in (*plain.parameters(), *plain.buffers()):
            if value.is_floating_point():
                value.mul_(1.1)
    placed.load_state_dict(plain.state_dict())
    images = torch.randn(1, 3, 64, 96, dtype=torch.float64)
    for mine, other in zip(placed.backbone(images), plain.backbone(images), strict=True):
        torch.testing.assert_close(mine, other)


@pytest.mark.parametrize("is_placed", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_the_copy_for_detection_finds_the_same(kind, is_placed):
    """For a new detector, and for a detector in training whose frozen norms are folded."""
    plain, batch = detector_with_statistics(KINDS[kind], is_frozen=is_placed).eval(), random_batch()
    source = place_for_training(copy.deepcopy(plain), CPU).train() if is_placed else plain
    before = {name: value.clone() for name, value in source.state_dict().items()}
    fast = copy_for_detection(source)
    assert not any(module.training for module in fast.modules())
    assert all(torch.equal(value, before[name]) for name, value in source.state_dict().items())
    with torch.no_grad():
        expected = plain.forward_detect(batch.images, batch.image_sizes)
        found = fast.forward_detect(batch.images, batch.image_sizes)
    assert expected.valid.any()
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fast.modules())
    again = pickle.loads(pickle.dumps(fast.backbone))  # as when it is sent to a spawned process
    assert again.state_dict().keys() == fast.backbone.state_dict().keys()
    for mine, other in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, other, atol=1e-5, rtol=1e-5)  # boxes and scores are float32


def test_a_norm_is_folded_only_if_nothing_else_reads_its_input():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
            self.twice, self.norm_of_twice = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

        def forward(self, x):
            y = self.conv(x)
            y = y + self.norm(y)
            return self.norm_of_twice(self.twice(self.twice(y)))

    network = Shared().eval()
    assert find_pairs(network) == []
    x = torch.randn(1, 3, 4, 4)
    expected = network(x)
    fold_all(network)
    assert torch.equal(network(x), expected)


def test_a_network_that_cannot_be_traced_is_not_changed():
    class Branching(nn.Sequential):
        def forward(self, x):
            return super().forward(x) if x.sum() > 0 else x

    network = Branching(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)).eval().requires_grad_(False)
    fold_frozen(network)
    assert type(network[0]) is nn.Conv2d and type(network[1]) is nn.BatchNorm2d


def test_a_convolution_that_transforms_its_weights_is_not_folded():
    class Standardised(nn.Conv2d):
        def forward(self, x):
            return nn.functional.conv2d(x, (self.weight - self.weight.mean()) / self.weight.std(), self.bias)

    network = nn.Sequential(Standardised(3, 4, 1), nn.BatchNorm2d(4)).eval().requires_grad_(False)
    assert find_pairs(network) == []
    normed = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 1)), nn.BatchNorm2d(4)).eval()
    assert find_pairs(normed) == []


@pytest.mark.parametrize("size", [(16, 16), (96, 128)])
def test_maps_keep_their_precision_under_autocast(size, folds):
    """Covers scaled kernels and scaled maps."""
    network = nn.Sequential(nn.Conv2d(3, 64, 3, padding=1), nn.BatchNorm2d(64), nn.Conv2d(64, 64, 3, stride=16),
                            nn.BatchNorm2d(64)).eval().requires_grad_(False)  # fmt: skip
    x = torch.randn(1, 3, *size)
    expected = network(x)
    fold_frozen(network)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = network(x)
    assert len(folds) == 1
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), expected, atol=0.1, rtol=0.1)
