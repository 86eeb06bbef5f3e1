"""On a GPU the step creates no tensors from Python numbers, because copying them would make the host wait."""

import traceback
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from frcnn.ops.boxes import constant
from frcnn.structures import Batch, GroundTruth
from tests.model.detectors import ALL, random_batch, small_detector

PACKAGE = Path(__file__).resolve().parents[2] / "frcnn"


class Transfers(TorchDispatchMode):
    """Records the lines of the package that copy a tensor from one device to another."""

    def __init__(self) -> None:
        super().__init__()
        self.lines = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, torch.Tensor)]
        if len({tensor.device.type for tensor in tensors}) > 1:
            own = [frame for frame in traceback.extract_stack() if Path(frame.filename).is_relative_to(PACKAGE)]
            self.lines |= {f"{Path(frame.filename).name}:{frame.lineno} {frame.line}" for frame in own[-1:]}
        return result


def on_gpu(tensor):
    """A tensor with this shape and without data, on a GPU that need not exist; under FakeTensorMode."""
    return torch.empty(tensor.shape, dtype=tensor.dtype, device="cuda")


def move(detector):
    """Like `detector.to`, which cannot replace real tensors with fake ones."""
    for module in detector.modules():
        for name, parameter in module.named_parameters(recurse=False):
            module._parameters[name] = torch.nn.Parameter(on_gpu(parameter), requires_grad=parameter.requires_grad)
        for name, buffer in module.named_buffers(recurse=False):
            module._buffers[name] = on_gpu(buffer)


KINDS = ALL | {"whole pixels": ALL["roi_pool"] | {"plus_one": True}}


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_copied_to_the_device(kind):
    detector, batch = small_detector(KINDS[kind]), random_batch()
    with FakeTensorMode():
        move(detector)
        batch = Batch(*map(on_gpu, batch[:-1]), GroundTruth(*map(on_gpu, batch.ground_truth)))
        with Transfers() as transfers:
            losses = detector.forward_train(batch)
            detections = detector.eval().forward_detect(batch.images, batch.image_sizes, batch.original_sizes)
    assert losses["roi_box"].device.type == detections.boxes.device.type == "cuda"
    assert transfers.lines == set()


def test_the_check_sees_a_copy(monkeypatch):
    monkeypatch.setitem(globals(), "PACKAGE", Path(__file__).parent)
    with FakeTensorMode():
        boxes = on_gpu(torch.zeros(2, 4))
        with Transfers() as transfers:
            constant((1, 2), like=boxes)
            torch.where(boxes > 0.5, boxes * 2, 0.0)
        assert not transfers.lines
        with Transfers() as transfers:
            boxes.new_tensor([1.0])
        assert len(transfers.lines) == 1
