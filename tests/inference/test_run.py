from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from frcnn.inference.detect_dataset import detect_dataset, evaluation_mode
from frcnn.structures import Detections
from tests.model.detectors import random_batch, small_detector

DATASET = SimpleNamespace(name="test")


class FixedDetector(nn.Module):
    """Returns the same two boxes for each image, and a third slot that is empty."""

    def __init__(self):
        super().__init__()
        self.frozen = nn.BatchNorm2d(1).eval()
        self.learning = nn.BatchNorm2d(1)
        self.autocast_types = []

    def forward_detect(self, images, image_sizes, original_sizes):
        assert not self.training and not torch.is_grad_enabled()
        is_on = torch.is_autocast_enabled(images.device.type)
        self.autocast_types.append(torch.get_autocast_dtype(images.device.type) if is_on else torch.float32)
        size = len(images)
        return Detections(
            torch.tensor([[10.0, 20, 30, 40], [100, 100, 1000, 1000], [0, 0, 1, 1]]).repeat(size, 1, 1),
            torch.tensor([0.9, 0.5, 0.0]).repeat(size, 1),
            torch.tensor([2, 1, 0]).repeat(size, 1),
            torch.tensor([True, True, False]).repeat(size, 1),
        )


def test_boxes_are_in_original_pixels_and_empty_slots_are_dropped():
    """The originals are twice as large: (256, 320) and (192, 256)."""
    found = detect_dataset(FixedDetector(), [random_batch()], DATASET, device="cpu")
    assert sorted(found) == [0, 1]
    assert np.array_equal(found[0].boxes, np.float32([[20, 40, 60, 80], [200, 200, 320, 256]]))
    assert np.array_equal(found[1].boxes, np.float32([[20, 40, 60, 80], [200, 192, 256, 192]]))
    assert found[0].scores.tolist() == pytest.approx([0.9, 0.5]) and found[0].labels.tolist() == [2, 1]
    assert [each.dtype for each in found[0]] == [np.float32, np.float32, np.int64]


def test_skipped_batches_and_filled_in_images_are_missing():
    batch = random_batch()._replace(index=torch.tensor([5, -1]))
    assert list(detect_dataset(FixedDetector(), [None, batch, None], DATASET, device="cpu")) == [5]
    assert detect_dataset(FixedDetector(), [], DATASET, device="cpu") == {}


def modes(model):
    return [module.training for module in model.modules()]


def test_the_mode_of_each_module_is_restored():
    model = FixedDetector()
    before = modes(model)
    assert len(set(before)) == 2
    detect_dataset(model, [random_batch()], DATASET, device="cpu")
    assert modes(model) == before


def test_modes_are_restored_after_an_error():
    model = FixedDetector()
    before = modes(model)

    def broken_loader():
        yield random_batch()
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="gone"):
        detect_dataset(model, broken_loader(), DATASET, device="cpu")
    assert modes(model) == before
    with pytest.raises(KeyboardInterrupt), evaluation_mode(model):
        raise KeyboardInterrupt
    assert modes(model) == before


def test_precision():
    model = FixedDetector()
    for precision in ("float32", "bf16", "fp16"):
        detect_dataset(model, [random_batch()], DATASET, device="cpu", precision=precision)
    assert model.autocast_types == [torch.float32, torch.bfloat16, torch.float32]


def test_the_real_detector_in_both_precisions():
    settings = small_detector()
    batch = random_batch()
    for precision in ("float32", "bf16"):
        found = detect_dataset(settings, [batch], DATASET, device="cpu", precision=precision)
        for index in (0, 1):
            height, width = batch.original_sizes[index].tolist()
            assert (found[index].boxes >= 0).all()
            assert (found[index].boxes <= [width, height, width, height]).all()
            assert (np.diff(found[index].scores) <= 0).all()


def test_nothing_is_printed_without_a_terminal(capsys):
    detect_dataset(FixedDetector(), [random_batch()], DATASET, device="cpu")
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""
