"""Batch norm with the statistics of all processes: model.backbone.norm sync_bn."""

import copy

import pytest
import torch
from torch import nn

from frcnn.config import parse_config
from frcnn.errors import ConfigError
from frcnn.model.speed.placement import copy_for_detection
from frcnn.model.sync_norm import synchronise_batch_norm
from frcnn.training.batches import train_loader
from frcnn.training.build_experiment import build_experiment
from frcnn.training.distributed import World, join_world, mean_over_ranks
from frcnn.training.metrics import Clock
from frcnn.training.step import prepared, train_step
from tests.model.detectors import random_batch
from tests.training.experiments import WORLD, tiny_settings
from tests.training.ranks import spawn_ranks

SIZES = [(3, 5, 7), (2, 4, 9)]
"""Images, height and width on each rank: canvases may differ."""


def maps() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(n, 6, h, w, dtype=torch.float64, generator=generator) * 3 + 20 for n, h, w in SIZES]


def norm() -> nn.BatchNorm2d:
    module = nn.BatchNorm2d(6).double()
    with torch.no_grad():
        module.weight.copy_(torch.linspace(0.5, 2, 6))
        module.bias.copy_(torch.linspace(-1, 1, 6))
    return module


def weighted_sum(y: torch.Tensor) -> torch.Tensor:
    return (y * torch.linspace(-1, 3, y.numel(), dtype=y.dtype).view_as(y)).sum()


def normalise_on_rank(rank: int, folder) -> None:
    with join_world("cpu"):
        module = nn.Sequential(norm())
        synchronise_batch_norm(module)
        x = maps()[rank].requires_grad_()
        y = module(x)
        weighted_sum(y).backward()
        gradients = [x.grad, module[0].weight.grad, module[0].bias.grad]
        state = {name: value.clone() for name, value in module.state_dict().items()}
        with torch.no_grad():
            for _ in range(2 - rank):  # without gradients ranks may see different numbers of batches
                module(x)
        torch.save((y.detach(), gradients, state), folder / f"{rank}.pt")


