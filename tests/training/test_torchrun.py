"""Two processes under torchrun: one of them is killed, or torchrun gets a signal."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from frcnn.files.checkpoint import load_checkpoint
from tests.training.experiments import tiny_settings
from tests.training.ranks import free_port

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow


@pytest.fixture
def config(tmp_path) -> Path:
    path = tmp_path / "tiny.yaml"
    settings = tiny_settings(steps=60, eval_every=60, checkpoint_every=2, log_every=1, num_logged_images=0)
    path.write_text(yaml.safe_dump(settings))
    return path


def torchrun(config: Path, out: Path, *options: str) -> subprocess.Popen:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", *options]
    launcher += ["--master-port", str(free_port()), str(ROOT / "tools" / "train.py"), str(config), "--out", str(out)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    log = open(out.with_suffix(".log"), "w")  # noqa: SIM115 (lives as long as the process)
    return subprocess.Popen(launcher, env=environment, stdout=log, stderr=subprocess.STDOUT)


def wait_for_step(out: Path, step: int, launcher: subprocess.Popen) -> None:
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        assert launcher.poll() is None, out.with_suffix(".log").read_text()
        try:
            if json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])["step"] >= step:
                return
        except (OSError, ValueError, IndexError):
            pass
        time.sleep(0.05)
    raise AssertionError("the run did not get there")


def process_of_rank(rank: int, launcher: subprocess.Popen) -> int:
    for child in Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split():
        if f"\0RANK={rank}\0" in Path(f"/proc/{child}/environ").read_text():
            return int(child)
    raise AssertionError(f"no process of rank {rank}")


def test_a_killed_rank_ends_the_others_within_a_minute(config, tmp_path):
    out = tmp_path / "run"
    launcher = torchrun(config, out)
    wait_for_step(out, 5, launcher)
    os.kill(process_of_rank(1, launcher), signal.SIGKILL)
    start = time.monotonic()
    assert launcher.wait(timeout=60) != 0
    print(f"all over {time.monotonic() - start:.1f} s after the kill")
    assert load_checkpoint(out / "checkpoints" / "last.pt")["step"] >= 4


def test_torchrun_restarts_and_the_run_resumes(config, tmp_path):
    out = tmp_path / "run"
    launcher = torchrun(config, out, "--max-restarts", "1")
    wait_for_step(out, 5, launcher)
    os.kill(process_of_rank(0, launcher), signal.SIGKILL)
    assert launcher.wait(timeout=300) == 0
    assert "resume at step" in out.with_suffix(".log").read_text()
    assert load_checkpoint(out / "checkpoints" / "last.pt")["step"] == 60


def test_a_signal_to_torchrun_stops_the_ranks_in_order(config, tmp_path):
    out = tmp_path / "run"
    launcher = torchrun(config, out)
    wait_for_step(out, 5, launcher)
    launcher.send_signal(signal.SIGTERM)
    assert launcher.wait(timeout=60) != 0
    log = out.with_suffix(".log").read_text()
    step = load_checkpoint(out / "checkpoints" / "last.pt")["step"]
    assert f"stopped by SIGTERM at step {step}; continue with --resume --out {out}" in log
