"""`frcnn.train`, `frcnn.evaluate` and `frcnn.load(...).predict(...)`, called from Python."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
import yaml

import frcnn
from frcnn.config import parse_config
from frcnn.errors import CheckpointError, ConfigError, DataError, TrainingError
from frcnn.files.checkpoint import load_checkpoint
from frcnn.runs import train as runs
from tests.training.experiments import differing, tiny_config, tiny_settings

SETTINGS = {"steps": 2, "num_logged_images": 0, "checkpoint_every": 1}


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    """Two steps on drawn shapes, from a dict."""
    return frcnn.train(tiny_settings(**SETTINGS), out=tmp_path_factory.mktemp("runs") / "run")


def test_train_returns_the_run_and_its_evaluation(result):
    assert isinstance(result, frcnn.TrainingResult)
    assert (result.step, result.steps_done) == (2, 2)
    assert result.report == json.loads((result.folder / "eval.json").read_text())
    assert result.report["images"] == 3 and 0 <= result.report["coco"]["AP"] <= 1


def test_a_run_is_evaluated_and_used(result, tmp_path):
    evaluation = frcnn.evaluate(result.folder)
    assert isinstance(evaluation, frcnn.Evaluation)
    assert evaluation.report["coco"] == result.report["coco"]
    assert evaluation.report["checkpoint"].endswith("best.pt")
    assert len(evaluation.records) == len(evaluation.detections) == 3
    assert evaluation.class_names == tuple(load_checkpoint(result.folder / "checkpoints" / "best.pt")["class_names"])
    assert evaluation.skipped == ""

    changed = frcnn.evaluate(str(result.folder), overrides=["data.val.num_images=2"], out=tmp_path / "evaluation")
    assert json.loads((tmp_path / "evaluation" / "eval.json").read_text()) == changed.report
    assert changed.report["images"] == 2

    predictor = frcnn.load(result.folder, device="cpu")
    assert isinstance(predictor, frcnn.Predictor)
    image = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    [prediction] = predictor.predict(image, score_threshold=0.0)
    assert isinstance(prediction, frcnn.Prediction)
    assert len(prediction.boxes) == len(prediction.scores) == len(prediction.labels) == len(prediction.class_names) > 0


def test_a_damaged_evaluation_is_named(result, tmp_path):
    shutil.copytree(result.folder, tmp_path / "run")
    (tmp_path / "run" / "eval.json").write_text("{")
    with pytest.raises(DataError, match=r"eval\.json: not a JSON file"):
        frcnn.train(out=tmp_path / "run", resume=True)


def test_evaluation_writes_no_file_without_out(result):
    before = sorted(path for path in result.folder.rglob("*"))
    frcnn.evaluate(result.folder)
    assert sorted(path for path in result.folder.rglob("*")) == before
    with pytest.raises(ConfigError, match="save_detections writes to the folder out"):
        frcnn.evaluate(result.folder, save_detections=True)


@pytest.mark.parametrize("kind", ["file", "path", "config"])
def test_every_kind_of_config_trains_the_same_run(kind, result, tmp_path):
    """A file, as a str or a Path, and a validated config with an override; bit-identical to the run from a dict."""
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(tiny_settings(**SETTINGS)))
    config = {"file": str(path), "path": path, "config": tiny_config(**SETTINGS | {"steps": 1})}[kind]
    again = frcnn.train(config, overrides=["train.steps=2"], out=str(tmp_path / "run"), check_data=False)
    assert again.folder == tmp_path / "run"
    assert differing(again.folder, result.folder) == []
    assert again.report == result.report


def test_a_run_is_resumed_and_its_errors_are_the_projects(tmp_path, capsys):
    out = tmp_path / "run"
    with pytest.raises(CheckpointError, match="holds no run to resume"):
        frcnn.train(resume=True, out=out)
    settings = tiny_settings(**SETTINGS)
    first = frcnn.train(settings, out=out, resume="auto", overrides=["train.steps=1"])
    assert first.steps_done == 1
    with pytest.raises(ConfigError, match="already holds a run"):
        frcnn.train(settings, out=out)
    with pytest.raises(ConfigError, match="train.lr: 0.002 in the run, 1.0 now"):
        frcnn.train(settings, out=out, resume=True, overrides=["train.lr=1"])
    longer = frcnn.train(resume=True, out=out, overrides=["train.steps=2"])
    assert (longer.step, longer.steps_done) == (2, 1)
    assert "resume at step 1 of 2; its length has changed" in capsys.readouterr().out
    finished = frcnn.train(resume="auto", out=out)
    assert (finished.step, finished.steps_done) == (2, 0) and finished.report == longer.report


def test_initial_weights_come_from_another_run(result, tmp_path):
    settings = tiny_settings(**SETTINGS | {"lr": 1e-30})
    again = frcnn.train(settings, out=tmp_path / "run", init_from=result.folder)
    old, new = (load_checkpoint(each.folder / "checkpoints" / "best.pt")["model"] for each in (result, again))
    torch.testing.assert_close(new["rpn.convs.0.weight"], old["rpn.convs.0.weight"])


def test_missing_arguments_are_named(tmp_path):
    with pytest.raises(ConfigError, match="out is missing"):
        frcnn.train(tiny_settings())
    with pytest.raises(ConfigError, match="config is missing"):
        frcnn.train(out=tmp_path)
    with pytest.raises(ConfigError, match="config: train.lrr: unknown key"):
        frcnn.train({"train": {"lrr": 1}}, out=tmp_path / "run")
    with pytest.raises(CheckpointError, match="no such run folder or checkpoint"):
        frcnn.evaluate(tmp_path / "none")
    assert list(tmp_path.iterdir()) == []


def test_full_memory_is_a_training_error(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise MemoryError

    monkeypatch.setattr(runs, "train_experiment", fail)
    with pytest.raises(TrainingError, match=r"out of memory on cpu with 2 image\(s\) at a time"):
        frcnn.train(tiny_settings(**SETTINGS), out=tmp_path / "run", check_data=False)


def test_the_names_are_listed_and_imported_on_first_use():
    code = (
        "import sys, frcnn; assert 'torch' not in sys.modules; assert {'train', 'evaluate', 'load'} <= set(dir(frcnn))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert all(getattr(frcnn, name) is not None for name in frcnn.__all__)
    with pytest.raises(AttributeError, match="no attribute 'frobnicate'"):
        frcnn.frobnicate  # noqa: B018


def test_a_run_of_the_api_is_one_of_the_command(result):
    """config.yaml and env.json of a run from a dict are the same as for any run."""
    config = yaml.safe_load((result.folder / "config.yaml").read_text())
    assert parse_config(config, source="test") == tiny_config(**SETTINGS)
    assert json.loads((result.folder / "env.json").read_text())["format"] == 1


def test_resume_and_overwrite_cannot_be_combined(tmp_path):
    with pytest.raises(ConfigError, match="resume continues a run and overwrite deletes it"):
        frcnn.train(out=tmp_path / "run", resume=True, overwrite=True)


def test_overrides_are_a_list(tmp_path):
    with pytest.raises(ConfigError, match=r"overrides: expected a list .* found the string 'train.lr=1'"):
        frcnn.train("configs/demo.yaml", overrides="train.lr=1", out=tmp_path / "run")
