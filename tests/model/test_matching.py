"""Boxes are compared with ground truth in bounded memory, with few operators, and with equal results for all chunks."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.memory import cpu_peak
from frcnn.model import matching
from frcnn.model.matching import match_boxes
from frcnn.structures import GroundTruth


class Operators(TorchDispatchMode):
    """Counts operators, views included."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += 1
        return function(*args, **(kwargs or {}))


def boxes_and_ground_truth(*, boxes: int, slots: int) -> tuple[torch.Tensor, GroundTruth]:
    """Two images of boxes with whole corners, so that IoUs tie; some slots are empty, some ignore regions."""

    def random_boxes(count: int) -> torch.Tensor:
        corner = torch.randint(0, 40, (2, count, 2)) * 8
        return torch.cat([corner, corner + torch.randint(1, 10, (2, count, 2)) * 8], dim=2).float()

    valid = torch.rand(2, slots) < 0.8
    is_ignored = valid & (torch.rand(2, slots) < 0.2)
    labels = torch.where(valid, 1, 0)
    return random_boxes(boxes), GroundTruth(random_boxes(slots), labels, is_ignored, valid)


def count_operators(*, slots: int) -> int:
    boxes, ground_truth = boxes_and_ground_truth(boxes=1000, slots=slots)
    with Operators() as operators:
        match_boxes(boxes, ground_truth)
    return operators.count


def test_more_slots_take_no_more_operators_while_memory_allows():
    """There are 102 operators for both 8 and 64 slots. Chunks of 8 slots took 788 for 64 slots."""
    counts = {slots: count_operators(slots=slots) for slots in (8, 16, 32, 64)}
    assert counts[64] <= 110 and len(set(counts.values())) == 1, counts


@pytest.mark.parametrize("slots", [8, 9, 64])
def test_the_result_is_the_same_for_every_number_of_slots_at_once(monkeypatch, slots):
    boxes, ground_truth = boxes_and_ground_truth(boxes=3000, slots=slots)
    whole = match_boxes(boxes, ground_truth, iou_low_quality=0.1)
    assert all(field.any() for field in whole)
    sizes = set()
    for divisor in (2, 4, 8, 16, 1000):
        limit = 6000 * slots * matching.PAIR_BYTES // divisor
        monkeypatch.setattr(matching, "MATCH_BYTES", limit)
        sizes.add(matching.slots_at_once(6000, slots))
        assert all(map(torch.equal, match_boxes(boxes, ground_truth, iou_low_quality=0.1), whole))
    assert 1 in sizes and len(sizes) >= 3 and max(sizes) <= slots // 2


def test_the_memory_stays_within_its_limit(monkeypatch):
    """The result is also in memory, and each chunk creates a new version of it."""
    boxes, ground_truth = boxes_and_ground_truth(boxes=20000, slots=64)
    result = sum(field.nbytes for field in match_boxes(boxes, ground_truth))
    whole = 40000 * 64 * matching.PAIR_BYTES
    assert whole < cpu_peak(lambda: match_boxes(boxes, ground_truth)) < whole + 3 * result
    for chunk in (32, 8, 1):
        limit = 40000 * chunk * matching.PAIR_BYTES
        monkeypatch.setattr(matching, "MATCH_BYTES", limit)
        assert cpu_peak(lambda: match_boxes(boxes, ground_truth)) < limit + 3 * result
