"""The training step and detection have fixed shapes, do not sync with the host, and do not read empty slots."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from frcnn.structures import Batch, GroundTruth, total_loss
from tests.model.detectors import ALL, random_batch, small_detector


@pytest.mark.parametrize("kind", ALL)
def test_the_step_runs_without_data(kind):
    """`.item()`, `nonzero` and data-dependent shapes raise under FakeTensorMode: a host-sync test without a GPU."""
    detector, batch = small_detector(ALL[kind]), random_batch()
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fake = Batch(
            *(mode.from_tensor(t) for t in batch[:-1]), GroundTruth(*map(mode.from_tensor, batch.ground_truth))
        )
        losses = detector.forward_train(fake)
        total_loss(losses).backward()
        detections = detector.eval().forward_detect(fake.images, fake.image_sizes)
    assert all(loss.shape == () for loss in losses.values())
    assert detections.boxes.shape == (2, 100, 4)


@pytest.mark.parametrize("kind", ALL)
def test_the_step_is_one_graph(kind):
    detector, batch = small_detector(ALL[kind]), random_batch()
    step = torch.compile(detector.forward_train, backend="eager", fullgraph=True)
    compiled = step(batch)
    eager = detector.forward_train(batch)
    assert list(compiled) == list(eager)
    for name, loss in eager.items():
        torch.testing.assert_close(compiled[name], loss)


def test_detection_is_one_graph():
    detector, batch = small_detector().eval(), random_batch()
    with torch.no_grad():
        compiled = torch.compile(detector.forward_detect, backend="eager", fullgraph=True)
        result = compiled(batch.images, batch.image_sizes)
        expected = detector.forward_detect(batch.images, batch.image_sizes)
    for mine, other in zip(result, expected, strict=True):
        assert torch.equal(mine, other)


def gradients_of(detector, batch):
    detector.zero_grad()
    losses = detector.forward_train(batch)
    total_loss(losses).backward()
    return torch.stack([*losses.values()]), [
        parameter.grad for parameter in detector.parameters() if parameter.grad is not None
    ]


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("poison", [float("nan"), 1e9])
def test_poison_in_empty_slots_changes_nothing(kind, poison):
    detector, batch = small_detector(ALL[kind]).eval(), random_batch(objects=(3, 1))
    boxes, labels, is_ignored, valid = batch.ground_truth
    poisoned = GroundTruth(
        torch.where(valid[..., None], boxes, poison), torch.where(valid, labels, 10**9), is_ignored, valid
    )
    outside = torch.ones(batch.images.shape, dtype=torch.bool)
    for image, (height, width) in enumerate(batch.image_sizes):
        outside[image, :, :height, :width] = False
    images = torch.where(outside, poison, batch.images.float())
    clean_losses, clean = gradients_of(detector, batch)
    losses, gradients = gradients_of(detector, batch._replace(images=images, ground_truth=poisoned))
    assert torch.equal(losses, clean_losses)
    assert all(torch.equal(mine, other) for mine, other in zip(gradients, clean, strict=True))
    assert any(gradient.abs().sum() > 0 for gradient in gradients)


@pytest.mark.parametrize("kind", ALL)
def test_more_slots_change_nothing(kind):
    """8 and 32 ground-truth slots give the same losses and gradients."""
    detector, few = small_detector(ALL[kind]).eval(), random_batch(objects=(3, 1))
    padded = (
        torch.nn.functional.pad(field, (0, 0, 0, 24) if field.dim() == 3 else (0, 24)) for field in few.ground_truth
    )
    losses, gradients = gradients_of(detector, few)
    padded_losses, padded_gradients = gradients_of(detector, few._replace(ground_truth=GroundTruth(*padded)))
    assert torch.equal(losses, padded_losses)
    assert all(torch.equal(mine, other) for mine, other in zip(gradients, padded_gradients, strict=True))
