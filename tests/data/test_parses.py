"""Annotation files are parsed once, whatever is made of them."""

from collections import Counter

import pytest

from frcnn.check.build_checks import check_config
from frcnn.config import parse_config
from frcnn.data import build_dataset
from frcnn.data.formats import coco, voc
from frcnn.training.build_experiment import build_experiment
from tests.check.data_sets import CocoFiles, clean_voc
from tests.training.experiments import WORLD


@pytest.fixture
def parses(monkeypatch):
    """How often each annotation file was parsed, by its name."""
    counts = Counter()

    def counted(parse):
        def count_and_parse(path, *args, **kwargs):
            counts[path.name] += 1
            return parse(path, *args, **kwargs)

        return count_and_parse

    monkeypatch.setattr(coco, "read_json", counted(coco.read_json))
    monkeypatch.setattr(voc, "read_xml", counted(voc.read_xml))
    return counts


def test_coco_files_are_parsed_once(tmp_path, parses):
    config = parse_config(CocoFiles(tmp_path / "coco").settings(), source="test")
    experiment = build_experiment(config, WORLD)
    assert parses == {"train.json": 1, "val.json": 1}
    assert experiment.train_set.class_names == experiment.val_set.class_names == ("cat", "dog")
    parses.clear()
    build_dataset(config.data, "val")
    assert parses == {"train.json": 1, "val.json": 1}
    parses.clear()
    check_config(config, most_images=0)
    assert parses == {"train.json": 1, "val.json": 1}


def test_a_file_of_both_splits_is_parsed_once(tmp_path, parses):
    settings = CocoFiles(tmp_path / "coco").settings()
    settings["data"]["val"] = settings["data"]["train"]
    config = parse_config(settings, source="test")
    experiment = build_experiment(config, WORLD)
    assert parses == {"train.json": 1}
    assert len(experiment.train_set) == len(experiment.val_set)
    parses.clear()
    check_config(config, most_images=0)
    assert parses == {"train.json": 1}


def test_voc_files_are_parsed_once(tmp_path, parses):
    config = parse_config(clean_voc(tmp_path / "voc").settings(), source="test")
    build_experiment(config, WORLD)
    assert len(parses) == 16 and set(parses.values()) == {1}
