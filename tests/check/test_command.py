"""The command `frcnn check-data`."""

import json

import pytest
from PIL import Image

from frcnn.cli.main import main
from tests.check.data_sets import clean_voc, write_config


@pytest.fixture
def voc(tmp_path):
    return clean_voc(tmp_path / "voc")


def run(tmp_path, voc, *arguments, **data):
    config = write_config(tmp_path / "config.yaml", voc.settings(**data))
    return main(["check-data", str(config), *arguments])


def test_valid_data_is_status_0(tmp_path, voc, capsys):
    assert run(tmp_path, voc) == 0
    out = capsys.readouterr().out
    assert "train  voc voc train: 12 images, 24 objects; 12 image files read" in out
    assert "no problems found" in out and "anchors on val" in out


def test_findings_are_printed_drawn_and_written(tmp_path, voc, capsys):
    voc.add("flat", [("cat", (5, 5, 5, 9)), ("cat", (100, 40, 150, 60))])
    voc.write_lists()
    places = ["--json", str(tmp_path / "found.json"), "--pictures", str(tmp_path / "pictures")]
    assert run(tmp_path, voc, *places, "--fix", str(tmp_path / "out")) == 1
    out = capsys.readouterr().out
    assert "ERROR    train: 1 box without area: often stray clicks; delete them [box-zero-area]" in out
    assert "1 error, 1 warning" in out and "2 changes, listed in" in out and "2 pictures in" in out
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["cases"] == {"error": 1, "warning": 1, "note": 0}
    assert found["findings"][0]["cases"][0]["image"] == "flat"
    assert found["splits"]["train"]["classes"]["cat"] == {"objects": 13, "images": 13}
    assert set(found["suggested_anchors"]) >= {"sizes", "ratios", "recall_50"}
    names = sorted(path.name for path in (tmp_path / "pictures").iterdir())
    assert names == ["error_box-zero-area_train_1_flat.jpg", "warning_box-over-border_train_1_flat.jpg"]
    for name in names:
        assert max(Image.open(tmp_path / "pictures" / name).size) >= 500
    assert (tmp_path / "out/Annotations/flat.xml").exists()


def test_findings_that_set_status_1(tmp_path, voc):
    voc.add("tiny", [("cat", (5, 5, 6, 40))])
    voc.write_lists()
    assert run(tmp_path, voc, "--images", "0") == 1
    assert run(tmp_path, voc, "--images", "0", "--fail-on", "error") == 0
    voc.lists["train"].remove("tiny")
    voc.add("empty", ())
    voc.write_lists()
    assert run(tmp_path, voc, "--images", "0") == 0
    assert run(tmp_path, voc, "--images", "0", "--fail-on", "note") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["data.train.split=gone"], "no such split"),
        (["data.frobnicate=1"], "frobnicate"),
        (["model.backbone.name=resnet51"], "did you mean resnet"),
        (["--fix", "."], "new or empty folder"),
    ],
)
def test_unusable_data_is_status_2(tmp_path, voc, capsys, arguments, message):
    assert run(tmp_path, voc, *arguments) == 2
    assert message in capsys.readouterr().err


def test_unusable_arguments_are_status_2(capsys):
    for arguments in ([], ["a.yaml", "--images", "-1"], ["a.yaml", "--fail-on", "never"]):
        with pytest.raises(SystemExit) as stopped:
            main(["check-data", *arguments])
        assert stopped.value.code == 2
