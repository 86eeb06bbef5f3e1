import errno
import os
import resource
import signal

import pytest
import torch

from frcnn.errors import CheckpointError
from frcnn.files import checkpoint as files
from frcnn.files.checkpoint import find_checkpoint, load_checkpoint, load_newest, save_checkpoint


def make_checkpoint(step=3, size=10):
    return {
        "format": 1,
        "model": {"weight": torch.arange(size, dtype=torch.float32)},
        "config": {"data": {"val": None}, "train": {"lr": 0.1}},
        "class_names": ["cat", "dog"],
        "category_ids": [17, 18],
        "step": step,
    }


def test_save_and_load(tmp_path):
    path = tmp_path / "run" / "checkpoints" / "last.pt"
    saved = {**make_checkpoint(), "trainer": {"rng": torch.get_rng_state(), "best": None}}
    save_checkpoint(path, saved)
    loaded = load_checkpoint(path)
    assert torch.equal(loaded["model"].pop("weight"), saved["model"].pop("weight"))
    assert torch.equal(loaded["trainer"].pop("rng"), saved["trainer"].pop("rng"))
    assert loaded == saved
    assert os.listdir(path.parent) == ["last.pt"]


def raise_full(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("step", ["os.replace", "os.fsync", "torch.save"])
def test_a_full_disk_keeps_the_old_checkpoint(step, tmp_path, monkeypatch):
    path = tmp_path / "last.pt"
    save_checkpoint(path, make_checkpoint(step=1))
    monkeypatch.setattr(step, raise_full)
    with pytest.raises(CheckpointError, match=r"last.pt: cannot write the checkpoint: No space left"):
        save_checkpoint(path, make_checkpoint(step=2))
    assert os.listdir(tmp_path) == ["last.pt"]
    assert load_checkpoint(path)["step"] == 1


def test_an_interrupted_write(tmp_path):
    """The file system refuses the write, here because of a limit on the file size. torch raises its own error."""
    path = tmp_path / "last.pt"
    save_checkpoint(path, make_checkpoint(step=1))
    limit, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limit[1]))
    try:
        with pytest.raises(CheckpointError, match="File too large"):
            save_checkpoint(path, make_checkpoint(step=2, size=1_000_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, handler)
    assert os.listdir(tmp_path) == ["last.pt"]
    assert load_checkpoint(path)["step"] == 1


def test_a_folder_that_cannot_be_created(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot write"):
        save_checkpoint(tmp_path / "file" / "last.pt", make_checkpoint())


def test_an_interrupt_leaves_no_temporary_file(tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(tmp_path / "last.pt", make_checkpoint())
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_a_truncated_checkpoint(share, tmp_path):
    path = tmp_path / "last.pt"
    save_checkpoint(path, make_checkpoint())
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(CheckpointError, match=r"last.pt: cannot be read as a checkpoint: the file is truncated"):
        load_checkpoint(path)


def test_files_that_are_not_checkpoints(tmp_path):
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        load_checkpoint(tmp_path / "none.pt")
    with pytest.raises(CheckpointError, match="a folder"):
        load_checkpoint(tmp_path)
    (tmp_path / "text.pt").write_text("hello")
    with pytest.raises(CheckpointError, match="damaged"):
        load_checkpoint(tmp_path / "text.pt")
    torch.save(make_checkpoint()["model"], tmp_path / "weights.pt")
    with pytest.raises(CheckpointError, match=r"not a checkpoint of frcnn: it has no entry 'format'.*--init-from"):
        load_checkpoint(tmp_path / "weights.pt")


class Anything:
    """A class that unpickling can restore only by executing code."""


def test_nothing_in_the_file_is_executed(tmp_path):
    torch.save({**make_checkpoint(), "trainer": Anything()}, tmp_path / "object.pt")
    with pytest.raises(CheckpointError):
        load_checkpoint(tmp_path / "object.pt")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, r"written by a newer frcnn \(checkpoint format 2; this version reads up to 1\). Update frcnn"),
        ({"format": 0}, "checkpoint format 0 is no longer supported"),
        ({"model": None}, "'model' is a NoneType"),
        ({"ema": "averaged"}, "'ema' is a str"),
        ({"trainer": 3}, "'trainer' is a int"),
        ({"model": {1: torch.zeros(1)}}, "a name in 'model' is not a string"),
        ({"ema": {1: torch.zeros(1)}}, "a name in 'ema' is not a string"),
        ({"category_ids": [1]}, "2 class names, 1 category ids"),
        ({"class_names": [], "category_ids": []}, "0 class names"),
    ],
)
def test_incomplete_checkpoints(change, message, tmp_path):
    torch.save({**make_checkpoint(), **change}, tmp_path / "odd.pt")
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(tmp_path / "odd.pt")
    complete = make_checkpoint()
    for key in complete:
        torch.save({name: value for name, value in complete.items() if name != key}, tmp_path / "part.pt")
        with pytest.raises(CheckpointError, match=f"no entry '{key}'"):
            load_checkpoint(tmp_path / "part.pt")


