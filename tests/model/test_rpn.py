"""The RPN at sampled anchors against the same head on whole maps."""

import pytest
import torch

from frcnn.model.rpn.head import RpnHead
from frcnn.ops.pixel_table import pixel_table
from tests.model.detectors import random_batch, small_detector

MAPS = ((9, 14), (5, 7), (2, 1), (1, 1))


def head_and_maps(*, num_convs, objectness, maps=MAPS, dtype=torch.float64):
    generator = torch.Generator().manual_seed(num_convs)
    head = RpnHead(6, channels=8, num_anchors=3, num_convs=num_convs, objectness=objectness).to(dtype)
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=0.5, generator=generator)
    features = [torch.randn(2, 6, *size, dtype=dtype, generator=generator, requires_grad=True) for size in maps]
    return head, features


def gradients(output, sources):
    weight = torch.linspace(-1, 2, output.objectness.numel(), dtype=output.objectness.dtype).view_as(output.objectness)
    total = (output.objectness * weight).sum() + (output.deltas.sin() * weight[..., None]).sum()
    return torch.autograd.grad(total, sources)


@pytest.mark.parametrize("objectness", ["sigmoid", "softmax"])
@pytest.mark.parametrize("num_convs", [1, 2, 3])
def test_sampled_anchors_equal_those_of_the_whole_maps(num_convs, objectness):
    """Covers all anchors: borders, corners, and maps smaller than the receptive field of a position."""
    head, features = head_and_maps(num_convs=num_convs, objectness=objectness)
    count = 3 * sum(height * width for height, width in MAPS)
    index = torch.stack([torch.randperm(count) for _ in range(2)])
    whole, sampled = head(features).at(index), head.at(pixel_table(features), index)
    sources = [*features, *head.parameters()]
    for mine, other in zip(sampled, whole, strict=True):
        torch.testing.assert_close(mine, other, atol=1e-12, rtol=1e-10)
    for mine, other in zip(gradients(sampled, sources), gradients(whole, sources), strict=True):
        assert other.abs().max() > 0
        torch.testing.assert_close(mine, other, atol=1e-10, rtol=1e-9)


def test_an_anchor_sampled_twice_counts_twice():
    head, features = head_and_maps(num_convs=1, objectness="sigmoid")
    once, twice = (head.at(pixel_table(features), torch.full((2, n), 100)) for n in (1, 2))
    sources = [*features, *head.parameters()]
    for one, two in zip(
        *(torch.autograd.grad(each.objectness.sum(), sources, allow_unused=True) for each in (once, twice)), strict=True
    ):
        assert (one is None) == (two is None)
        if one is not None:
            torch.testing.assert_close(2 * one, two)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_close(dtype):
    head, features = head_and_maps(num_convs=1, objectness="sigmoid", dtype=torch.float32)
    index = torch.randint(3 * sum(height * width for height, width in MAPS), (2, 32))
    expected = head.at(pixel_table(features), index)
    with torch.autocast("cpu", dtype=dtype):
        found = head.at(pixel_table(features), index)
        whole = head(features).at(index)
    for mine, same, other in zip(found, whole, expected, strict=True):
        assert mine.dtype == torch.float32
        torch.testing.assert_close(mine, other, atol=0.1, rtol=0.1)
        torch.testing.assert_close(mine, same, atol=0.05, rtol=0.05)


def test_every_layer_of_the_rpn_is_trained_in_half_precision():
    """Autocast casts weights once for both passes, so the pass without gradient must not be the first."""
    detector, batch = small_detector(), random_batch()
    gradients = []
    for is_half in (False, True):
        detector.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=is_half):
            losses = detector.forward_train(batch)
        (losses["rpn_class"] + losses["rpn_box"]).backward()
        gradients.append([parameter.grad.clone() for parameter in detector.rpn.parameters()])
    for exact, half in zip(*gradients, strict=True):
        assert exact.abs().max() > 0
        assert (half - exact).norm() < 0.1 * exact.norm()


def test_sampled_anchors_are_computed_separately_only_if_that_is_cheaper():
    rpn = small_detector().rpn
    index = torch.zeros(2, 256, dtype=torch.int64)
    large, small = ((torch.zeros(2, 32, size, size),) for size in (40, 8))
    assert rpn.is_sampling_cheaper(large, index)
    assert not rpn.is_sampling_cheaper(small, index)
    with torch.no_grad():
        assert not rpn.is_sampling_cheaper(large, index)
    rpn.convs.append(rpn.convs[0])
    assert not rpn.is_sampling_cheaper(large, index)
