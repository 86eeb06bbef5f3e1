import json

import pytest
import torch

from frcnn.errors import ConfigError, TrainingError
from frcnn.training.run_folder import (
    RunFolder,
    cut_metrics,
    prepare_folder,
    refuse_overwriting,
    remove_leftovers,
    write_environment,
    writing,
)


@pytest.mark.parametrize("trace", ["checkpoints/last.pt", "checkpoints/best.pt"])
def test_a_folder_that_holds_a_run_is_refused(tmp_path, trace):
    folder = RunFolder(tmp_path / "run")
    (folder.path / trace).parent.mkdir(parents=True)
    (folder.path / trace).write_text("old")
    with pytest.raises(ConfigError, match=r"already holds a run.*--resume.*--out.*--overwrite"):
        refuse_overwriting(folder, overwrite=False)
    with pytest.raises(ConfigError):
        prepare_folder(folder, overwrite=False)
    assert (folder.path / trace).read_text() == "old"


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("name", ["config.yaml", "env.json", "metrics.jsonl", "eval.json"])
def test_foreign_files_with_the_names_of_a_run_are_refused(tmp_path, name, overwrite):
    (tmp_path / name).write_text("mine")
    with pytest.raises(ConfigError, match=f"holds no run, but it holds {name}.*--out"):
        prepare_folder(RunFolder(tmp_path), overwrite=overwrite)
    assert (tmp_path / name).read_text() == "mine"


FOREIGN = ("notes.txt", ".write-test", ".mine.tmp", "images/cat.jpg", "images/deep/dog.jpg", "checkpoints/mine.pt")
OF_A_RUN = (
    "config.yaml",
    "env.json",
    "metrics.jsonl",
    "eval.json",
    "events.out.tfevents.1",
    ".eval.json.7.tmp",
    "images/step_000001_0.jpg",
    "checkpoints/.last.pt.7.tmp",
    "checkpoints/best.pt",
    "checkpoints/last.pt",
)


def fill(root, names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("old")


def files(root):
    return {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}


def test_overwrite_deletes_the_run_and_nothing_else(tmp_path):
    fill(tmp_path, FOREIGN + OF_A_RUN)
    prepare_folder(RunFolder(tmp_path), overwrite=True)
    assert files(tmp_path) == set(FOREIGN)


@pytest.mark.parametrize("overwrite", [False, True])
def test_without_a_run_nothing_is_deleted(tmp_path, overwrite):
    names = (*FOREIGN, "images/step_000001_0.jpg", "events.out.tfevents.1")
    fill(tmp_path, names)
    prepare_folder(RunFolder(tmp_path), overwrite=overwrite)
    remove_leftovers(RunFolder(tmp_path))
    assert files(tmp_path) == set(names)


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot write to the run folder .*file/run.*--out"):
        prepare_folder(RunFolder(tmp_path / "file" / "run"), overwrite=False)


def test_a_full_disk(tmp_path):
    with (
        pytest.raises(TrainingError, match="metrics.jsonl: No space left on device"),
        writing(tmp_path / "metrics.jsonl"),
    ):
        raise OSError(28, "No space left on device")


def test_temporary_files_of_a_killed_write_are_deleted(tmp_path):
    folder = RunFolder(tmp_path)
    prepare_folder(folder, overwrite=False)
    folder.last.write_text("whole")
    for path in (tmp_path / ".eval.json.7.tmp", folder.last.with_name(".last.pt.7.tmp")):
        path.write_text("part")
    remove_leftovers(folder)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["last.pt"]


def test_metrics_after_the_checkpoint_are_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    entries = [
        {"step": 10, "loss": 1.0},
        {"step": 10, "eval/AP": 0.1},
        {"step": 20, "loss": 0.9},
        {"step": 20, "eval/AP": 0.2},
        {"step": 30, "loss": 0.8},
    ]
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries) + '{"step": 31, "lo')
    cut_metrics(path, step=20, evaluated_step=10)
    assert [json.loads(line) for line in path.read_text().splitlines()] == entries[:3]


def test_missing_metrics_are_not_an_error(tmp_path):
    cut_metrics(tmp_path / "metrics.jsonl", step=1, evaluated_step=0)
    assert list(tmp_path.iterdir()) == []


def test_the_environment_keeps_the_first_start_and_adds_later_starts(tmp_path):
    path = tmp_path / "env.json"
    device = torch.device("cpu")
    write_environment(path, seed=3, device=device, world_size=1, is_resumed=False)
    first = json.loads(path.read_text())
    assert {"python", "torch", "torchvision", "frcnn", "numpy", "platform", "git_commit", "command"} <= first.keys()
    assert (first["seed"], first["device"], first["world_size"]) == (3, "cpu", 1)
    write_environment(path, seed=3, device=device, world_size=2, is_resumed=True)
    second = json.loads(path.read_text())
    assert [start["world_size"] for start in second.pop("resumed")] == [2]
    assert second == first
