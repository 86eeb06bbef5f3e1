from dataclasses import replace

import pytest
import torch
from torch import nn

from frcnn.training.batches import train_loader
from frcnn.training.metrics import Clock
from frcnn.training.optimizer import build_optimizer, optimizer_from_config, parameter_groups, set_lr
from frcnn.training.step import train_step
from tests.training.experiments import tiny_config, tiny_experiment

DECAYS = {"weight_decay": 0.5, "norm_weight_decay": 0.25, "bias_weight_decay": 0.125, "bias_lr_factor": 2.0}


def make_model() -> nn.Module:
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        nn.GroupNorm(2, 4),
        nn.Flatten(),
        nn.Linear(4, 5),
        nn.LayerNorm(5),
        nn.Linear(5, 2),
    )
    model[6].requires_grad_(False)
    model.scale = nn.Parameter(torch.ones(()))
    return model


def test_every_trainable_parameter_is_in_exactly_one_group():
    model = make_model()
    groups = {group["name"]: group for group in parameter_groups(model, **DECAYS)}
    names = {parameter: name for name, parameter in model.named_parameters()}
    members = {key: sorted(names[parameter] for parameter in group["params"]) for key, group in groups.items()}
    assert members == {
        "weights": ["0.weight", "4.weight", "scale"],
        "norms": ["1.bias", "1.weight", "2.bias", "2.weight", "5.bias", "5.weight"],
        "biases": ["0.bias", "4.bias"],
    }
    assert [groups[key]["weight_decay"] for key in ("weights", "norms", "biases")] == [0.5, 0.25, 0.125]


def test_a_shared_parameter_counts_once_and_empty_groups_are_omitted():
    shared = nn.Linear(2, 2, bias=False)
    groups = parameter_groups(nn.Sequential(shared, shared), **DECAYS)
    assert [(group["name"], len(group["params"])) for group in groups] == [("weights", 1)]


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_biases_have_their_own_learning_rate(kind):
    optimizer = build_optimizer(parameter_groups(make_model(), **DECAYS), kind=kind, lr=1.0, momentum=0.9)
    set_lr(optimizer, 0.3)
    assert {group["name"]: group["lr"] for group in optimizer.param_groups} == pytest.approx(
        {"weights": 0.3, "norms": 0.3, "biases": 0.6}
    )


def test_the_learning_rate_reaches_the_weights():
    layer = nn.Linear(1, 1)
    before = [parameter.detach().clone() for parameter in layer.parameters()]
    groups = parameter_groups(layer, **(DECAYS | {"weight_decay": 0.0, "bias_weight_decay": 0.0}))
    optimizer = build_optimizer(groups, kind="sgd", lr=1.0, momentum=0.0)
    set_lr(optimizer, 0.25)
    layer(torch.ones(1, 1)).sum().backward()
    optimizer.step()
    steps = [(old - new).item() for old, new in zip(before, layer.parameters(), strict=True)]
    assert steps == pytest.approx([0.25, 0.5])


def test_sgd_decays_each_group_by_its_own_factor():
    layer = nn.Linear(2, 2)
    before = {name: parameter.detach().clone() for name, parameter in layer.named_parameters()}
    optimizer = build_optimizer(parameter_groups(layer, **DECAYS), kind="sgd", lr=0.1, momentum=0.0)
    for parameter in layer.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    torch.testing.assert_close(layer.weight, before["weight"] * (1 - 0.1 * 0.5))
    torch.testing.assert_close(layer.bias, before["bias"] * (1 - 0.1 * 2 * 0.125))


def test_the_optimizer_uses_the_values_of_the_config():
    numbers = DECAYS | {"optimizer": "sgd", "momentum": 0.75}
    optimizer = optimizer_from_config(tiny_config(**numbers), make_model(), lr=0.5)
    groups = {group["name"]: group for group in optimizer.param_groups}
    assert {name: (group["weight_decay"], group["lr_factor"]) for name, group in groups.items()} == {
        "weights": (0.5, 1.0),
        "norms": (0.25, 1.0),
        "biases": (0.125, 2.0),
    }
    assert all(group["lr"] == 0.5 * group["lr_factor"] and group["momentum"] == 0.75 for group in groups.values())
    assert isinstance(optimizer, torch.optim.SGD)


@pytest.fixture
def nan_in_empty_tensors():
    """Let `torch.empty` and similar functions return nan instead of uninitialized memory."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


def weights_after_steps(*, with_overflow: bool, **settings) -> list[list[torch.Tensor]]:
    """Train with fp16's scaler on the second batch, with or without a step on the first whose gradients overflow.

    Returns:
        the trainable weights at the start and after each step.
    """
    config = tiny_config(precision="fp16", **settings)
    experiment = tiny_experiment(**settings)
    model, scale = experiment.model.train(), 2.0**10
    experiment = replace(
        experiment,
        config=config,
        optimizer=optimizer_from_config(config, model, lr=0.002),
        scaler=torch.amp.GradScaler("cpu", init_scale=2 * scale if with_overflow else scale),
    )
    batches = iter(train_loader(experiment, start_step=0 if with_overflow else 1))
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    weights = [[parameter.detach().clone() for parameter in trained]]
    for overflows in (True, False) if with_overflow else (False,):
        hook = trained[-1].register_hook(lambda gradient: gradient * torch.inf) if overflows else None
        train_step(model, batches, experiment, lr=0.002, clock=Clock())
        if hook is not None:
            hook.remove()
        weights.append([parameter.detach().clone() for parameter in trained])
    assert experiment.scaler.get_scale() == scale
    return weights


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_first_step_that_overflows_in_fp16_is_skipped(nan_in_empty_tensors, optimizer):
    """The weights stay as they are, and the next step is the optimizer's first."""
    start, skipped, second = weights_after_steps(with_overflow=True, optimizer=optimizer)
    start_alone, alone = weights_after_steps(with_overflow=False, optimizer=optimizer)
    assert all(map(torch.equal, start, skipped)) and all(map(torch.equal, start, start_alone))
    assert all(value.isfinite().all() for value in second)
    assert not any(map(torch.equal, start, second))
    assert all(map(torch.equal, second, alone))
