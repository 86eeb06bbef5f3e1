"""A detector whose training step and detection run as compiled graphs (`torch.compile`).

Each is one graph, without a break. Height and width of the canvas are symbols in it, so that all canvases share one;
another graph is compiled for each number of images in a batch and, in training, for each number of ground-truth slots
(8, 16, 32, ...) that occurs.
"""

import time
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch._dynamo.exc import FailOnRecompileLimitHit, TorchDynamoException
from torch._dynamo.utils import counters
from torch._inductor.cpp_builder import get_cpp_compiler
from torch._inductor.exc import InvalidCxxCompiler
from torch.utils._triton import has_triton
from tqdm import tqdm

from frcnn.errors import ConfigError
from frcnn.model.detector import FasterRCNN
from frcnn.structures import Batch, Detections, Losses

Compile = bool | Literal["reduce-overhead"]
"""Whether to compile; "reduce-overhead" also records CUDA graphs."""

MOST_GRAPHS = 16
"""Graphs of one function after which batches of a new shape are computed uncompiled."""


class CompiledDetector(nn.Module):
    """Stands for a detector where it is called; the weights are the detector's own, and so is what is saved.

    Args:
        detector: what to compile. Train, save and evaluate it as if this were not there.
        tell: takes a line for the log whenever a graph was compiled.
        setting: what the user asked for it by, for messages.
        use_cuda_graphs: record a CUDA graph of each canvas, which saves the time of launching kernels and costs memory.
        backend: `torch.compile`'s; tests take one that needs no compiler.
    """

    def __init__(
        self,
        detector: FasterRCNN,
        *,
        tell: Callable[[str], None],
        setting: str,
        use_cuda_graphs: bool = False,
        backend: str | Callable = "inductor",
    ) -> None:
        super().__init__()
        self.detector = detector
        self.use_cuda_graphs = use_cuda_graphs
        mode = "reduce-overhead" if use_cuda_graphs else None
        self._train, self._detect = (
            CompiledFunction(
                torch.compile(function, fullgraph=True, mode=mode, backend=backend),
                function,
                tell=tell,
                setting=setting,
            )
            for function in (detector.forward_train, detector.forward_detect)
        )

    def forward(self, batch: Batch) -> Losses:
        """`FasterRCNN.forward_train`."""
        slots = batch.ground_truth.valid.shape[1]
        with_free_canvas(batch.images, *batch[1:-1], *batch.ground_truth)
        losses = self._call(self._train, f"{describe(batch.images)}, {slots} ground-truth slots", batch)
        return Losses(*losses)

    def forward_detect(self, images: Tensor, image_sizes: Tensor, original_sizes: Tensor | None = None) -> Detections:
        """`FasterRCNN.forward_detect`."""
        with_free_canvas(images, image_sizes, *([] if original_sizes is None else [original_sizes]))
        return Detections(*self._call(self._detect, describe(images), images, image_sizes, original_sizes))

    def _call(self, function: "CompiledFunction", what: str, *arguments: Any) -> tuple[Tensor, ...]:
        if not self.use_cuda_graphs:
            return function(what, *arguments)
        # The next run of a CUDA graph writes over the results of this one.
        torch.compiler.cudagraph_mark_step_begin()
        return tuple(result.clone() for result in function(what, *arguments))


class CompiledFunction:
    """A function and its compiled form, and a line for the log whenever a graph is compiled.

    Args:
        compiled, function: the same, compiled as one graph and not.
        tell, setting: see `CompiledDetector`.
    """

    def __init__(self, compiled: Callable, function: Callable, *, tell: Callable[[str], None], setting: str) -> None:
        self.compiled = compiled
        self.function = function
        self.tell = tell
        self.setting = setting
        self.num_graphs = 0
        self.is_full = False

    def __call__(self, what: str, *arguments: Any) -> Any:
        """Run the compiled function on arguments that `what` describes.

        Raises:
            ConfigError: it cannot be compiled here.
        """
        start, graphs_before = time.perf_counter(), counters["stats"]["unique_graphs"]
        try:
            # Under DistributedDataParallel the graph stays whole too: its gradients are exchanged at its end.
            with torch._dynamo.config.patch(recompile_limit=MOST_GRAPHS, optimize_ddp=False):  # type: ignore
                result = self.compiled(*arguments)
        except FailOnRecompileLimitHit:
            if not self.is_full:
                self.is_full = True
                self.tell(
                    f"{self.setting}: {self.num_graphs} graphs are compiled, which is the most there may be; from now "
                    f"on batches of other shapes, such as {what}, are computed uncompiled"
                )
            return self.function(*arguments)
        except TorchDynamoException as error:
            reason = " ".join(str(error).split("\n\n")[0].split()) or type(error).__name__
            raise ConfigError(f"{self.setting}: this model cannot be compiled here ({reason}); do without") from error
        new = counters["stats"]["unique_graphs"] - graphs_before
        if new:
            self.num_graphs += new
            seconds = time.perf_counter() - start
            self.tell(f"compiled graph {self.num_graphs} for {what}: {seconds:.0f} s with its first run")
        return result


def compiled_detector(
    detector: FasterRCNN,
    choice: Compile,
    *,
    device: torch.device,
    setting: str,
    tell: Callable[[str], None] = tqdm.write,
) -> CompiledDetector | FasterRCNN:
    """The detector, compiled if it is to be; see `check_compiler` for errors."""
    if not choice:
        return detector
    check_compiler(choice, device, setting=setting)
    return CompiledDetector(detector, tell=tell, setting=setting, use_cuda_graphs=choice == "reduce-overhead")


def check_compiler(choice: Compile, device: torch.device, *, setting: str) -> None:
    """Raise ConfigError where this machine has not what compiling for `device` takes."""
    if not choice:
        return
    if choice == "reduce-overhead" and device.type != "cuda":
        raise ConfigError(f"{setting}: reduce-overhead records CUDA graphs, this is {device.type}; take true")
    if device.type == "cuda":
        if not has_triton():
            raise ConfigError(f"{setting}: compiling for {device} takes Triton, which this machine or its GPU lacks")
        return
    try:
        get_cpp_compiler()
    except (InvalidCxxCompiler, RuntimeError):
        raise ConfigError(
            f"{setting}: there is no C++ compiler here to compile with; install g++, or set the variable CXX to the "
            "compiler there is, or do without"
        ) from None


def with_free_canvas(images: Tensor, *others: Tensor) -> None:
    """Make height and width of images (B, 3, H, W) symbols of the graph that is compiled for them, and nothing else."""
    for axis in (2, 3):
        torch._dynamo.maybe_mark_dynamic(images, axis)
    torch._dynamo.mark_static(images, 0)
    for tensor in others:
        torch._dynamo.mark_static(tensor)


def describe(images: Tensor) -> str:
    count, _, height, width = images.shape
    return f"{count} image{'s' * (count > 1)} on canvases such as {height}x{width}"
