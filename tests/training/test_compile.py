"""`train.compile` changes how a step is computed, but not what is saved, resumed, averaged or skipped."""

from pathlib import Path

import pytest
import torch

from frcnn.errors import ConfigError
from frcnn.files.checkpoint import load_checkpoint
from frcnn.model.speed.compiled import CompiledDetector
from frcnn.training import build_experiment as build_module
from frcnn.training import step as step_module
from frcnn.training.batches import train_loader
from frcnn.training.build_experiment import build_experiment, check_settings
from frcnn.training.distributed import join_world
from frcnn.training.metrics import Clock
from frcnn.training.step import prepared, train_step
from tests.training.experiments import WORLD, Killed, differing, resume, run, tiny_config, tiny_experiment, weights
from tests.training.ranks import spawn_ranks

ONE_CANVAS = {"short_side": 128}


def compiled_by_eager(detector, choice, **settings):
    """Replaces `compiled_detector`: traces as usual, but without a compiler."""
    settings.pop("device")
    return CompiledDetector(detector, backend="eager", **settings) if choice else detector


def test_cuda_graphs_are_refused_if_they_would_be_wrong():
    for settings in ({"accumulate": 2}, {}):
        train = tiny_config(compile="reduce-overhead", **settings).train
        with pytest.raises(ConfigError, match=r"train\.compile: .*\btrue"):
            check_settings(train, WORLD._replace(size=1))


def shapes(height: int, width: int) -> dict[str, object]:
    return {"format": "shapes", "num_images": 4, "height": height, "width": width}


SEVERAL_CANVASES = {
    "several short sides": {"short_side": [96, 128]},
    "wide and tall images": {"train": [shapes(128, 96), shapes(96, 128)], "short_side": 96},
    "wide and wider images": {"train": [shapes(96, 128), shapes(96, 192)], "short_side": 64},
}
ONE_CANVAS_ONLY = {
    "one short side": ONE_CANVAS,
    "short sides that round to one canvas": {"short_side": [97, 128]},
    "images that round to one canvas": {"train": [shapes(128, 100), shapes(128, 128)], "short_side": 128},
}


@pytest.mark.parametrize("data", SEVERAL_CANVASES.values(), ids=SEVERAL_CANVASES)
def test_cuda_graphs_of_several_canvases_are_refused(monkeypatch, data):
    monkeypatch.setattr(build_module, "check_settings", lambda train, world: None)  # this machine has no GPU
    with pytest.raises(ConfigError, match=r"train\.compile: .*2 canvases.*data\.short_side .*images of one shape"):
        build_experiment(tiny_config(compile="reduce-overhead", data=data), WORLD)
    build_experiment(tiny_config(compile=True, data=data), WORLD)


@pytest.mark.parametrize("data", ONE_CANVAS_ONLY.values(), ids=ONE_CANVAS_ONLY)
def test_cuda_graphs_of_one_canvas_are_not(monkeypatch, data):
    monkeypatch.setattr(build_module, "check_settings", lambda train, world: None)
    experiment = build_experiment(tiny_config(compile="reduce-overhead", data=data, batch_size=4), WORLD)
    batches = iter(train_loader(experiment, start_step=0))
    assert {next(batches).images.shape[2:] for _ in range(8)} == {(128, 128)}


def test_the_model_is_unchanged_without_compile():
    experiment = tiny_experiment()
    assert prepared(experiment) is experiment.model


@pytest.mark.slow
def test_a_compiled_run_equals_an_uncompiled_run(tmp_path, monkeypatch, capsys):
    """Traced as one graph, interrupted and resumed, with averaged weights and a guard: bit-identical."""
    monkeypatch.setattr(step_module, "compiled_detector", compiled_by_eager)
    settings = {"steps": 4, "ema_decay": 0.9, "on_nonfinite": "skip", "num_logged_images": 0}
    run(tmp_path / "plain", **settings)
    with pytest.raises(Killed):
        run(tmp_path / "compiled", compile=True, kill_at=3, checkpoint_every=2, **settings)
    resume(tmp_path / "compiled", compile=True, checkpoint_every=2, **settings)
    assert "compiled graph 1 for 2 images" in capsys.readouterr().out
    assert differing(tmp_path / "plain", tmp_path / "compiled") == []
    plain, compiled = (load_checkpoint(tmp_path / name / "checkpoints" / "last.pt") for name in ("plain", "compiled"))
    assert all(torch.equal(value, compiled["ema"][name]) for name, value in plain["ema"].items())


def losses_on_ranks(rank: int, folder: Path) -> None:
    step_module.compiled_detector = compiled_by_eager
    with join_world("cpu") as world:
        for choice in (False, True):
            experiment = tiny_experiment(world=world, compile=choice, data=ONE_CANVAS)
            model = prepared(experiment).train()
            batches = iter(train_loader(experiment, start_step=0))
            losses = [train_step(model, batches, experiment, lr=0.01, clock=Clock())[0] for _ in range(2)]
            torch.save((losses, experiment.model.state_dict()), folder / f"{rank}_{choice}.pt")


@pytest.mark.slow
def test_ranks_share_counts_inside_the_graph(tmp_path):
    spawn_ranks(losses_on_ranks, tmp_path)
    for rank in (0, 1):
        plain, compiled = (torch.load(tmp_path / f"{rank}_{choice}.pt", weights_only=False) for choice in (False, True))
        assert plain[1].keys() == compiled[1].keys()
        for name, value in plain[1].items():
            torch.testing.assert_close(compiled[1][name], value, rtol=0, atol=0)
        assert plain[0] == compiled[0]


@pytest.mark.slow
def test_a_run_with_inductor_is_close_and_resumes_bit_identically(tmp_path):
    """With one canvas size: otherwise the canvas of the first batch determines the order of additions in a graph."""
    settings = {"steps": 4, "num_logged_images": 0, "data": ONE_CANVAS}
    run(tmp_path / "plain", **settings)
    run(tmp_path / "whole", compile=True, **settings)
    with pytest.raises(Killed):
        run(tmp_path / "resumed", compile=True, kill_at=3, checkpoint_every=2, **settings)
    resume(tmp_path / "resumed", compile=True, checkpoint_every=2, **settings)
    assert differing(tmp_path / "whole", tmp_path / "resumed") == []
    expected = weights(tmp_path / "plain")
    for name, value in weights(tmp_path / "whole").items():
        torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-4)
