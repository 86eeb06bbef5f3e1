"""Reading the profile of a GPU, from constructed events."""

import pytest
from torch.autograd import DeviceType
from torch.autograd.profiler_util import FunctionEvent

from benchmarks.operators import STEP, read_events
from benchmarks.stages import PREFIX


def event(number, name, start, end, *, parent=None, kernels=(), device=DeviceType.CPU):
    made = FunctionEvent(number, name, 0, start, end, use_device="cuda", device_type=device)
    for kernel, duration in kernels:
        made.append_kernel(kernel, 0, duration)
    if parent is not None:
        parent.append_cpu_child(made)
        made.set_cpu_parent(parent)
    return made


def test_ranges_on_the_gpu_are_not_kernels():
    """The profiler reports a range as a separate GPU event, here before the CPU events, and among its own kernels."""
    on_gpu = [
        event(10 + number, name, 5, 95, device=DeviceType.CUDA)
        for number, name in enumerate((STEP, PREFIX + "backbone", "sgemm"))
    ]
    step = event(1, STEP, 0, 100, kernels=[(STEP, 90)])
    stage = event(2, PREFIX + "backbone", 0, 60, parent=step, kernels=[(PREFIX + "backbone", 50)])
    convolution = event(3, "aten::convolution", 10, 20, parent=stage, kernels=[("implicit_gemm", 30)])
    product = event(4, "aten::addmm", 70, 80, parent=step, kernels=[("sgemm", 20)])
    result = read_events([*on_gpu, step, stage, convolution, product], is_cuda=True)
    assert result["profiled_seconds"] == pytest.approx(100e-6)
    assert result["stages"] == {
        "backbone": {"forward": pytest.approx(30e-6), "backward": 0},
        "other": {"forward": pytest.approx(20e-6), "backward": 0},
    }
    assert result["idle"] == pytest.approx(0.5)
    assert result["shares"]["convolutions"] == pytest.approx(0.3) and result["shares"]["products"] == pytest.approx(0.2)
