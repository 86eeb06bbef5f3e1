"""A training step on a GPU has no host sync. static/test_transfers.py tests what is visible without a GPU."""

import pytest
import torch

from frcnn.training.batches import train_loader
from frcnn.training.distributed import World
from frcnn.training.faults.guard import Guard
from frcnn.training.metrics import Clock, LossMeter
from frcnn.training.step import prepared, train_step
from frcnn.training.transfer import to_device
from tests.model.detectors import random_batch
from tests.training.experiments import tiny_experiment

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def test_a_batch_on_a_cpu_is_not_copied():
    batch = random_batch()
    assert to_device(batch, torch.device("cpu")).images.data_ptr() == batch.images.data_ptr()


@pytest.mark.gpu
@needs_gpu
def test_a_batch_is_copied_completely():
    batch = random_batch().pin_memory()
    moved = to_device(batch, torch.device("cuda", 0))
    for mine, other in zip((*moved[:-1], *moved.ground_truth), (*batch[:-1], *batch.ground_truth), strict=True):
        assert mine.device.type == "cuda" and torch.equal(mine.cpu(), other)


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_no_host_sync_in_a_training_step(precision, optimizer):
    world = World(rank=0, size=1, device=torch.device("cuda", 0))
    experiment = tiny_experiment(
        world=world, precision=precision, optimizer=optimizer, clip_grad_norm=1.0, ema_decay=0.9, device="cuda"
    )
    model = prepared(experiment).train()
    batches = iter(train_loader(experiment, start_step=0))
    guard = Guard(experiment.model, world, at_once=False, is_scaled=False, memory=4)
    meter = LossMeter(world.device)
    for step in (1, 2, 3):
        torch.cuda.set_sync_debug_mode("error" if step > 1 else "default")  # the first step compiles and allocates
        try:
            guard.begin(step)
            losses, _ = train_step(model, batches, experiment, lr=0.01, clock=Clock(), allows=guard.allows)
            meter.add(losses)
            experiment.average.update(experiment.model, step=step)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert guard.bad_step(look=True) is None
