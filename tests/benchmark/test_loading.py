import pytest
import torch

from frcnn.benchmark.build_loading import compare_config_loading
from frcnn.benchmark.loading import one_thread, read_by_pil, write_drawn
from frcnn.benchmark.report import format_loading
from frcnn.config import parse_config
from frcnn.data.images import read_image
from tests.benchmark.sides import settings


def test_figures_of_drawn_files(tmp_path):
    config = parse_config(settings(), source="test")
    result = compare_config_loading(config, is_drawn=False, folder=tmp_path, images=3, rounds=2, workers=None)
    assert list(result["sides"]) == ["ours", "PIL, uint8", "ours, normalised", "references"]
    assert all(side["images_per_second"] > 0 for side in result["sides"].values())
    assert "drawn shapes of 480x640" in result["input"]["data"]
    assert "to resized uint8" in format_loading(result)


def test_a_data_set_that_is_not_there_is_drawn(tmp_path):
    raw = settings()
    raw["data"]["train"] = {"format": "voc", "root": str(tmp_path / "none")}
    config = parse_config(raw, source="test")
    result = compare_config_loading(config, is_drawn=False, folder=tmp_path, images=2, rounds=1, workers=None)
    assert "data.train cannot be read" in result["input"]["data"]


@pytest.mark.slow
def test_whole_loaders(tmp_path):
    config = parse_config(settings(), source="test")
    result = compare_config_loading(config, is_drawn=True, folder=tmp_path, images=8, rounds=1, workers=2)
    assert all(speed > 0 for speed in result["loaders"]["images_per_second"].values())
    assert "whole loaders with 2 processes" in format_loading(result)


def test_both_read_the_same_pixels(tmp_path):
    pictures, _ = write_drawn(tmp_path, images=1)
    path = pictures / "0.jpg"
    ours, theirs = read_image(path), read_by_pil(path, is_flipped=False)
    assert (ours.int() - theirs.int()).abs().float().mean() < 1
    assert torch.equal(read_by_pil(path, is_flipped=True), theirs.flip(-1))


def test_one_thread_is_put_back():
    before = torch.get_num_threads()
    with one_thread():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before
