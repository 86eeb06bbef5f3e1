"""Early stopping."""

import json

import pytest
import torch

from frcnn.errors import ConfigError
from frcnn.files.checkpoint import load_checkpoint
from frcnn.training.distributed import join_world
from frcnn.training.run_folder import RunFolder
from frcnn.training.state import Progress, check_same_config
from frcnn.training.validation_loss import validation_losses
from tests.training.experiments import Killed, resume, run, tiny_config, tiny_experiment
from tests.training.ranks import spawn_ranks

STILL = {"steps": 9, "eval_every": 1, "checkpoint_every": 1, "num_logged_images": 0, "log_every": 1}
SOON = {"patience": 2, "min_delta": 0.5}
"""No evaluation is that much better than the first, so the third evaluation is the last."""


def test_small_improvements_count_once_they_add_up():
    progress = Progress()
    counts = []
    for metric in (-float("inf"), 0.1, 0.104, 0.108, 0.112, 0.11, 0.111):
        progress.count_evaluation(metric, min_delta=0.01)
        counts.append(progress.standstill_evaluations)
    assert counts == [0, 0, 1, 2, 0, 1, 2] and progress.standstill_reference == 0.112


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "stopped"
    return path, run(path, early_stop=SOON, **STILL)


def test_a_run_without_improvement_ends_early_and_complete(stopped):
    path, progress = stopped
    assert progress.step == progress.evaluated_step == 3
    entries = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in entries if "eval/AP" in entry] == [1, 2, 3]
    report = json.loads((path / "eval.json").read_text())
    assert report["coco"]["AP"] == pytest.approx(progress.best_metric)


def test_more_patience_continues_the_run(stopped, tmp_path, capsys):
    path = tmp_path / "run"
    with pytest.raises(Killed):
        run(path, early_stop=SOON, kill_at=2, **STILL)
    assert resume(path, early_stop=SOON, **STILL) == stopped[1]
    assert "stopped early at step 3 of 9: AP has not improved by more than 0.5 over" in capsys.readouterr().out
    assert resume(path, early_stop=SOON | {"patience": 3}, **STILL).step == 4
    now, then = tiny_config(early_stop=SOON | {"patience": 3}), tiny_config()
    check_same_config(now, then, source=path)
    check_same_config(then, now, source=path)


def test_a_run_that_stopped_early_is_finished(stopped):
    from frcnn.runs.resume import is_finished

    checkpoint = load_checkpoint(RunFolder(stopped[0]).last)
    assert is_finished(checkpoint, tiny_experiment(early_stop=SOON, **STILL))
    assert not is_finished(checkpoint, tiny_experiment(early_stop=SOON | {"patience": 3}, **STILL))
    assert not is_finished(checkpoint, tiny_experiment(**STILL))


@pytest.mark.parametrize("wrong", [{"patience": 0}, {}, {"patience": 2, "min_delta": -1}, {"patience": 2, "delta": 0}])
def test_patience_is_a_number_of_evaluations(wrong):
    with pytest.raises(ConfigError, match=r"train\.early_stop"):
        tiny_config(early_stop=wrong)


def stop_on_two_ranks(rank: int, folder) -> None:
    with join_world("cpu") as world:
        progress = run(folder / "run", world=world, early_stop=SOON, ema_decay=0.9, **STILL)
        losses = validation_losses(tiny_experiment(world=world))
        torch.save((progress.step, losses), folder / str(rank))


@pytest.mark.slow
def test_two_ranks_stop_together_and_share_the_validation_loss(tmp_path):
    spawn_ranks(stop_on_two_ranks, tmp_path)
    (first, losses), (second, nothing) = (torch.load(tmp_path / str(rank)) for rank in range(2))
    assert first == second == 3 and nothing == {}
    assert losses == validation_losses(tiny_experiment())
