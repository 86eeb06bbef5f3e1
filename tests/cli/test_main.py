"""The console program: dispatch, version, schema, and help without importing torch."""

import json
import subprocess
import sys
from importlib import metadata

import pytest

import frcnn
from frcnn.cli import main as program
from frcnn.config import json_schema, markdown_reference


def test_version(capsys):
    with pytest.raises(SystemExit) as stopped:
        program.main(["--version"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out == f"frcnn {frcnn.__version__}\n"


@pytest.mark.parametrize("arguments", [[], ["frobnicate"], ["--frobnicate"]])
def test_invalid_arguments_have_status_2(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        program.main(arguments)
    assert stopped.value.code == 2


def test_remaining_arguments_are_passed_to_the_command(monkeypatch):
    received = []
    module = type(sys)("frcnn.cli.train")
    module.main = lambda argv: received.append(argv) or 7
    monkeypatch.setitem(sys.modules, "frcnn.cli.train", module)
    assert program.main(["train", "a.yaml", "--help", "train.lr=1"]) == 7
    assert received == [["a.yaml", "--help", "train.lr=1"]]


def test_schema_to_standard_output_and_to_a_file(tmp_path, capsys):
    assert program.main(["schema"]) == 0
    assert json.loads(capsys.readouterr().out) == json_schema()
    assert program.main(["schema", "--out", str(tmp_path / "schema.json")]) == 0
    assert json.loads((tmp_path / "schema.json").read_text()) == json_schema()
    assert program.main(["schema", "--markdown"]) == 0
    assert capsys.readouterr().out == markdown_reference()


def test_schema_that_cannot_be_written_is_status_2(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        program.main(["schema", "--out", str(tmp_path)])
    assert stopped.value.code == 2
    assert f"--out: cannot write {tmp_path}: " in capsys.readouterr().err


def test_help_does_not_import_torch():
    code = "import sys; from frcnn.cli import main\ntry: main.main(['--help'])\nexcept SystemExit: pass\n"
    code += "assert 'torch' not in sys.modules and 'yaml' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_version_equals_the_installed_package():
    assert frcnn.__version__ == metadata.version("frcnn")