def test_an_older_checkpoint_is_upgraded_step_by_step(tmp_path, monkeypatch):
    """Formats 1 and 2 are upgraded to a format 3, which `save_checkpoint` then writes."""
    path = tmp_path / "old.pt"
    torch.save({**make_checkpoint(), "names": ["cat", "dog"]}, path)

    def rename(checkpoint):
        names = checkpoint.pop("names")
        return checkpoint | {"class_names": [name.upper() for name in names]}

    monkeypatch.setattr(files, "FORMAT", 3)
    monkeypatch.setattr(files, "UPGRADES", {1: rename, 2: lambda checkpoint: checkpoint | {"step": 0}})
    upgraded = load_checkpoint(path)
    assert (upgraded["format"], upgraded["class_names"], upgraded["step"]) == (3, ["CAT", "DOG"], 0)
    save_checkpoint(path, upgraded)
    assert torch.load(path)["format"] == 3
    assert load_checkpoint(path)["class_names"] == ["CAT", "DOG"]

    torch.save(make_checkpoint(), path)  # without the entry that the upgrade needs
    with pytest.raises(CheckpointError, match="old.pt: cannot be upgraded from checkpoint format 1: .*damaged"):
        load_checkpoint(path)
    monkeypatch.setattr(files, "UPGRADES", {2: lambda checkpoint: checkpoint})
    with pytest.raises(CheckpointError, match="checkpoint format 1 is no longer supported"):
        load_checkpoint(path)


def test_a_newer_last_checkpoint_is_not_treated_as_damaged(tmp_path):
    """Resuming from previous.pt would lose the steps that a newer version of frcnn has done."""
    last, previous = tmp_path / "last.pt", tmp_path / "previous.pt"
    save_checkpoint(previous, make_checkpoint())
    torch.save({**make_checkpoint(), "format": 2}, last)
    with pytest.raises(CheckpointError, match="last.pt: written by a newer frcnn"):
        load_newest(last, previous)
    last.write_bytes(b"damaged")
    assert load_newest(last, previous)[1] == previous


@pytest.mark.parametrize("text", [None, "{", "[]", "{}", '{"format": 1}', '{"format": "x"}'])
def test_run_folders_that_can_be_read(tmp_path, text):
    """A folder without a format number has version 1. A damaged env.json does not make a run unusable."""
    if text is not None:
        (tmp_path / "env.json").write_text(text)
    save_checkpoint(tmp_path / "checkpoints" / "last.pt", make_checkpoint())
    assert find_checkpoint(tmp_path) == tmp_path / "checkpoints" / "last.pt"


def test_a_newer_run_folder_is_refused(tmp_path):
    (tmp_path / "env.json").write_text('{"format": 2}')
    save_checkpoint(tmp_path / "checkpoints" / "last.pt", make_checkpoint())
    with pytest.raises(CheckpointError, match=r"written by a newer frcnn \(run folder format 2.*Update frcnn"):
        find_checkpoint(tmp_path)


def test_the_checkpoint_of_a_run_folder(tmp_path):
    with pytest.raises(CheckpointError, match="no checkpoint in this folder"):
        find_checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match="no such run folder or checkpoint"):
        find_checkpoint(tmp_path / "none")
    checkpoints = tmp_path / "checkpoints"
    save_checkpoint(checkpoints / "last.pt", make_checkpoint())
    assert find_checkpoint(tmp_path) == checkpoints / "last.pt"
    save_checkpoint(checkpoints / "best.pt", make_checkpoint())
    assert find_checkpoint(tmp_path) == checkpoints / "best.pt"
    assert find_checkpoint(checkpoints / "last.pt") == checkpoints / "last.pt"
    assert find_checkpoint(checkpoints) == checkpoints / "best.pt"
