"""A compiled detector equals the detector. The number of its graphs is bounded, and each graph is reported."""

import pytest
import torch

from frcnn.errors import ConfigError
from frcnn.model.speed import compiled as module
from frcnn.model.speed.compiled import CompiledDetector, CompiledFunction, check_compiler, compiled_detector
from frcnn.structures import total_loss
from tests.model.detectors import ALL, random_batch, small_detector

CPU = torch.device("cpu")
CANVASES = [(96, 96), (96, 128), (128, 96), (160, 224), (192, 192), (256, 320)]
MORE_CANVASES = [(320, 96), (96, 416), (352, 352), (224, 128), (128, 160), (448, 192)]


def batches(canvases, buckets):
    for height, width in canvases:
        for slots in buckets:
            yield random_batch(sizes=((height, width), (height - 9, width - 5)), objects=(3, 1), slots=slots)


def compiled(detector, told, **settings):
    return CompiledDetector(detector, tell=told.append, setting="train.compile", backend="eager", **settings)


def gradients_of(model, detector, batch):
    detector.zero_grad()
    losses = model(batch)
    total_loss(losses).backward()
    losses = torch.stack([*losses.values()]).detach()
    return losses, {name: p.grad for name, p in detector.named_parameters() if p.grad is not None}


def test_one_graph_serves_all_canvases_and_is_reported():
    detector, told = small_detector(ALL["roi_pool"]).eval(), []
    model = compiled(detector, told)
    for batch in batches(CANVASES[:4], [8]):
        losses, expected = model(batch), detector.forward_train(batch)
        assert list(losses) == list(expected)
        assert all(torch.equal(losses[name], loss) for name, loss in expected.items())
    assert len(told) == 1
    assert told[0].startswith("compiled graph 1 for 2 images on canvases such as 96x96, 8 ground-truth slots: ")


@pytest.mark.heavy
def test_detection_has_a_graph_for_each_number_of_images():
    detector, told = small_detector(ALL["roi_pool"]).eval(), []
    model = compiled(detector, told)
    with torch.inference_mode():
        for batch in batches([(192, 256), (256, 320), (288, 192)], [8]):
            for count in (2, 1):
                arguments = (batch.images[:count], batch.image_sizes[:count], batch.original_sizes[:count])
                for mine, other in zip(
                    model.forward_detect(*arguments), detector.forward_detect(*arguments), strict=True
                ):
                    assert torch.equal(mine, other)
    assert [line.partition(" on ")[0] for line in told] == [
        "compiled graph 1 for 2 images",
        "compiled graph 2 for 1 image",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ALL)
def test_twelve_canvases_and_three_buckets_make_three_graphs(kind):
    few = {**ALL[kind]["rpn"], "samples_per_image": 16}  # the RPN is trained at its samples only, on every canvas
    detector, told = small_detector({**ALL[kind], "rpn": few}).eval(), []
    model = compiled(detector, told)
    for batch in batches(CANVASES + MORE_CANVASES, [8, 16, 32]):
        losses, expected = model(batch), detector.forward_train(batch)
        assert list(losses) == list(expected)
        assert all(torch.equal(losses[name], loss) for name, loss in expected.items())
    assert len(told) == 3


@pytest.mark.slow
@pytest.mark.parametrize("kind", ALL)
def test_inductor_gives_the_losses_and_gradients_of_the_detector(kind):
    """In float64, because rounding errors of float32 grow in the backward pass."""
    detector, told = small_detector(ALL[kind]).eval().double(), []
    model = CompiledDetector(detector, tell=told.append, setting="train.compile")
    for batch in batches(CANVASES[1:3], [8]):
        losses, gradients = gradients_of(model, detector, batch)
        expected_losses, expected = gradients_of(detector.forward_train, detector, batch)
        torch.testing.assert_close(losses, expected_losses, rtol=1e-10, atol=1e-10)
        assert gradients.keys() == expected.keys()
        for name, gradient in gradients.items():
            assert (gradient - expected[name]).norm() <= 1e-10 * expected[name].norm(), name
    assert len(told) == 1


def count_graphs(limit, monkeypatch):
    """Run a function that needs one graph per length of its argument; returns the reported lines."""
    monkeypatch.setattr(module, "MOST_GRAPHS", limit)
    torch.compiler.reset()
    told = []

    def double(numbers):
        return [number * 2 for number in numbers]

    function = torch.compile(double, fullgraph=True, dynamic=False, backend="eager")
    function = CompiledFunction(function, double, tell=told.append, setting="train.compile")
    for length in (1, 2, 3, 4, 2, 5):
        numbers = [torch.ones(1)] * length
        assert len(function(f"{length} numbers", numbers)) == length
    return told


def test_above_the_limit_it_runs_uncompiled_and_reports_it_once(monkeypatch):
    told = count_graphs(3, monkeypatch)
    assert len(told) == 4 and [line[:16] for line in told[:3]] == [f"compiled graph {n}" for n in (1, 2, 3)]
    assert told[3].startswith("train.compile: 3 graphs are compiled, which is the limit; batches of other")
    assert "4 numbers" in told[3]


def test_a_function_that_cannot_be_compiled_has_one_message():
    def break_graph(tensor):
        return tensor * tensor.sum().item().__hash__() if print(tensor) is None else tensor

    function = torch.compile(break_graph, fullgraph=True, backend="eager")
    function = CompiledFunction(function, break_graph, tell=print, setting="--compile")
    with pytest.raises(ConfigError, match="--compile: this model cannot be compiled here"):
        function("a tensor", torch.ones(2))


def test_without_a_compiler_there_is_a_message(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setattr(torch._inductor.config.cpp, "cxx", ("no-such-compiler",))
    from torch._inductor import cpp_builder

    if hasattr(cpp_builder.get_cpp_compiler, "cache_clear"):
        cpp_builder.get_cpp_compiler.cache_clear()
    if hasattr(cpp_builder.cpp_compiler_search, "cache_clear"):
        cpp_builder.cpp_compiler_search.cache_clear()
    with pytest.raises(ConfigError, match=r"train.compile: no C\+\+ compiler found"):
        check_compiler(True, CPU, setting="train.compile")


def test_cuda_graphs_need_cuda():
    with pytest.raises(ConfigError, match="reduce-overhead records CUDA graphs, but the device is cpu; use true"):
        check_compiler("reduce-overhead", CPU, setting="train.compile")


def test_the_detector_is_unchanged_without_compile():
    detector = small_detector()
    assert compiled_detector(detector, False, device=CPU, setting="--compile") is detector
