"""`frcnn train` as its user meets it: exit status and the one message."""

import pytest
import torch
import yaml

from frcnn.cli.train import main
from frcnn.files.checkpoint import load_checkpoint
from tests.training.experiments import tiny_settings


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    path = tmp_path_factory.mktemp("configs") / "tiny.yaml"
    path.write_text(yaml.safe_dump(tiny_settings(steps=2, num_logged_images=0)))
    return path


@pytest.fixture(scope="module")
def finished(config):
    out = config.parent / "run"
    assert main([str(config), "--out", str(out)]) == 0
    return out


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--resume"],
        ["a.yaml", "b.yaml"],
        ["a.yaml", "--resume", "--overwrite"],
        ["a.yaml", "--resume", "--init-from", "x.pt"],
        ["a.yaml", "--frobnicate"],
    ],
)
def test_unusable_arguments_are_status_2(arguments):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2


def test_the_log_begins_with_the_facts(config, tmp_path, capsys):
    assert main([str(config), "--out", str(tmp_path / "run"), "train.steps=1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "commit" in lines[0] and "device cpu" in lines[0] and "tiny.yaml" in lines[0]
    head = "\n".join(lines[:6])
    assert all(part in head for part in ("8 images", "circle", "4 steps an epoch", "train.eval_every=4", "M trainable"))
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["train"]["steps"] == 1


def test_a_run_is_not_overwritten_unless_told_to(config, finished, tmp_path, capsys):
    before = (finished / "checkpoints" / "last.pt").read_bytes()
    assert main([str(config), "--out", str(finished)]) == 2
    assert "already holds a run" in capsys.readouterr().err
    assert (finished / "checkpoints" / "last.pt").read_bytes() == before


def test_a_mistake_does_not_cost_the_run_that_was_to_be_overwritten(config, finished):
    assert main([str(config), "--out", str(finished), "--overwrite", "train.batch_size=99"]) == 2
    assert (finished / "checkpoints" / "last.pt").exists()


def test_a_finished_run_has_nothing_to_resume(config, finished, capsys):
    assert main([str(config), "--out", str(finished), "--resume"]) == 0
    assert "is finished (2 steps)" in capsys.readouterr().out
    assert main(["--out", str(finished), "--resume"]) == 0


def test_resume_asks_for_the_same_config(config, finished, capsys):
    assert main([str(config), "--out", str(finished), "--resume", "train.lr=1", "data.workers=1"]) == 2
    message = capsys.readouterr().err
    assert "train.lr: 0.002 in the run, 1.0 now" in message and "workers" not in message


def test_resume_without_a_run_is_named(config, tmp_path, capsys):
    for arguments in ([str(config)], []):
        assert main([*arguments, "--resume", "--out", str(tmp_path / "nothing")]) == 2
        assert "holds no run to resume" in capsys.readouterr().err


def test_a_truncated_checkpoint_is_named(config, tmp_path, capsys):
    path = tmp_path / "run" / "checkpoints" / "last.pt"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"PK\3\4 cut short")
    assert main([str(config), "--resume", "--out", str(tmp_path / "run")]) == 2
    assert "last.pt" in capsys.readouterr().err


def test_a_dry_run_leaves_nothing_behind(config, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main([str(config), "--dry-run"]) == 0
    assert "dry run done" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_init_from_takes_the_weights_and_says_what_not(config, finished, tmp_path, capsys):
    out = tmp_path / "run"
    source = finished / "checkpoints" / "best.pt"
    arguments = [str(config), "--out", str(out), "--init-from", str(source), "model.roi.class_agnostic=true"]
    assert main([*arguments, "train.lr=1e-30"]) == 0
    output = capsys.readouterr().out
    assert "roi_head.predictor.deltas.weight: (20, 32) in the file, (4, 32) here" in output
    old, new = load_checkpoint(source)["model"], load_checkpoint(out / "checkpoints" / "last.pt")["model"]
    torch.testing.assert_close(new["rpn.convs.0.weight"], old["rpn.convs.0.weight"])
    assert main([str(config), "--out", str(tmp_path / "other"), "--init-from", str(tmp_path / "gone.pt")]) == 2
    assert "gone.pt: there is no such file" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


def test_init_from_takes_a_run_folder_for_its_best_checkpoint(config, finished, tmp_path, capsys):
    arguments = [str(config), "--out", str(tmp_path / "run"), "--dry-run"]
    assert main([*arguments, "--init-from", str(finished)]) == 0
    assert f"tensors loaded from {finished / 'checkpoints' / 'best.pt'}" in capsys.readouterr().out
    assert main([*arguments, "--init-from", str(tmp_path)]) == 2
    assert f"{tmp_path}: holds no run with a checkpoint" in capsys.readouterr().err


def test_a_full_disk_is_status_1(config, tmp_path, capsys, monkeypatch):
    def full(path, keep=None):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("frcnn.files.checkpoint.replacing", full)
    assert main([str(config), "--out", str(tmp_path / "run")]) == 1
    message = capsys.readouterr().err
    assert "last.pt: cannot write the checkpoint: No space left on device" in message
    assert "Mend that, then go on with --resume" in message
