import json

import yaml

from frcnn.cli.analyze import main
from tests.benchmarks.sides import settings


def test_table_and_json(tmp_path, capsys):
    config, file = tmp_path / "small.yaml", tmp_path / "small.json"
    config.write_text(yaml.safe_dump(settings()))
    assert main([str(config), "--size", "96x120", "--batch", "2", "--json", str(file)]) == 0
    text = capsys.readouterr().out
    assert "2 image(s) on a canvas of 96x128" in text and "rpn head" in text and "5 classes" in text
    result = json.loads(file.read_text())
    assert result["total"]["train_forward"] == sum(row["train_forward"] for row in result["parts"].values()) > 0


def test_unusable_config(tmp_path, capsys):
    assert main([str(tmp_path / "none.yaml")]) == 2
    assert "no such file" in capsys.readouterr().err
