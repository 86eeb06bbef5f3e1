"""`frcnn train`: exit status, messages and output."""

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
def test_invalid_arguments_have_status_2(arguments):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2


def test_the_log_starts_with_the_settings(config, tmp_path, capsys):
    assert main([str(config), "--out", str(tmp_path / "run"), "train.steps=1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "commit" in lines[0] and "device cpu" in lines[0] and "tiny.yaml" in lines[0]
    head = "\n".join(lines[:6])
    parts = ("8 images", "circle", "4 steps per epoch", "train.eval_every=4", "M trainable")
    assert all(part in head for part in parts)
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["train"]["steps"] == 1


def test_a_run_is_overwritten_only_on_request(config, finished, tmp_path, capsys):
    before = (finished / "checkpoints" / "last.pt").read_bytes()
    assert main([str(config), "--out", str(finished)]) == 2
    assert "already holds a run" in capsys.readouterr().err
    assert (finished / "checkpoints" / "last.pt").read_bytes() == before


def test_an_error_keeps_the_run_that_would_be_overwritten(config, finished):
    assert main([str(config), "--out", str(finished), "--overwrite", "train.batch_size=99"]) == 2
    assert (finished / "checkpoints" / "last.pt").exists()


def test_a_finished_run_has_nothing_to_resume(config, finished, capsys):
    assert main([str(config), "--out", str(finished), "--resume"]) == 0
    assert "is finished (2 steps)" in capsys.readouterr().out
    assert main(["--out", str(finished), "--resume"]) == 0


def test_resume_needs_the_same_config(config, finished, capsys):
    assert main([str(config), "--out", str(finished), "--resume", "train.lr=1", "data.workers=1"]) == 2
    message = capsys.readouterr().err
    assert "train.lr: 0.002 in the run, 1.0 now" in message and "workers" not in message


def test_resume_without_a_run(config, tmp_path, capsys):
    for arguments in ([str(config)], []):
        assert main([*arguments, "--resume", "--out", str(tmp_path / "nothing")]) == 2
        assert "holds no run to resume" in capsys.readouterr().err


def test_a_truncated_checkpoint(config, tmp_path, capsys):
    path = tmp_path / "run" / "checkpoints" / "last.pt"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"PK\3\4 cut short")
    assert main([str(config), "--resume", "--out", str(tmp_path / "run")]) == 2
    assert "last.pt" in capsys.readouterr().err


def test_a_dry_run_writes_nothing(config, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main([str(config), "--dry-run"]) == 0
    assert "dry run done" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_init_from_loads_weights_and_lists_the_others(config, finished, tmp_path, capsys):
    out = tmp_path / "run"
    source = finished / "checkpoints" / "best.pt"
    arguments = [str(config), "--out", str(out), "--init-from", str(source), "model.roi.class_agnostic=true"]
    assert main([*arguments, "train.lr=1e-30"]) == 0
    output = capsys.readouterr().out
    assert "roi_head.predictor.deltas.weight: (20, 32) in the file, (4, 32) here" in output
    old, new = load_checkpoint(source)["model"], load_checkpoint(out / "checkpoints" / "last.pt")["model"]
    torch.testing.assert_close(new["rpn.convs.0.weight"], old["rpn.convs.0.weight"])
    assert main([str(config), "--out", str(tmp_path / "other"), "--init-from", str(tmp_path / "gone.pt")]) == 2
    assert "gone.pt: no such file to initialize from" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


def test_init_from_uses_the_best_checkpoint_of_a_run(config, finished, tmp_path, capsys):
    arguments = [str(config), "--out", str(tmp_path / "run"), "--dry-run"]
    assert main([*arguments, "--init-from", str(finished)]) == 0
    assert f"tensors loaded from {finished / 'checkpoints' / 'best.pt'}" in capsys.readouterr().out
    assert main([*arguments, "--init-from", str(tmp_path)]) == 2
    assert f"{tmp_path}: no checkpoint in this folder" in capsys.readouterr().err


def test_a_full_disk_has_status_1(config, tmp_path, capsys, monkeypatch):
    def full(path, keep=None):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("frcnn.files.checkpoint.replacing", full)
    assert main([str(config), "--out", str(tmp_path / "run")]) == 1
    message = capsys.readouterr().err
    assert "last.pt: cannot write the checkpoint: No space left on device" in message
    assert "Fix this, then continue with --resume" in message
