import json

import pytest
import yaml
from PIL import Image

from benchmarks.main import main
from tests.benchmarks.sides import FPN, settings


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(settings()))
    return str(path)


SMALL = ["--size", "96x120", "--rounds", "1", "--warmup", "1", "--device", "cpu"]


def test_a_comparison_as_text_and_json(config, tmp_path, capsys):
    file = tmp_path / "out" / "detect.json"
    assert main(["detect", config, "model.detect.max_detections=30", *SMALL, "--json", str(file)]) == 0
    text = capsys.readouterr().out
    assert "x as fast" in text and "drawn shapes" not in text and "the first of shapes" in text
    result = json.loads(file.read_text())
    assert result["ratio"]["median"] > 0
    assert result["config"] == config and result["overrides"] == ["model.detect.max_detections=30"]
    assert max(result["agreement"]["figures"]["detections"]) <= 30


def test_a_base_config_without_data(tmp_path, capsys):
    path = tmp_path / "base.yaml"
    path.write_text(yaml.safe_dump({"model": FPN}))
    assert main(["detect", str(path), *SMALL, "--against", "none"]) == 0
    text = capsys.readouterr().out
    assert "90 classes" in text and "drawn shapes" in text and "no peer: not requested" in text


def test_a_sweep_with_a_plot(config, tmp_path, capsys):
    plot = tmp_path / "sweep.png"
    arguments = ["--sweep", "classes", "--values", "2,5", "--plot", str(plot), "--against", "none"]
    assert main(["detect", config, *SMALL, *arguments]) == 0
    assert "classes     2" in capsys.readouterr().out
    assert Image.open(plot).format == "PNG"


def test_evaluation(capsys):
    assert main(["eval", "--images", "10", "--classes", "2", "--detections", "100", "--rounds", "1"]) == 0
    assert "AP50" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["train"],
        ["eval", "some.yaml"],
        ["train", "model.detect.max_detections=30"],
        ["frobnicate", "some.yaml"],
        ["train", "some.yaml", "--size", "100"],
        ["train", "some.yaml", "--size", "0x10"],
        ["train", "some.yaml", "--batch", "0"],
        ["train", "some.yaml", "--plot", "a.png"],
        ["train", "some.yaml", "--sweep", "size", "--plot", "a.gif"],
        ["data", "some.yaml", "--sweep", "size"],
        ["data", "some.yaml", "--classes", "3"],
        ["eval", "--batch", "2"],
        ["detect", "some.yaml", "--detections", "100"],
        ["train", "some.yaml", "--images", "10"],
        ["train", "some.yaml", "--sweep", "batch", "--compile"],
        ["train", "some.yaml", "--sweep", "batch", "--graphs"],
        ["train", "some.yaml", "--sweep", "batch", "--batch", "2"],
    ],
)
def test_unusable_arguments(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert "Traceback" not in capsys.readouterr().err


def test_user_errors_are_one_message(config, tmp_path, capsys):
    for arguments, message in [
        (["detect", str(tmp_path / "none.yaml")], "no such file"),
        (["detect", config, "model.rpn.pre_nms=3"], "pre_nms"),
        (["detect", config, "--device", "gpu"], "'gpu' is not a device"),
        (["detect", config, "--device", "meta"], "PyTorch finds no meta on this machine"),
    ]:
        assert main([*arguments, "--rounds", "1"]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ") and message in error and "Traceback" not in error
