"""The losses on the validation set: reproducible and without side effects."""

import pytest
import torch

from frcnn.config import parse_config
from frcnn.inference.detect_dataset import evaluation_mode
from frcnn.structures import total_loss
from frcnn.training.build_experiment import build_experiment
from frcnn.training.randomness import random_state
from frcnn.training.validation_loss import validation_losses
from tests.training.experiments import WORLD, tiny_experiment, tiny_settings


def with_batch_size(batch_size):
    settings = tiny_settings() | {"eval": {"batch_size": batch_size}}
    return build_experiment(parse_config(settings, source="test"), WORLD)


def test_losses_are_reproducible_and_restore_the_state():
    experiment = with_batch_size(1)
    experiment.model.train()
    before = {name: value.clone() for name, value in experiment.model.state_dict().items()}
    modes = [module.training for module in experiment.model.modules()]
    state = random_state()
    first = validation_losses(experiment)
    after = random_state()
    assert torch.equal(state.pop("torch"), after.pop("torch")) and state == after
    assert [module.training for module in experiment.model.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in experiment.model.state_dict().items())
    assert all(parameter.grad is None for parameter in experiment.model.parameters())

    torch.rand(7)
    assert validation_losses(experiment) == first
    assert validation_losses(with_batch_size(3)) == first  # the same weights, from the same seed
    assert first["eval/loss/total"] == pytest.approx(sum(list(first.values())[:4])) and len(first) == 5


def test_losses_are_means_over_the_images():
    experiment = tiny_experiment()
    found = validation_losses(experiment)
    from frcnn.data.build_data import build_eval_loader

    totals = []
    with evaluation_mode(experiment.model), torch.no_grad():
        for batch in build_eval_loader(experiment.config.data, experiment.val_set, batch_size=1):
            torch.manual_seed(int(batch.index[0]))
            totals.append(float(total_loss(experiment.model.forward_train(batch))))
    assert found["eval/loss/total"] == pytest.approx(sum(totals) / 3, rel=1e-5)
