"""Signals, damaged checkpoints and non-finite steps: what is saved, and that the run continues from it."""

import json
import os
import signal
from contextlib import suppress
from functools import partial
from pathlib import Path
from weakref import ref

import pytest
import torch
import yaml

from frcnn.cli.replay import main as replay
from frcnn.cli.train import main
from frcnn.data.loader import BatchLoader
from frcnn.data.sampler import image_seed
from frcnn.errors import TrainingError
from frcnn.files.checkpoint import load_checkpoint
from frcnn.runs import train as runs
from frcnn.training import batches, trainer
from frcnn.training.distributed import join_world
from frcnn.training.faults import stop as stop_module
from frcnn.training.faults.bad_step import load_bad_step
from frcnn.training.faults.guard import Guard
from frcnn.training.faults.stop import Stop, Stopped
from frcnn.training.run_folder import RunFolder, prepare_folder
from frcnn.training.trainer import train_experiment
from tests.training.experiments import WORLD, Killed, differing, resume, run, tiny_experiment, tiny_settings, weights
from tests.training.ranks import spawn_ranks

SETTINGS = {"steps": 8, "checkpoint_every": 3, "num_logged_images": 0}


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("whole") / "run"
    run(path, **SETTINGS)
    return path


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("configs") / "tiny.yaml"
    path.write_text(yaml.safe_dump(tiny_settings(**SETTINGS)))
    return path


def start(path: Path, on_step, *, world=WORLD, **settings):
    """Start a new run that calls a function after each step."""
    folder = RunFolder(path)
    if world.is_main:
        prepare_folder(folder, overwrite=False)
    return train_experiment(tiny_experiment(world=world, **SETTINGS | settings), folder, on_step=on_step)


def signal_at(step: int, number: signal.Signals):
    return lambda done: os.kill(os.getpid(), number) if done == step else None


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_after_the_step_and_resume_continues(whole, tmp_path, number):
    handler = signal.getsignal(number)
    with pytest.raises(Stopped, match=rf"stopped by {number.name} at step 2; continue with --resume --out") as stopped:
        start(tmp_path / "run", signal_at(1, number))
    assert stopped.value.status == 128 + number
    assert signal.getsignal(number) is handler
    assert load_checkpoint(tmp_path / "run" / "checkpoints" / "last.pt")["step"] == 2
    resume(tmp_path / "run", **SETTINGS)
    assert differing(whole, tmp_path / "run") == []


def test_a_signal_during_an_evaluation_keeps_the_weights_and_the_evaluation_is_repeated(whole, tmp_path):
    with pytest.raises(Stopped, match="stopped by SIGTERM at step 4"):
        start(tmp_path / "run", signal_at(4, signal.SIGTERM))
    trainer_state = load_checkpoint(tmp_path / "run" / "checkpoints" / "last.pt")["trainer"]
    assert (trainer_state["step"], trainer_state["evaluated_step"]) == (4, 0)
    resume(tmp_path / "run", **SETTINGS)
    assert differing(whole, tmp_path / "run") == []
    assert (tmp_path / "run" / "eval.json").read_text() == (whole / "eval.json").read_text()


def test_a_second_signal_ends_the_process_at_once(monkeypatch, capfd):
    ended = []
    monkeypatch.setattr(os, "_exit", ended.append)
    stop = Stop(WORLD)
    with stop.listening():
        for _ in range(2):  # the same signal, received twice
            signal.raise_signal(signal.SIGINT)
        assert (stop.asked(), ended) == (signal.SIGINT, [])
        monkeypatch.setattr(stop_module, "REPEAT_SECONDS", 0.0)
        signal.raise_signal(signal.SIGTERM)
    assert ended == [143]
    assert "stopped at once" in capfd.readouterr().err


def patch_training(monkeypatch, on_step):
    plain = runs.train_experiment
    monkeypatch.setattr(runs, "train_experiment", lambda *args, **settings: plain(*args, on_step=on_step, **settings))


def test_the_message_names_the_signal_and_a_series_is_resumed(config, tmp_path, monkeypatch, capsys):
    out, steps = tmp_path / "series", []

    def on_step(step: int) -> None:
        steps.append(step)
        if len(steps) == 3:  # first step of the second run
            signal.raise_signal(signal.SIGTERM)

    arguments = ["--seeds", "2", "--out", str(out)]
    with monkeypatch.context() as patch:
        patch_training(patch, on_step)
        assert main([str(config), *arguments, "train.steps=2"]) == 143
    message = capsys.readouterr().err
    assert (
        f"stopped by SIGTERM at step 2; continue with --resume --out {out / 'seed_1'}, or continue the series"
        in message
    )
    assert f"frcnn train --seeds 2 --resume --out {out}" in message
    assert main([*arguments, "--resume"]) == 0
    assert main([str(config), "--out", str(tmp_path / "single"), "train.steps=2", "train.seed=1"]) == 0
    assert differing(tmp_path / "single", out / "seed_1") == []


