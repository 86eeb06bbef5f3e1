import pytest
import torch
from PIL import Image

from benchmarks.build_loading import compare_config_loading
from benchmarks.comparison_text import format_loading
from benchmarks.loading import RATIOS, differences
from frcnn.config import parse_config
from tests.benchmarks.sides import settings


def test_figures_of_drawn_files(tmp_path):
    config = parse_config(settings(), source="test")
    result = compare_config_loading(config, is_drawn=False, folder=tmp_path, images=3, rounds=2)
    assert list(result["sides"]) == ["ours", "PIL", "ours, normalised", "references"]
    assert result["no_ratio"] == [] and all(result[name]["median"] > 0 for name in RATIOS)
    assert result["machine"]["threads"] == 1
    assert all(side["images_per_second"] > 0 for side in result["sides"].values())
    assert "drawn shapes of 480x640" in result["input"]["data"]
    assert "to resized uint8" in format_loading(result)


def test_images_are_drawn_if_the_dataset_is_missing(tmp_path):
    raw = settings()
    raw["data"]["train"] = {"format": "voc", "root": str(tmp_path / "none")}
    config = parse_config(raw, source="test")
    result = compare_config_loading(config, is_drawn=False, folder=tmp_path, images=2, rounds=1)
    assert "data.train cannot be read" in result["input"]["data"]


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (lambda row: torch.zeros(3, 4, 5, dtype=torch.uint8), "(3, 4, 6) by ours and (3, 4, 5) by PIL"),
        (lambda row: torch.full((3, 4, 6), 10 + 9 * row, dtype=torch.uint8), "image 1 are 9 levels of 255 apart"),
    ],
)
def test_different_pixels_are_reported(other, reason):
    differing = differences(lambda row: torch.full((3, 4, 6), 10, dtype=torch.uint8), other, rows=range(2))
    assert len(differing) == 1 and reason in differing[0]


def test_different_pixels_have_no_ratio(tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.loading.open_by_pil", lambda path: Image.new("RGB", (640, 480)))
    config = parse_config(settings(), source="test")
    result = compare_config_loading(config, is_drawn=True, folder=tmp_path, images=1, rounds=1)
    assert all(result[name] is None for name in RATIOS)
    assert "no ratio: the pixels of image 0" in format_loading(result)
