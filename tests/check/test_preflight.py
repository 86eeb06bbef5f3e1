"""The quick check at the start of training: its warnings, and that it does not affect the run."""

import random

import numpy as np
import torch

from frcnn.check.build_checks import preflight_lines
from frcnn.cli.train import main as train
from frcnn.config import parse_config
from frcnn.data.build_data import build_datasets
from tests.check.data_sets import clean_voc, shapes_settings, write_config

STRIDES = (8, 16, 32)


def lines_for(settings):
    config = parse_config(settings, source="test")
    return preflight_lines(config, *build_datasets(config.data), STRIDES)


def test_valid_data_gives_one_line(tmp_path):
    (line,) = lines_for(clean_voc(tmp_path / "voc").settings())
    assert line.startswith("check  24 objects in 12 images; ") and "have an anchor with IoU >= 0.5" in line
    assert "12 of 12 sampled images can be read" in line


def test_warnings(tmp_path):
    voc = clean_voc(tmp_path / "voc")
    voc.lists["val"].append("train_0")
    (voc.root / "JPEGImages/val_0.png").write_bytes(b"no image")
    voc.write_lists()
    settings = voc.settings(classes=["cat", "dog", "bird", "N/A 7"])
    settings["model"]["anchors"]["sizes"] = [[4.0], [5.0], [500.0]]
    text = "\n".join(lines_for(settings))
    assert "warning: the training set has no object of class bird; annotate some, or list only" in text
    assert "warning: 1 of 5 validation images are also in the training set" in text
    assert "1 of 13 sampled image files cannot be used, for example " in text and "val_0.png" in text
    assert "warning: the anchors fit badly: 100% of the boxes have no anchor with IoU >= 0.3" in text


def test_no_usable_box(tmp_path):
    voc = clean_voc(tmp_path / "voc")
    for path in (voc.root / "Annotations").glob("train_*.xml"):
        path.write_text(path.read_text().replace("xmax>", "ymin>"))
    lines = lines_for(voc.settings(classes=["cat"], on_error="skip"))
    assert any("the training set has no usable box" in line for line in lines)


def test_random_states_do_not_change():
    settings = shapes_settings()
    torch.manual_seed(3), np.random.seed(3), random.seed(3)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    lines_for(settings)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1] and random.getstate() == before[2]


def test_training_is_the_same_without_the_check_and_resuming_skips_it(tmp_path, capsys):
    config = str(write_config(tmp_path / "c.yaml", shapes_settings()))
    assert train([config, "--out", str(tmp_path / "a")]) == 0
    assert "\ncheck  " in capsys.readouterr().out
    assert train([config, "--out", str(tmp_path / "b"), "--no-check"]) == 0
    assert "\ncheck  " not in capsys.readouterr().out
    weights = [torch.load(tmp_path / run / "checkpoints/last.pt", weights_only=True)["model"] for run in ("a", "b")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert train([config, "--out", str(tmp_path / "a"), "--resume"]) == 0
    assert "\ncheck  " not in capsys.readouterr().out