def signal_one_rank(rank: int, folder: Path) -> None:
    """On one of two ranks: a run in which only rank 1 gets a signal."""
    on_step = signal_at(1, signal.SIGTERM) if rank == 1 else lambda done: None
    with join_world("cpu") as world:
        try:
            start(folder / "run", on_step, world=world, steps=4)
        except (Stopped, SystemExit) as stopped:
            told = (type(stopped).__name__, getattr(stopped, "status", getattr(stopped, "code", None)))
            (folder / f"told_{rank}").write_text(json.dumps(told))


def test_all_ranks_stop_at_the_same_step(tmp_path):
    """Recorded after step 1, sent in step 2, known to both ranks after step 3."""
    spawn_ranks(signal_one_rank, tmp_path)
    assert json.loads((tmp_path / "told_0").read_text()) == ["Stopped", 143]
    assert json.loads((tmp_path / "told_1").read_text()) == ["SystemExit", 143]
    assert load_checkpoint(tmp_path / "run" / "checkpoints" / "last.pt")["step"] == 3


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:5000])


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [cut_short, flip_a_bit])
def test_a_damaged_checkpoint_falls_back_to_the_previous_one(whole, config, tmp_path, damage, capsys):
    out = tmp_path / "run"
    with pytest.raises(Killed):
        run(out, kill_at=7, **SETTINGS)
    damage(out / "checkpoints" / "last.pt")
    with pytest.raises(Killed):  # killed before it writes anything: the checkpoint it resumed from must still exist
        main_killed_at(5, [str(config), "--resume", "--out", str(out)])
    message = capsys.readouterr().err
    assert f"warning: {out / 'checkpoints' / 'last.pt'}: " in message
    assert f"Resuming from {out / 'checkpoints' / 'previous.pt'} instead, step 4" in message
    assert main(["--resume", "--out", str(out)]) == 0
    assert "warning" not in capsys.readouterr().err
    assert differing(whole, out) == []


def main_killed_at(step: int, arguments: list[str]) -> None:
    def on_step(done: int) -> None:
        if done == step:
            raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch_training(patch, on_step)
        main(arguments)


def test_two_damaged_checkpoints_are_both_named(config, tmp_path, capsys):
    out = tmp_path / "run"
    with pytest.raises(Killed):
        run(out, kill_at=3, **SETTINGS)
    for name in ("last.pt", "previous.pt"):
        cut_short(out / "checkpoints" / name)
    assert main([str(config), "--resume", "--out", str(out)]) == 2
    message = capsys.readouterr().err
    assert "no checkpoint to resume from" in message and "last.pt" in message and "previous.pt" in message
    assert main([str(config), "--out", str(out)]) == 2  # still a run, which is not overwritten
    assert "already holds a run" in capsys.readouterr().err


def test_a_kill_between_the_two_renames_of_a_checkpoint(whole, config, tmp_path, monkeypatch):
    out, plain = tmp_path / "run", os.replace

    def killed(source, target):
        if Path(target).name == "last.pt" and (out / "metrics.jsonl").exists():
            raise Killed
        plain(source, target)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(os, "replace", killed)
        run(out, **SETTINGS)
    assert [path.name for path in (out / "checkpoints").iterdir()] == ["previous.pt"]
    (out / "config.yaml").unlink()  # as after a kill right after the first checkpoint
    assert main(["--resume", "--out", str(out)]) == 0
    assert differing(whole, out) == []


def test_one_command_starts_and_resumes(whole, config, tmp_path, capsys, monkeypatch):
    out = tmp_path / "run"
    command_line = [str(config), "--auto-resume", "--out", str(out)]
    with pytest.raises(Killed):
        main_killed_at(4, command_line)
    with pytest.raises(Killed):  # as restarted by torchrun
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
        main_killed_at(7, [str(config), "--out", str(out)])
    monkeypatch.delenv("TORCHELASTIC_RESTART_COUNT")
    assert "resume at step 4 of 8" in capsys.readouterr().out
    assert main(command_line) == 0
    assert differing(whole, out) == []
    for other in ("--resume", "--overwrite"):
        with pytest.raises(SystemExit):
            main([*command_line, other])


BAD_IMAGE = 5
"""One of two batches in each epoch contains it."""


