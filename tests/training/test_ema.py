"""Averaged weights: the formula, and their use in a run. The same runs test the validation loss."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from frcnn.config import parse_config
from frcnn.errors import ConfigError
from frcnn.files.checkpoint import load_checkpoint, weights_to_use
from frcnn.inference.predictor import load
from frcnn.training.ema import WeightAverage, decay_after
from frcnn.training.init_from import initialize_from
from tests.training.experiments import Killed, differing, resume, run, tiny_config, tiny_experiment, tiny_settings

PLAIN = {"steps": 6, "eval_every": 3, "checkpoint_every": 3, "num_logged_images": 0}
WATCHED = PLAIN | {"ema_decay": 0.6, "early_stop": {"patience": 9}}


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.frozen = nn.Linear(2, 2).requires_grad_(False)
        self.norm = nn.BatchNorm1d(2)

    def forward(self, values):
        return self.norm(self.frozen(values))


def test_the_average_follows_its_formula():
    torch.manual_seed(0)
    model = Small()
    average = WeightAverage(model, decay=0.5)  # type: ignore[arg-type]
    expected = {}
    for step in range(1, 15):
        with torch.no_grad():
            model.norm.weight.normal_()
        model(torch.randn(4, 2))
        average.update(model, step=step)  # type: ignore[arg-type]
        decay = min(0.5, (step - 1) / (step + 8))
        for name in ("norm.weight", "norm.running_mean", "norm.running_var"):
            value = model.state_dict()[name].clone()
            expected[name] = decay * expected.get(name, value) + (1 - decay) * value
    found = average.model.state_dict()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value)
        assert not torch.equal(found[name], model.state_dict()[name])
    assert torch.equal(found["frozen.weight"], model.frozen.weight) and found["norm.num_batches_tracked"] == 14
    assert not average.model.training and model.training


def test_the_decay_grows_to_its_setting():
    decays = [decay_after(step, decay=0.999) for step in range(0, 20_000)]
    assert decays[:2] == [0, 0] and decays == sorted(decays) and decays[-1] == 0.999


@pytest.mark.parametrize("decay", [0, 1, -0.1, "much"])
def test_a_decay_must_be_between_0_and_1(decay):
    with pytest.raises(ConfigError, match=r"train\.ema_decay"):
        tiny_config(ema_decay=decay)


def settings_with_loss(**settings):
    """A config with eval.loss; `run` takes only keys of `train`."""
    return parse_config(tiny_settings(**settings) | {"eval": {"loss": True}}, source="test")


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """`plain`; `whole`, with averages, validation losses and early stopping; `killed`, the same with kills."""
    folder = tmp_path_factory.mktemp("runs")
    run(folder / "plain", **PLAIN)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tests.training.experiments.tiny_config", settings_with_loss)
        run(folder / "whole", **WATCHED)
        with pytest.raises(Killed):
            run(folder / "killed", kill_at=4, **WATCHED)
        resume(folder / "killed", **WATCHED)
    return folder


def checkpoint(runs, name, kind="last"):
    return load_checkpoint(runs / name / "checkpoints" / f"{kind}.pt")


def evaluations(path):
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if "eval/AP" in line]


def test_averages_losses_and_patience_do_not_change_the_weights(runs):
    assert differing(runs / "plain", runs / "whole") == []
    assert "ema" not in checkpoint(runs, "plain") and not checkpoint(runs, "plain", "best")["is_averaged"]


def test_averages_and_losses_resume_bit_identically(runs):
    assert differing(runs / "whole", runs / "killed") == []
    whole, killed = checkpoint(runs, "whole"), checkpoint(runs, "killed")
    assert whole["ema"].keys() == whole["model"].keys()
    assert all(torch.equal(value, killed["ema"][name]) for name, value in whole["ema"].items())
    assert [key for key in whole["trainer"] if key.startswith(("best", "standstill"))] and all(
        whole["trainer"][key] == killed["trainer"][key] for key in whole["trainer"] if key.startswith(("best", "stand"))
    )
    assert evaluations(runs / "whole") == evaluations(runs / "killed")


def test_validation_losses_are_logged(runs):
    for entry in evaluations(runs / "whole"):
        names = {key.removeprefix("eval/loss/"): value for key, value in entry.items() if "/loss/" in key}
        total = names.pop("total")
        assert total == pytest.approx(sum(names.values())) and len(names) == 4 and total > 0
    assert not any("loss" in key for entry in evaluations(runs / "plain") for key in entry)


def test_the_average_is_evaluated_and_saved_as_the_best(runs, tmp_path):
    last, best = checkpoint(runs, "whole"), checkpoint(runs, "whole", "best")
    name = "rpn.convs.0.weight"
    assert not torch.equal(last["ema"][name], last["model"][name])
    assert best["is_averaged"] and "ema" not in best
    if best["step"] == last["step"]:
        assert all(torch.equal(value, last["ema"][key]) for key, value in best["model"].items())
    assert weights_to_use(last) is last["ema"] and weights_to_use(best) is best["model"]

    path = runs / "whole" / "checkpoints" / "last.pt"
    predictor = load(path, device="cpu")
    assert torch.equal(predictor.model.state_dict()[name], last["ema"][name])
    model = tiny_experiment().model
    initialize_from(model, path, class_names=last["class_names"])
    assert torch.equal(model.state_dict()[name], last["ema"][name])


def test_the_average_starts_from_the_initialized_weights(tmp_path):
    from frcnn.training.run_folder import RunFolder, prepare_folder
    from frcnn.training.trainer import train_experiment

    experiment = tiny_experiment(ema_decay=0.9, steps=1, num_logged_images=0)
    with torch.no_grad():
        next(experiment.model.parameters()).fill_(0.25)  # as --init-from does, after the experiment is built
    prepare_folder(RunFolder(tmp_path), overwrite=False)
    with pytest.raises(Killed):

        def stop(step):
            raise Killed

        train_experiment(experiment, RunFolder(tmp_path), on_step=stop)
    kept = load_checkpoint(RunFolder(tmp_path).last)
    assert all(torch.equal(value, kept["ema"][name]) for name, value in kept["model"].items())
