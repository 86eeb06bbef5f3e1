"""Loader processes that fail, die or receive signals."""

import os
import re
import signal
import subprocess
import sys
import time

import pytest
import torch

from frcnn.cli.run import guarded
from frcnn.config.schema import DataConfig
from frcnn.data import build_dataset, build_eval_loader, build_train_loader
from frcnn.data.loader import received
from frcnn.errors import TrainingError
from frcnn.runs.failures import explain, explain_worker


def make(workers: int):
    source = {"format": "shapes", "num_images": 6, "height": 64, "width": 64}
    data = DataConfig(train=source, val=source, short_side=[64], long_side=64, workers=workers)
    return data, build_dataset(data, "train")


def batches(data, dataset):
    return build_train_loader(data, dataset, batch_size=2, accumulate=1, seed=0, start_step=0)


def break_reading(index: int):
    raise ZeroDivisionError("division by zero")


def test_a_fault_in_a_worker_names_the_image_and_the_last_line_of_the_traceback(capsys):
    data, dataset = make(workers=1)
    dataset.read_image = break_reading
    for loader in (batches(data, dataset), build_eval_loader(data, dataset, batch_size=2)):
        with pytest.raises(TrainingError) as error:
            next(iter(loader))
        message = str(error.value)
        assert message.startswith("shapes seed 0 ") and "a loader process failed: ZeroDivisionError" in message
        assert "(test_worker_faults.py, line" in message and "in break_reading)" in message
        assert "data.workers=0" in message and "Traceback" not in message
    assert guarded(lambda: next(iter(batches(data, dataset)))) == 1
    assert "Traceback" not in capsys.readouterr().err


def test_a_worker_that_is_killed_is_reported_with_its_signal(capsys):
    data, dataset = make(workers=1)
    dataset.read_image = lambda index: os.kill(os.getpid(), signal.SIGKILL)
    assert guarded(lambda: next(iter(batches(data, dataset)))) == 1
    message = capsys.readouterr().err
    assert "a data loading worker" in message and "memory" in message and "data.workers" in message
    assert "Traceback" not in message


@pytest.mark.parametrize("broken", [EOFError, ConnectionResetError])
def test_a_worker_that_dies_while_it_sends_a_batch_is_reported(broken, monkeypatch):
    def results():
        yield "a batch"
        raise broken

    monkeypatch.setattr("frcnn.data.loader.time.sleep", lambda _: None)
    batches = received(results())
    assert next(batches) == "a batch"
    with pytest.raises(RuntimeError) as error:
        next(batches)
    assert "has ended" in (explain(error.value) or "")


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        (
            "DataLoader worker (pid 7) is killed by signal: Killed. ",
            "the signal 'Killed', usually because memory ran",
        ),
        ("DataLoader worker (pid 7) is killed by signal: Bus error. It is possible ...", "'Bus error'.*shared memory"),
        ("DataLoader worker (pid 7) is killed by signal: Segmentation fault. ", "a bug in a library"),
        ("DataLoader worker (pid(s) 7, 8) exited unexpectedly", "has ended, usually because memory"),
    ],
)
def test_the_cause_of_a_dead_worker(text, cause):
    assert re.search(cause, explain_worker(text))


def test_workers_ignore_the_first_signals():
    data, dataset = make(workers=1)
    iterator = iter(batches(data, dataset))
    next(iterator)
    [child] = torch.multiprocessing.active_children()
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(child.pid, number)
    for _ in range(8):
        next(iterator)
    assert child.is_alive()
    os.kill(child.pid, signal.SIGTERM)
    with pytest.raises(RuntimeError, match="Terminated|exited unexpectedly") as error:  # noqa: PT012
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            next(iterator)
    assert "continue with --resume" in (explain(error.value) or "")


@pytest.mark.parametrize("workers", [2, 4])
def test_a_program_can_exit_while_a_loader_works(workers):
    program = f"""
import time
from frcnn.config.schema import DataConfig
from frcnn.data import build_dataset, build_train_loader
source = {{"format": "shapes", "num_images": 6, "height": 64, "width": 64}}
data = DataConfig(train=source, val=source, short_side=[64], long_side=64, workers={workers})
batches = iter(build_train_loader(data, build_dataset(data, "train"), batch_size=2, accumulate=1, seed=0, start_step=0))
print(len(next(batches).images), time.time(), flush=True)
"""
    command = [sys.executable, "-W", "ignore", "-c", program]  # PyTorch warns of more workers than cores
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    count, at_work = ended.stdout.split()
    assert (count, ended.stderr) == ("2", "")
    assert time.time() - float(at_work) < 15  # waiting for the workers without stopping them takes 10 s for each
