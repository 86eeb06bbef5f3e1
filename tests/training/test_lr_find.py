"""The range test: its suggestion, and that it changes nothing."""

import json
import math

import pytest
import torch
import yaml
from PIL import Image

from frcnn.cli.train import main
from frcnn.errors import TrainingError
from frcnn.training import lr_find
from frcnn.training.lr_find import RangeTest, find_lr, suggest
from frcnn.training.randomness import random_state
from tests.training.experiments import tiny_experiment, tiny_settings

RATES = [10 ** (-6 + step / 20) for step in range(101)]
"""From 1e-6 to 0.1."""


def made_up(*, fall: float, diverged: float | None = None) -> RangeTest:
    """A loss that falls from 2 to 1, fastest at the rate `fall`."""
    losses = [1.5 - math.tanh(2 * math.log10(rate / fall)) / 2 for rate in RATES]
    return RangeTest(RATES, losses, losses, diverged)


def test_the_steepest_descent_is_suggested():
    rate, reason = suggest(made_up(fall=1e-3))
    assert rate == pytest.approx(1e-3, rel=0.2) and "steepest" in reason
    assert suggest(made_up(fall=1e-3, diverged=0.1))[0] == rate


def test_the_suggestion_is_at_most_a_tenth_of_the_diverged_rate():
    rate, reason = suggest(made_up(fall=0.05, diverged=0.12))
    assert rate == pytest.approx(0.012) and "a tenth" in reason


def test_a_loss_that_diverges_at_once_or_never_falls():
    with pytest.raises(TrainingError, match="diverged after 3 steps"):
        suggest(RangeTest(RATES[:3], [1.0] * 3, [1.0] * 3, diverged=1e-5))
    with pytest.raises(TrainingError, match="does not fall at any learning rate"):
        suggest(RangeTest(RATES, [1.0] * 101, [1.0] * 101, None))


def test_it_restores_the_experiment(monkeypatch, tmp_path):
    monkeypatch.setattr(lr_find, "NUM_STEPS", 22)
    monkeypatch.setattr(lr_find, "LAST_LR", 0.01)
    experiment = tiny_experiment(lr=0.002, lr_per_images=4)
    before = {name: value.clone() for name, value in experiment.model.state_dict().items()}
    state = random_state()["torch"]
    lines = "\n".join(find_lr(experiment, tmp_path))
    assert all(torch.equal(value, before[name]) for name, value in experiment.model.state_dict().items())
    assert experiment.optimizer.state_dict()["state"] == {} and torch.equal(random_state()["torch"], state)
    assert experiment.optimizer.param_groups[0]["lr"] == pytest.approx(0.001)
    content = json.loads((tmp_path / "lr_find.json").read_text())
    assert content["batch_size"] == 2 and f"set train.lr={2 * content['suggested']:.2g}" in lines
    assert len(content["rates"]) == len(content["losses"]) == len(content["smoothed"]) >= 20


def test_the_command_writes_a_picture_and_no_run(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(lr_find, "range_test", lambda experiment: made_up(fall=1e-3))
    config = tmp_path / "tiny.yaml"
    config.write_text(yaml.safe_dump(tiny_settings()))
    out = tmp_path / "out"
    assert main([str(config), "--lr-find", "--out", str(out)]) == 0
    assert sorted(path.name for path in out.iterdir()) == ["lr_find.json", "lr_find.png"]
    assert Image.open(out / "lr_find.png").size == (960, 600)
    printed = capsys.readouterr().out
    assert "nothing was trained" in printed and "learning rates from 1e-06" in printed


@pytest.mark.parametrize("flag", [["--resume"], ["--overwrite"], ["--dry-run"], ["--seeds", "2"]])
def test_it_cannot_be_combined_with_training_options(flag):
    with pytest.raises(SystemExit) as stopped:
        main(["a.yaml", "--lr-find", *flag])
    assert stopped.value.code == 2
