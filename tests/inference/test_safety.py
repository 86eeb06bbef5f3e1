"""Checkpoints whose config describes a larger model than their weights."""

import pytest

import frcnn
from frcnn.config import dump_config
from frcnn.errors import CheckpointError
from frcnn.files.checkpoint import save_checkpoint
from frcnn.model.build_detector import build_detector
from tests.training.experiments import tiny_config


@pytest.mark.parametrize("channels", [10**7, 10**13, 2**62])
def test_a_model_far_larger_than_its_file_is_not_built(tmp_path, channels):
    config = tiny_config()
    model = build_detector(
        config.model, num_classes=1, mean=config.data.mean, std=config.data.std, channels="rgb", pretrained=False
    )
    settings = dump_config(config)
    settings["model"]["roi"]["head"]["channels"] = channels
    checkpoint = {"format": 1, "model": model.state_dict(), "config": settings, "step": 1}
    save_checkpoint(tmp_path / "last.pt", checkpoint | {"class_names": ["cat"], "category_ids": [1]})
    with pytest.raises(
        CheckpointError, match=r"last\.pt: (its weights do not fit the model|the model .* cannot be built)"
    ):
        frcnn.load(tmp_path / "last.pt", device="cpu")
