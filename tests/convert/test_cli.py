import json

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.models.detection import fasterrcnn_mobilenet_v3_large_fpn

from frcnn.cli import main as program
from frcnn.cli.convert import main
from frcnn.files.checkpoint import load_checkpoint
from tests.inference.trained import save_small_checkpoint

SMALL = ["data.short_side=96", "data.long_side=128", "model.detect.score_threshold=0"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("theirs") / "theirs.pth"
    model = fasterrcnn_mobilenet_v3_large_fpn(weights=None, weights_backbone=None, num_classes=3)
    torch.save(model.state_dict(), path)
    return path


def test_convert_predict_and_back(weights, tmp_path, capsys, monkeypatch):
    (tmp_path / "names.txt").write_text("cat\ntraffic light\n\n")
    out = tmp_path / "ours.pt"
    arguments = ["convert", str(weights), "--classes", str(tmp_path / "names.txt"), "--out", str(out), *SMALL]
    assert program.main(arguments) == 0
    printed = capsys.readouterr().out
    assert "torchvision, 2 classes; converted as torchvision_mobilenet_v3_large_fpn" in printed
    rows = {line.split()[0]: line.split()[1:] for line in printed.splitlines() if line.split()}
    assert rows["body"][0] == "308" and rows["predictor"] == ["4", f"{1024 * (3 + 8) + 3 + 8:,}"]
    assert "the 4 background rows are removed" in printed and f"written to {out}" in printed
    assert load_checkpoint(out)["class_names"] == ["cat", "traffic light"]

    image = tmp_path / "noise.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)).save(image)
    arguments = ["predict", str(out), str(image), "--out", str(tmp_path / "found"), "--score-threshold", "0"]
    assert program.main([*arguments, "--device", "cpu"]) == 0
    found = json.loads((tmp_path / "found" / "predictions.json").read_text())[0]["detections"]
    assert {detection["class"] for detection in found} <= {"cat", "traffic light"} and found

    monkeypatch.chdir(tmp_path)
    assert main([str(out), "--to", "torchvision"]) == 0
    assert "fasterrcnn_mobilenet_v3_large_fpn(weights=None" in capsys.readouterr().out
    theirs, back = torch.load(weights), torch.load(tmp_path / "ours_torchvision.pth")
    assert list(back) == list(theirs) and all(torch.equal(back[name], theirs[name]) for name in theirs)


def test_errors_write_no_file(weights, tmp_path, capsys):
    out = tmp_path / "out.pt"
    (tmp_path / "text.pth").write_text("<html>not found</html>")
    for arguments, message in [
        ([str(weights), "--classes", "a,b,c"], "theirs.pth: 3 class names for a file with 2"),
        ([str(weights)], "has 2 classes but no class names"),
        ([str(weights), "--classes", "a,b", "--like", "resnet"], "no base config resnet"),
        ([str(weights), "--classes", "a,b", "model.backbone.nam=x"], "did you mean"),
        ([str(tmp_path / "none.pth")], "none.pth: no such weight file"),
        ([str(tmp_path / "text.pth")], "text.pth: cannot be read as weights"),
    ]:
        assert main([*arguments, "--out", str(out)]) == 2
        error = capsys.readouterr().err
        assert message in error and error.startswith("error: ") and "Traceback" not in error
    assert not out.exists()
    assert main([str(weights), "--classes", "a,b", "--out", str(weights)]) == 2
    assert "this would overwrite the input file" in capsys.readouterr().err


def test_export_takes_no_other_arguments(tmp_path, capsys):
    for extra in (["--like", "x"], ["--classes", "a"], ["data.short_side=5"]):
        with pytest.raises(SystemExit) as stop:
            main([str(tmp_path), "--to", "torchvision", *extra])
        assert stop.value.code == 2
    capsys.readouterr()
    assert main([str(tmp_path), "--to", "torchvision"]) == 2
    assert "no checkpoint in this folder" in capsys.readouterr().err


def test_a_run_that_torchvision_does_not_support(tmp_path, capsys):
    run = save_small_checkpoint(tmp_path / "run" / "checkpoints" / "best.pt").parent.parent
    changed = load_checkpoint(run / "checkpoints" / "best.pt")
    changed["config"]["model"]["backbone"]["neck_norm"] = "group"
    torch.save(changed, run / "checkpoints" / "best.pt")
    assert main([str(run), "--to", "torchvision", "--out", str(tmp_path / "x.pth")]) == 2
    assert "neck_norm is group, not none or batch" in capsys.readouterr().err
    assert not (tmp_path / "x.pth").exists()
