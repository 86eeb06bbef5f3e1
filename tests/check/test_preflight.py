"""The look at the data before a training: what it warns of, and that it changes nothing."""

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


def test_a_whole_set_is_one_line(tmp_path):
    (line,) = lines_for(clean_voc(tmp_path / "voc").settings())
    assert line.startswith("check  24 objects in 12 images; anchors reach IoU 0.5 for ")
    assert "12 of 12 images tried can be read" in line


def test_what_would_ruin_a_training_is_warned_of(tmp_path):
    voc = clean_voc(tmp_path / "voc")
    voc.lists["val"].append("train_0")
    (voc.root / "JPEGImages/val_0.png").write_bytes(b"no image")
    voc.write_lists()
    settings = voc.settings(classes=["cat", "dog", "bird", "N/A 7"])
    settings["model"]["anchors"]["sizes"] = [[4.0], [5.0], [500.0]]
    text = "\n".join(lines_for(settings))
    assert "warning: no object in the training set is of class bird; take it out" in text
    assert "warning: 1 of 5 validation images are in the training set too" in text
    assert "1 of 13 image files that were tried cannot be used, first: " in text and "val_0.png" in text
    assert "warning: the anchors fit badly: 100% of the boxes are below IoU 0.3 with every anchor" in text


def test_no_box_at_all(tmp_path):
    voc = clean_voc(tmp_path / "voc")
    for path in (voc.root / "Annotations").glob("train_*.xml"):
        path.write_text(path.read_text().replace("xmax>", "ymin>"))
    lines = lines_for(voc.settings(classes=["cat"], on_error="skip"))
    assert any("not one box in the training set can be used" in line for line in lines)


def test_random_states_stay_as_they_were():
    settings = shapes_settings()
    torch.manual_seed(3), np.random.seed(3), random.seed(3)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    lines_for(settings)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1] and random.getstate() == before[2]


def test_training_is_the_same_without_and_resuming_does_not_look(tmp_path, capsys):
    config = str(write_config(tmp_path / "c.yaml", shapes_settings()))
    assert train([config, "--out", str(tmp_path / "a")]) == 0
    assert "\ncheck  " in capsys.readouterr().out
    assert train([config, "--out", str(tmp_path / "b"), "--no-check"]) == 0
    assert "\ncheck  " not in capsys.readouterr().out
    weights = [torch.load(tmp_path / run / "checkpoints/last.pt", weights_only=True)["model"] for run in ("a", "b")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert train([config, "--out", str(tmp_path / "a"), "--resume"]) == 0
    assert "\ncheck  " not in capsys.readouterr().out
