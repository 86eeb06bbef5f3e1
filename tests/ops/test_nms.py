"""NMS equals torchvision's CPU kernel on every device, including ties and rounding at the threshold."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import torchvision
from torch._subclasses.fake_tensor import FakeTensorMode

from frcnn.ops import nms as module
from frcnn.ops.nms import float32_below, nms
from tests.ops.nms_cases import check

ROOT = Path(__file__).resolve().parents[2]
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="Triton comes with PyTorch for CUDA on Linux")


def by_operator(boxes, scores, groups, *, threshold, k, k_per_group):
    return nms(boxes, scores, groups=groups, iou_threshold=threshold, k=k, k_per_group=k_per_group)


@pytest.mark.parametrize("block", [8, 256])
def test_equals_torchvision_with_any_block_size(monkeypatch, block):
    monkeypatch.setattr(module, "BLOCK", block)
    check(by_operator)


def test_float64_equals_torchvision():
    check(by_operator, torch.float64)


@pytest.mark.parametrize("threshold", [0.1, 0.3, 0.5, 0.7, 1 / 3, 0.0, 1.0])
def test_float32_below_does_not_change_comparisons(threshold):
    below = float32_below(threshold)
    near = torch.tensor([threshold], dtype=torch.float32)
    for number in (near, torch.nextafter(near, near + 1), torch.nextafter(near, near - 1)):
        assert (number.item() > threshold) == bool(number > below)


@pytest.mark.parametrize("threshold", [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9])
def test_an_iou_equal_to_the_threshold_is_treated_as_in_torchvision(threshold):
    boxes = torch.tensor([[0.0, 0, 10, 1], [0, 0, round(threshold * 10), 1]])
    scores = torch.tensor([2.0, 1.0])
    index, valid = nms(boxes[None], scores[None], iou_threshold=threshold, k=2)
    assert index[valid].tolist() == torchvision.ops.nms(boxes, scores, threshold).tolist()


def test_nan_is_an_empty_slot():
    boxes = torch.arange(6)[:, None] * 20 + torch.tensor([0.0, 0, 10, 10])
    scores = torch.tensor([0.9, torch.nan, 0.5, 0.4, -torch.inf, 0.3])
    index, valid = nms(boxes[None], scores[None], iou_threshold=0.5, k=6)
    assert index[valid].tolist() == [0, 2, 3, 5]


def test_groups_are_shifted_apart_on_a_gpu_without_triton():
    """The single call of torchvision's NMS for all groups, on the CPU."""

    def batched(boxes, scores, groups, *, threshold, k, k_per_group):
        index, valid = torch.zeros((len(boxes), k), dtype=torch.int64), torch.zeros((len(boxes), k), dtype=torch.bool)
        for image in range(len(boxes)):
            kept = module._first_kept_cuda(
                boxes[image], scores[image], groups[image], iou_threshold=threshold, k=k, k_per_group=k_per_group
            )
            index[image, : len(kept)], valid[image, : len(kept)] = kept, True
        return index, valid

    check(batched, torch.float64)


@needs_triton
def test_the_triton_kernel_in_its_interpreter_equals_torchvision():
    """In a separate process, because Triton reads the variable on import."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.ops.nms_cases"],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.stdout == "equal\n", done.stderr


@needs_triton
@pytest.mark.slow
def test_the_triton_kernel_compiles_to_exact_arithmetic():
    """Compile for a GPU that need not exist: IEEE division, and no fused multiply-add."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from frcnn.ops import nms_triton

    types = dict.fromkeys(("boxes", "kept_boxes"), "*fp32") | dict.fromkeys(("order", "index"), "*i64")
    types |= dict.fromkeys(("groups", "num_real", "kept_groups", "num_kept"), "*i32")
    types |= dict.fromkeys(("count", "k", "k_per_group"), "i32") | {"iou_threshold": "fp32", "BLOCK": "constexpr"}
    signature = {name: types[name] for name in nms_triton._first_kept.arg_names}
    source = ASTSource(nms_triton._first_kept, signature=signature, constexprs={"BLOCK": nms_triton.BLOCK})
    options = {"num_warps": nms_triton.WARPS, "num_stages": 1, "enable_fp_fusion": False}
    code = triton.compile(source, target=GPUTarget("cuda", 80, 32), options=options).asm["ptx"]
    assert "div.rn.f32" in code and "div.full" not in code and "fma." not in code