def test_two_ranks_normalise_as_one_process(tmp_path):
    spawn_ranks(normalise_on_rank, tmp_path)
    results = [torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1)]
    module = norm()
    xs = [x.requires_grad_() for x in maps()]
    columns = torch.cat([x.transpose(0, 1).flatten(1) for x in xs], dim=1)[None, :, :, None]  # (1, C, all pixels, 1)
    parts = module(columns)[0, :, :, 0].split([x.numel() // 6 for x in xs], dim=1)
    ys = [part.unflatten(1, (x.shape[0], *x.shape[2:])).transpose(0, 1) for part, x in zip(parts, xs, strict=True)]
    torch.stack([weighted_sum(y) for y in ys]).sum().backward()
    for (y, gradients, _), expected, x in zip(results, ys, xs, strict=True):
        torch.testing.assert_close(y, expected.detach(), rtol=0, atol=1e-10)
        torch.testing.assert_close(gradients[0], x.grad, rtol=0, atol=1e-10)
    for index, parameter in ((1, module.weight), (2, module.bias)):
        torch.testing.assert_close(results[0][1][index] + results[1][1][index], parameter.grad, rtol=1e-10, atol=1e-9)
    for _, _, state in results:
        for name, value in module.state_dict().items():
            torch.testing.assert_close(state[f"0.{name}"], value, rtol=1e-12, atol=0)


def compile_on_rank(rank: int, folder) -> None:
    with join_world("cpu"):
        results = []
        for is_compiled in (False, True):
            module = nn.Sequential(norm())
            synchronise_batch_norm(module)
            call = torch.compile(module, fullgraph=True, backend="aot_eager") if is_compiled else module
            x = maps()[rank].requires_grad_()
            y = call(x)
            weighted_sum(y).backward()
            results.append([y.detach(), x.grad, module[0].weight.grad, module[0].running_var])
        torch.save(results, folder / f"{rank}.pt")


@pytest.mark.slow
def test_is_one_graph(tmp_path):
    spawn_ranks(compile_on_rank, tmp_path)
    for rank in (0, 1):
        plain, compiled = torch.load(tmp_path / f"{rank}.pt")
        for left, right in zip(compiled, plain, strict=True):
            torch.testing.assert_close(left, right, rtol=0, atol=0)


def settings(norm: str, **train):
    """Images of one size, so that the ranks have the same canvas as one process."""
    data = {"short_side": 64, "jitter": {"brightness": 0.2}}
    raw = tiny_settings(data=data, batch_size=4, steps=3, lr=0.005, **train)
    raw["model"]["backbone"] |= {"norm": norm, "neck_norm": "batch"}
    return parse_config(raw, source="test")


def train_steps(world: World, norm: str, **train) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    experiment = build_experiment(settings(norm, **train), world)
    experiment.model.double()
    model = prepared(experiment).train()
    batches = iter(train_loader(experiment, start_step=0))
    losses = [
        torch.stack([*train_step(model, batches, experiment, lr=0.005, clock=Clock())[0].values()]) for _ in range(3)
    ]
    return mean_over_ranks(torch.stack(losses).detach(), world), experiment.model.state_dict()


def train_on_rank(rank: int, folder) -> None:
    with join_world("cpu") as world:
        for norm_kind in ("bn", "sync_bn"):
            result = train_steps(world, norm_kind)
            if rank == 0:
                torch.save(result, folder / f"{norm_kind}.pt")


def test_two_ranks_train_as_one_process(tmp_path):
    spawn_ranks(train_on_rank, tmp_path)
    (losses, weights), (apart, _) = (torch.load(tmp_path / f"{kind}.pt") for kind in ("sync_bn", "bn"))
    expected_losses, expected = train_steps(WORLD, "sync_bn")
    torch.testing.assert_close(losses, expected_losses, rtol=1e-9, atol=0)
    assert weights.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(weights[name], value, rtol=1e-8, atol=1e-9)
    assert not torch.allclose(apart, expected_losses, rtol=1e-3)  # the test can detect the difference


def test_one_process_trains_as_with_bn():
    for left, right in zip(train_steps(WORLD, "sync_bn"), train_steps(WORLD, "bn"), strict=True):
        torch.testing.assert_close(left, right, rtol=0, atol=0)


def test_names_and_detections_are_those_of_bn():
    model = build_experiment(settings("bn"), WORLD).model
    synchronised = copy.deepcopy(model)
    synchronise_batch_norm(synchronised)
    assert synchronised.state_dict().keys() == model.state_dict().keys()
    batch = random_batch()
    plain, folded = copy_for_detection(model), copy_for_detection(synchronised)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    with torch.no_grad():
        expected, found = (each.forward_detect(batch.images, batch.image_sizes) for each in (plain, folded))
    for left, right in zip(found, expected, strict=True):
        torch.testing.assert_close(left, right, rtol=0, atol=0)


def test_frozen_layers_do_not_change():
    module = nn.Sequential(norm().eval())
    synchronise_batch_norm(module)
    assert type(module[0]) is nn.BatchNorm2d


@pytest.fixture
def world_of_one():
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def test_timms_layer_keeps_its_activation(world_of_one):
    layers = pytest.importorskip("timm.layers")
    plain = layers.BatchNormAct2d(6).double()
    module = nn.Sequential(copy.deepcopy(plain))
    synchronise_batch_norm(module)
    x = maps()[0]
    torch.testing.assert_close(module(x), plain(x), rtol=0, atol=1e-12)
    assert module(x).min() == 0


def test_half_precision_keeps_statistics_in_float32(world_of_one):
    module, plain = nn.Sequential(norm().float()), norm().float()
    synchronise_batch_norm(module)
    x = maps()[0].bfloat16()
    results = []
    for layer in (module, plain):
        given = x.clone().requires_grad_()
        y = layer(given)
        assert y.dtype == torch.bfloat16
        weighted_sum(y.float()).backward()
        results.append((y.detach(), given.grad))
    torch.testing.assert_close(module[0].running_var, plain.running_var, rtol=1e-5, atol=0)
    for left, right in zip(*results, strict=True):
        torch.testing.assert_close(left, right, rtol=2e-2, atol=2e-1)


def test_other_kinds_are_refused():
    with pytest.raises(ConfigError, match="sync_bn.*BatchNorm3d"):
        synchronise_batch_norm(nn.Sequential(nn.BatchNorm3d(2)))