def spoil(monkeypatch, *, only_seed: int | None = None) -> None:
    """Make one pixel of a training image nan, in every epoch or only for this seed."""
    plain = BatchLoader.__iter__

    def spoiled(self):
        for batch in plain(self):
            is_bad = (batch.index == BAD_IMAGE) & (only_seed is None or batch.seed == only_seed)
            if is_bad.any():
                images = batch.images.float()
                images[is_bad, 0, 20, 20] = torch.nan
                batch = batch._replace(images=images)
            yield batch

    monkeypatch.setattr(BatchLoader, "__iter__", spoiled)


def entries(path: Path) -> list[dict]:
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


def test_a_bad_step_is_reported_saved_and_replayed(tmp_path, monkeypatch, capsys):
    spoil(monkeypatch)
    out, states = tmp_path / "run", []
    experiment = tiny_experiment(**SETTINGS)
    prepare_folder(RunFolder(out), overwrite=False)
    keep = partial(keep_state, experiment, states)
    with pytest.raises(TrainingError, match=r"the loss of step \d is not finite \(images: .*shapes.*frcnn replay"):
        train_experiment(experiment, RunFolder(out), on_step=keep)
    saved = load_checkpoint(out / "bad_step" / "step.pt")
    assert saved["bad_step"]["step"] == len(states) + 1 == saved["step"] + 1
    if states:
        assert all(torch.equal(value, states[-1][0][name]) for name, value in saved["model"].items())
    summary = json.loads((out / "bad_step" / "step.json").read_text())
    assert summary["ranks"][0]["losses"]["rpn_class"] == "nan"
    losses = saved["bad_step"]["ranks"][0]["losses"]
    saved["bad_step"]["ranks"][0]["losses"] = list(losses.values())  # as in older files
    torch.save(saved, tmp_path / "older.pt")
    assert load_bad_step(tmp_path / "older.pt")["bad_step"]["ranks"][0]["losses"].keys() == losses.keys()

    capsys.readouterr()
    assert replay([str(out / "bad_step")]) == 0
    printed = capsys.readouterr().out
    [bad] = [name for name in summary["ranks"][0]["images"] if name.endswith(f" {BAD_IMAGE + 1}")]  # ids start at 1
    assert "weights before the step: all are finite" in printed
    assert "first not finite: the output of backbone" in printed and "(Conv2d), its input was not finite" in printed
    assert f"; images: {bad}\n" in printed
    alone = [line for line in printed.splitlines() if "alone" in line]
    assert [("not finite" in line) == (bad in line) for line in alone] == [True, True]


def keep_state(experiment, states, step: int) -> None:
    model = {name: value.clone() for name, value in experiment.model.state_dict().items()}
    momenta = [state["momentum_buffer"].clone() for state in experiment.optimizer.state.values()]
    states.append((model, momenta))


def test_skip_drops_all_effects_of_the_step(tmp_path, monkeypatch, capsys):
    spoil(monkeypatch)
    settings = SETTINGS | {"on_nonfinite": "skip", "log_every": 1}
    states = []
    experiment = tiny_experiment(**settings)
    prepare_folder(RunFolder(tmp_path / "run"), overwrite=False)
    progress = train_experiment(
        experiment, RunFolder(tmp_path / "run"), on_step=partial(keep_state, experiment, states)
    )
    assert (progress.step, progress.skipped) == (8, 2)
    bad = [entry["step"] for entry in entries(tmp_path / "run") if entry.get("loss", 0) is None]
    assert len(bad) == 2
    for step in bad:
        for before, after in zip(states[step - 2], states[step - 1], strict=True) if step > 1 else ():
            assert all(torch.equal(a, b) for a, b in zip(tensors(before), tensors(after), strict=True))
    assert f"step {bad[0]} is not finite" in (printed := capsys.readouterr().out) and "skipped" in printed
    assert load_checkpoint(tmp_path / "run" / "bad_step" / "step.pt")["step"] == bad[0] - 1


def tensors(state) -> list[torch.Tensor]:
    return list(state.values()) if isinstance(state, dict) else state


def poison_weights(experiment, at: int, step: int) -> None:
    if step == at:
        next(experiment.model.rpn.parameters()).data.fill_(torch.nan)


def test_skipping_has_a_limit(tmp_path):
    experiment = tiny_experiment(steps=8, checkpoint_every=8, eval_every=8, on_nonfinite="skip", nonfinite_limit=2)
    prepare_folder(RunFolder(tmp_path), overwrite=False)
    with pytest.raises(TrainingError, match="loss of step 5 .*3 steps in a row are more than train.nonfinite_limit=2"):
        train_experiment(experiment, RunFolder(tmp_path), on_step=partial(poison_weights, experiment, 2))