class CurrentDevice:
    """Stands for CUDA's current device, which `torch.cuda.device` sets, on a machine without a GPU."""

    def __init__(self, monkeypatch):
        self.index = 0
        monkeypatch.setattr(torch.cuda, "_exchange_device", self.exchange)
        monkeypatch.setattr(torch.cuda, "_maybe_exchange_device", self.exchange)

    def exchange(self, index: int) -> int:
        """Set the device unless `index` is negative; return the previous one."""
        before = self.index
        self.index = index if index >= 0 else before
        return before


@needs_triton
def test_the_triton_kernel_is_launched_on_the_device_of_the_boxes(monkeypatch):
    """Triton launches on the current device, which need not be the one that holds the boxes."""
    from frcnn.ops import nms_triton

    current, launched_on = CurrentDevice(monkeypatch), []

    class Kernel:
        def __getitem__(self, grid):
            return lambda *arguments, **options: launched_on.append(current.index)

    monkeypatch.setattr(nms_triton, "_first_kept", Kernel())
    with FakeTensorMode():
        for device in ("cuda:0", "cuda:3"):
            boxes = torch.zeros(2, 5, 4, device=device)
            nms_triton.first_kept(boxes, boxes[..., 0], boxes[..., 0].long(), iou_threshold=0.5, k=3, k_per_group=3)
    assert (launched_on, current.index) == ([0, 3], 0)


@needs_triton
def test_triton_is_tried_out_on_each_device(monkeypatch):
    """One GPU of a machine may run the kernel and another may not."""
    from frcnn.ops import nms_triton

    tried = []

    def first_kept(boxes, *arguments, **numbers):
        tried.append(str(boxes.device))
        if boxes.device.index == 1:
            raise RuntimeError("too old a GPU")

    monkeypatch.setattr(nms_triton, "first_kept", first_kept)
    module._triton.cache_clear()
    try:
        with FakeTensorMode(), pytest.warns(UserWarning, match=r"cuda:1.*too old a GPU"):
            found = [module._triton(torch.device("cuda", index)) for index in (0, 1, 2, 0, 1)]
    finally:
        module._triton.cache_clear()
    assert tried == ["cuda:0", "cuda:1", "cuda:2"]
    assert found == [nms_triton, None, nms_triton, nms_triton, None]


@pytest.mark.gpu
@needs_gpu
def test_on_a_gpu_equals_torchvision_on_a_cpu():
    def on_gpu(boxes, scores, groups, **numbers):
        index, valid = by_operator(boxes.cuda(), scores.cuda(), groups.cuda(), **numbers)
        return index.cpu(), valid.cpu()

    check(on_gpu)


@pytest.mark.gpu
@needs_gpu
@needs_triton
def test_a_large_batch_on_a_gpu_equals_the_cpu_without_host_sync():
    torch.manual_seed(0)
    corner = torch.rand(16, 12000, 2) * torch.tensor([1000.0, 600.0])
    boxes = torch.cat([corner, corner + 16 + torch.rand(16, 12000, 2) * 200], dim=2)
    scores, groups = torch.randn(16, 12000), torch.randint(0, 5, (16, 12000))
    on_gpu = [tensor.cuda() for tensor in (boxes, scores, groups)]
    nms(on_gpu[0], on_gpu[1], groups=on_gpu[2], iou_threshold=0.7, k=2000)  # compiles
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = nms(on_gpu[0], on_gpu[1], groups=on_gpu[2], iou_threshold=0.7, k=2000)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    expected = nms(boxes, scores, groups=groups, iou_threshold=0.7, k=2000)
    assert all(torch.equal(mine.cpu(), other) for mine, other in zip(found, expected, strict=True))
