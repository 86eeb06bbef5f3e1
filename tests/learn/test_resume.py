"""A run that is killed at any moment and resumed is bit-identical to an uninterrupted run."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import torch
import yaml

from frcnn.training.distributed import join_world
from tests.training.experiments import Killed, differing, resume, run, tiny_settings
from tests.training.ranks import free_port, spawn_ranks

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = {"steps": 10, "checkpoint_every": 3, "num_logged_images": 0}
"""An epoch has 4 steps, so last.pt is written after steps 3, 4, 6, 8, 9 and 10: inside epochs and at their ends."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("whole") / "run"
    run(path, **SETTINGS)
    return path


def logged(path: Path) -> list[tuple]:
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    return [(line["step"], line.get("eval/AP"), "loss" in line) for line in lines]


def test_resumed_weights_are_bit_identical(whole, tmp_path):
    """Killed before the first checkpoint after step 0, inside an epoch, and at the end of an epoch."""
    path = tmp_path / "run"
    with pytest.raises(Killed):
        run(path, kill_at=2, **SETTINGS)
    for kill_at in (4, 7):
        with pytest.raises(Killed):
            resume(path, kill_at=kill_at, **SETTINGS)
    progress = resume(path, **SETTINGS)
    assert (progress.step, progress.evaluated_step) == (10, 10)
    assert differing(whole, path) == []
    assert logged(path) == logged(whole)
    assert (path / "eval.json").read_text() == (whole / "eval.json").read_text()


def test_a_kill_while_evaluating_repeats_the_evaluation(whole, tmp_path, monkeypatch):
    from frcnn.training import trainer

    def killed(*_, **__):
        raise Killed

    path = tmp_path / "run"
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(trainer, "validate", killed)
        run(path, **SETTINGS)
    resume(path, **SETTINGS)
    assert differing(whole, path) == []
    assert logged(path) == logged(whole)


def run_and_resume(rank: int, folder: Path) -> None:
    """On one of two ranks: an uninterrupted run, then a run that is killed and resumed twice."""
    settings = SETTINGS | {"steps": 6, "eval_every": 5}
    with join_world("cpu") as world:
        run(folder / "whole", world=world, **settings)
        for start, kill_at in ((run, 2), (resume, 5), (resume, None)):
            with suppress(Killed):
                start(folder / "killed", world=world, kill_at=kill_at, **settings)
            torch.distributed.barrier()


@pytest.mark.heavy
def test_two_ranks_resume_bit_identically(tmp_path):
    spawn_ranks(run_and_resume, tmp_path)
    assert differing(tmp_path / "whole", tmp_path / "killed") == []
    assert logged(tmp_path / "whole") == logged(tmp_path / "killed")


def start(config: Path, out: Path, *options: str, ranks: int) -> list[subprocess.Popen]:
    """Start the processes as torchrun does."""
    port = free_port()
    arguments = [sys.executable, "-m", "frcnn.cli.main", "train", str(config), "--out", str(out), *options]
    common = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return [
        subprocess.Popen(
            arguments,
            env=os.environ | common | {"WORLD_SIZE": str(ranks), "RANK": str(rank), "LOCAL_RANK": str(rank)},
            start_new_session=True,
        )
        for rank in range(ranks)
    ]


def kill(processes: list[subprocess.Popen]) -> None:
    """Send SIGKILL, also to the loader workers."""
    for process in processes:
        assert process.poll() is None, "the run ended before it could be killed"
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def last_step(path: Path) -> int:
    """The last step in metrics.jsonl."""
    try:
        lines = (path / "metrics.jsonl").read_text().splitlines()
        return json.loads(lines[-1])["step"]
    except (OSError, ValueError, IndexError):
        return 0


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
def test_sigkill_at_random_moments(tmp_path, ranks):
    config = tmp_path / "tiny.yaml"
    settings = tiny_settings(steps=48, checkpoint_every=3, log_every=1, num_logged_images=0, data={"workers": 1})
    config.write_text(yaml.safe_dump(settings))
    whole = start(config, tmp_path / "whole", ranks=ranks)
    assert [process.wait() for process in whole] == [0] * ranks

    out = tmp_path / "killed"
    generator = random.Random(ranks)
    for options in ([], ["--resume"], ["--resume"]):
        target = last_step(out) + generator.randint(2, 10)
        processes = start(config, out, *options, ranks=ranks)
        deadline = time.monotonic() + 300
        while last_step(out) < target and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(generator.random() * 0.3)
        kill(processes)
        assert last_step(out) >= target
    resumed = start(config, out, "--resume", ranks=ranks)
    assert [process.wait() for process in resumed] == [0] * ranks
    assert differing(tmp_path / "whole", out) == []
    assert logged(out) == logged(tmp_path / "whole")


def wait_for(condition: Callable[[], bool], process: subprocess.Popen) -> bool:
    """Poll until the condition holds; return False if the process ends first."""
    while not condition():
        if process.poll() is not None:
            return False
        time.sleep(0.0005)
    return True


@pytest.mark.slow
def test_fifty_sigkills(tmp_path):
    """Half of them occur while a checkpoint is written, the others at any moment, some before the run has resumed."""
    config = tmp_path / "tiny.yaml"
    settings = tiny_settings(
        steps=120, checkpoint_every=1, eval_every=20, log_every=1, num_logged_images=0, data={"workers": 1}
    )
    config.write_text(yaml.safe_dump(settings))
    [whole] = start(config, tmp_path / "whole", ranks=1)
    assert whole.wait() == 0

    out, generator, in_writes = tmp_path / "killed", random.Random(0), 0
    for number in range(50):
        [process] = start(config, out, "--auto-resume", ranks=1)
        target = last_step(out) + generator.randint(1, 3)
        if number % 10 == 9:
            time.sleep(generator.random() * 8)
        else:
            assert wait_for(lambda target=target: last_step(out) >= target, process)
            if number % 2:
                assert wait_for(lambda: any((out / "checkpoints").glob(".last.pt.*.tmp")), process)
            else:
                time.sleep(generator.random() * 0.5)
        kill([process])
        in_writes += any((out / "checkpoints").glob(".*.tmp"))
    print(f"{in_writes} of 50 kills left part of a checkpoint, the last at step {last_step(out)}")
    assert in_writes >= 5
    [process] = start(config, out, "--auto-resume", ranks=1)
    assert process.wait() == 0
    assert differing(tmp_path / "whole", out) == []
    assert logged(out) == logged(tmp_path / "whole")
    assert not list(out.rglob("*.tmp"))
