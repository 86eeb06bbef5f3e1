"""A small detector that was never trained, as a checkpoint on disk."""

from pathlib import Path

from frcnn.config import dump_config, parse_config
from frcnn.data.formats.shapes import CLASS_NAMES
from frcnn.files.checkpoint import save_checkpoint
from tests.model.detectors import FPN, small_detector


def raw_config():
    """Shapes of 96 pixels; a threshold so low that an untrained detector finds something."""
    source = {"format": "shapes", "num_images": 3, "height": 96, "width": 96}
    return {
        "data": {"train": source, "val": source, "short_side": 96, "workers": 0},
        "model": {**FPN, "detect": {"score_threshold": 0.01, "max_detections": 10}},
        "train": {"steps": 1, "device": "cpu"},
    }


def save_small_checkpoint(path: Path, **changes) -> Path:
    model = small_detector(raw_config()["model"], num_classes=len(CLASS_NAMES))
    checkpoint = {
        "format": 1,
        "model": model.state_dict(),
        "config": dump_config(parse_config(raw_config(), source="test")),
        "class_names": list(CLASS_NAMES),
        "category_ids": list(range(1, len(CLASS_NAMES) + 1)),
        "step": 7,
    }
    save_checkpoint(path, {**checkpoint, **changes})
    return path
