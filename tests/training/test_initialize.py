import pytest
import torch
from torch import nn

from frcnn.errors import CheckpointError
from frcnn.training.init_from import initialize_from


def make_model(num_classes: int) -> nn.Module:
    return nn.ModuleDict({"body": nn.Linear(3, 4), "head": nn.Linear(4, num_classes)})


@pytest.mark.parametrize("wrap", [lambda weights: weights, lambda weights: {"model": weights, "step": 3}])
def test_a_head_with_another_number_of_classes_is_skipped(tmp_path, wrap):
    source, model = make_model(5), make_model(7)
    path = tmp_path / "old.pt"
    torch.save(wrap(source.state_dict() | {"extra": torch.zeros(1)}), path)
    head = model["head"].weight.detach().clone()
    report = initialize_from(model, path, class_names="abc")
    assert torch.equal(model["body"].weight, source["body"].weight)
    assert torch.equal(model["head"].weight, head)
    assert report.loaded == ["body.weight", "body.bias"]
    assert report.unused == ["extra"] and report.missing == []
    text = report.text(path)
    assert "2 tensors loaded" in text and "head.weight: (5, 4) in the file, (7, 4) here" in text


@pytest.mark.parametrize("names, num_loaded", [(["a", "b"], 4), (["a", "c"], 2), (["b", "a"], 2)])
def test_a_head_with_other_class_names_is_skipped(tmp_path, names, num_loaded):
    def detector():
        return nn.ModuleDict({"body": nn.Linear(3, 4), "roi_head": nn.ModuleDict({"predictor": nn.Linear(4, 3)})})

    torch.save({"model": detector().state_dict(), "class_names": names}, tmp_path / "old.pt")
    report = initialize_from(detector(), tmp_path / "old.pt", class_names=["a", "b"])
    assert len(report.loaded) == num_loaded
    assert len(report.other_classes) == 4 - num_loaded


def test_the_prefix_of_ddp_is_removed(tmp_path):
    source, model = make_model(5), make_model(5)
    torch.save({f"module.{name}": value for name, value in source.state_dict().items()}, tmp_path / "ddp.pt")
    report = initialize_from(model, tmp_path / "ddp.pt", class_names="abc")
    assert len(report.loaded) == 4
    assert torch.equal(model["head"].weight, source["head"].weight)


def test_files_that_cannot_be_used(tmp_path):
    model = make_model(2)
    with pytest.raises(CheckpointError, match="gone.pt: no such file to initialize from"):
        initialize_from(model, tmp_path / "gone.pt", class_names="abc")
    (tmp_path / "broken.pt").write_bytes(b"PK not a checkpoint")
    with pytest.raises(CheckpointError, match="broken.pt: cannot initialize from this file"):
        initialize_from(model, tmp_path / "broken.pt", class_names="abc")
    torch.save({"step": 3}, tmp_path / "empty.pt")
    with pytest.raises(CheckpointError, match="empty.pt: holds no weights"):
        initialize_from(model, tmp_path / "empty.pt", class_names="abc")
    torch.save({"other": torch.zeros(2, 2)}, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match="other.pt: none of its 1 tensors fits"):
        initialize_from(model, tmp_path / "other.pt", class_names="abc")
