import errno
import os
import resource
import signal

import pytest
import torch

from frcnn.errors import CheckpointError
from frcnn.files.checkpoint import find_checkpoint, load_checkpoint, save_checkpoint


def make_checkpoint(step=3, size=10):
    return {
        "format": 1,
        "model": {"weight": torch.arange(size, dtype=torch.float32)},
        "config": {"data": {"val": None}, "train": {"lr": 0.1}},
        "class_names": ["cat", "dog"],
        "category_ids": [17, 18],
        "step": step,
    }


def test_what_is_saved_is_loaded(tmp_path):
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
def test_a_full_disk_leaves_the_old_checkpoint(step, tmp_path, monkeypatch):
    path = tmp_path / "last.pt"
    save_checkpoint(path, make_checkpoint(step=1))
    monkeypatch.setattr(step, raise_full)
    with pytest.raises(CheckpointError, match=r"last.pt: cannot write the checkpoint: No space left"):
        save_checkpoint(path, make_checkpoint(step=2))
    assert os.listdir(tmp_path) == ["last.pt"]
    assert load_checkpoint(path)["step"] == 1


def test_a_write_that_stops_in_the_middle(tmp_path):
    """The file system itself refuses (here by a limit on the size of files); torch reports that in its own words."""
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


def test_a_folder_that_cannot_be_made(tmp_path):
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
def test_a_truncated_checkpoint_is_named(share, tmp_path):
    path = tmp_path / "last.pt"
    save_checkpoint(path, make_checkpoint())
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(CheckpointError, match=r"last.pt: cannot be read as a checkpoint: the file is cut short"):
        load_checkpoint(path)


def test_other_files_are_no_checkpoints(tmp_path):
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
    """A class that only unpickling with code execution would bring back."""


def test_nothing_in_the_file_is_executed(tmp_path):
    torch.save({**make_checkpoint(), "trainer": Anything()}, tmp_path / "object.pt")
    with pytest.raises(CheckpointError):
        load_checkpoint(tmp_path / "object.pt")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "format is 2, this version reads 1"),
        ({"model": None}, "'model' is a NoneType"),
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


def test_which_checkpoint_a_run_folder_stands_for(tmp_path):
    with pytest.raises(CheckpointError, match="holds no run"):
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