def test_rewind_continues_with_other_draws(tmp_path, monkeypatch, capsys):
    spoil(monkeypatch, only_seed=image_seed(seed=0, epoch=0, index=BAD_IMAGE))
    settings = SETTINGS | {"on_nonfinite": "rewind", "checkpoint_every": 1}
    progress = run(tmp_path / "run", **settings)
    assert (progress.step, progress.rewinds) == (8, 1)
    assert "continuing with other random draws" in capsys.readouterr().out
    steps = [entry["step"] for entry in entries(tmp_path / "run") if "loss" in entry]
    assert steps == [2, 4, 6, 8]
    assert all(value.isfinite().all() for value in weights(tmp_path / "run").values())


def test_rewind_releases_the_loader_that_it_leaves(tmp_path, monkeypatch):
    """With its workers, before the next one starts."""
    spoil(monkeypatch, only_seed=image_seed(seed=0, epoch=0, index=BAD_IMAGE))
    loaders, alive = [], []

    def train_loader(*arguments, **settings):
        alive.append([loader() for loader in loaders if loader() is not None])
        loader = batches.train_loader(*arguments, **settings)
        loaders.append(ref(loader))
        return loader

    monkeypatch.setattr(trainer, "train_loader", train_loader)
    run(tmp_path / "run", **SETTINGS | {"on_nonfinite": "rewind", "checkpoint_every": 1})
    assert alive == [[], []]


@pytest.mark.slow
@pytest.mark.parametrize("choice", ["skip", "rewind"])
def test_runs_with_bad_steps_resume_bit_identically(tmp_path, monkeypatch, choice):
    spoil(monkeypatch, only_seed=None if choice == "skip" else image_seed(seed=0, epoch=0, index=BAD_IMAGE))
    settings = SETTINGS | {"on_nonfinite": choice, "checkpoint_every": 1}
    whole = run(tmp_path / "run", **settings)
    with pytest.raises(Killed):
        run(tmp_path / "killed", kill_at=5, **settings)
    resumed = resume(tmp_path / "killed", **settings)
    assert (resumed.skipped, resumed.rewinds) == (whole.skipped, whole.rewinds) != (0, 0)
    assert differing(tmp_path / "run", tmp_path / "killed") == []


def test_rewinding_has_a_limit(tmp_path, monkeypatch):
    spoil(monkeypatch)
    with pytest.raises(TrainingError, match="already been rewound 2 times"):
        run(tmp_path / "run", **SETTINGS | {"on_nonfinite": "rewind", "nonfinite_limit": 2})
    assert load_checkpoint(RunFolder(tmp_path / "run").last)["trainer"]["rewinds"] == 2


def test_an_overflowing_gradient_is_a_bad_step(tmp_path):
    experiment = tiny_experiment(**SETTINGS)
    next(experiment.model.rpn.parameters()).register_hook(lambda gradient: gradient * torch.inf)
    prepare_folder(RunFolder(tmp_path), overwrite=False)
    with pytest.raises(TrainingError, match="the gradient of step 1 is not finite"):
        train_experiment(experiment, RunFolder(tmp_path))


def test_the_state_before_a_bad_step_that_is_found_later(tmp_path, monkeypatch):
    """As on a GPU with train.on_nonfinite=stop, where the check is not immediate."""
    seen = []
    monkeypatch.setattr(
        trainer, "Guard", lambda *arguments, **settings: Guard(*arguments, **settings | {"at_once": False})
    )
    spoil(monkeypatch)
    experiment = tiny_experiment(**SETTINGS, log_every=8)
    prepare_folder(RunFolder(tmp_path), overwrite=False)
    with pytest.raises(TrainingError, match="the loss of step") as error:
        train_experiment(experiment, RunFolder(tmp_path), on_step=partial(keep_state, experiment, seen))
    saved = load_checkpoint(tmp_path / "bad_step" / "step.pt")
    step = saved["bad_step"]["step"]
    assert f"step {step} " in str(error.value) and step <= len(seen)
    assert step == 1 or all(torch.equal(value, seen[step - 2][0][name]) for name, value in saved["model"].items())
    assert all(value.isfinite().all() for value in saved["model"].values())
    assert load_checkpoint(RunFolder(tmp_path).last)["step"] < step


def test_the_guard_does_not_change_the_run(whole, tmp_path, monkeypatch):
    monkeypatch.setattr(
        trainer, "Guard", lambda *arguments, **settings: Guard(*arguments, **settings | {"at_once": False})
    )
    with suppress(Killed):
        run(tmp_path / "run", **SETTINGS)
    assert differing(whole, tmp_path / "run") == []
