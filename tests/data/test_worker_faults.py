"""Processes that read images and die, or are told to by everybody's signal."""

import os
import re
import signal
import subprocess
import sys
import time

import pytest
import torch

from frcnn.cli.run import explain, explain_worker, guarded
from frcnn.config.schema import DataConfig
from frcnn.data import build_dataset, build_eval_loader, build_train_loader
from frcnn.errors import TrainingError


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
    assert "a process that reads images" in message and "memory" in message and "data.workers" in message
    assert "Traceback" not in message


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        (
            "DataLoader worker (pid 7) is killed by signal: Killed. ",
            "the signal 'Killed', as a rule because memory ran",
        ),
        ("DataLoader worker (pid 7) is killed by signal: Bus error. It is possible ...", "'Bus error'.*shared memory"),
        ("DataLoader worker (pid 7) is killed by signal: Segmentation fault. ", "a fault in a library"),
        ("DataLoader worker (pid(s) 7, 8) exited unexpectedly", "has ended, as a rule for want of memory"),
    ],
)
def test_what_a_dead_worker_died_of(text, cause):
    assert re.search(cause, explain_worker(text))


def test_workers_leave_the_first_signals_to_the_main_process():
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
    assert "go on with --resume" in (explain(error.value) or "")


@pytest.mark.parametrize("workers", [2, 4])
def test_a_program_may_end_while_a_loader_is_at_work(workers):
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
