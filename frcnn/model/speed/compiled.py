"""A detector whose training step and detection run as compiled graphs (`torch.compile`).

Each is a single graph without breaks. Height and width of the canvas are symbols, so that all canvases share a graph.
Another graph is compiled for each number of images in a batch and, in training, for each number of ground-truth slots
(8, 16, 32, ...).
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
from torch.utils._pytree import tree_map_only
from torch.utils._triton import has_triton
from tqdm import tqdm

from frcnn.errors import ConfigError
from frcnn.model.detector import FasterRCNN
from frcnn.structures import Batch, Detections, Losses

Compile = bool | Literal["reduce-overhead"]
"""Whether to compile. "reduce-overhead" also records CUDA graphs."""

MOST_GRAPHS = 16
"""Maximum number of graphs of a function. Batches of further shapes are computed without compiling."""


class CompiledDetector(nn.Module):
    """Compiled calls of a detector. Weights and state dict remain those of the detector.

    Args:
        detector: the detector to compile. It is trained, saved and evaluated as usual.
        tell: called with a line for the log after each compilation of a graph.
        setting: the option or key that requests compilation, for messages.
        use_cuda_graphs: record a CUDA graph of each canvas, which saves launch overhead and costs memory.
        backend: backend of `torch.compile`. Tests use one that does not need a compiler.
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
        """Run `FasterRCNN.forward_train`, compiled."""
        slots = batch.ground_truth.valid.shape[1]
        with_free_canvas(batch.images, *batch[1:-1], *batch.ground_truth)
        return self._call(self._train, f"{describe(batch.images)}, {slots} ground-truth slots", batch)

    def forward_detect(self, images: Tensor, image_sizes: Tensor, original_sizes: Tensor | None = None) -> Detections:
        """Run `FasterRCNN.forward_detect`, compiled."""
        with_free_canvas(images, image_sizes, *([] if original_sizes is None else [original_sizes]))
        return self._call(self._detect, describe(images), images, image_sizes, original_sizes)

    def _call(self, function: "CompiledFunction", what: str, *arguments: Any) -> Any:
        if not self.use_cuda_graphs:
            return function(what, *arguments)
        # The next run of a CUDA graph overwrites the results of this one.
        torch.compiler.cudagraph_mark_step_begin()
        return tree_map_only(Tensor, Tensor.clone, function(what, *arguments))


class CompiledFunction:
    """A function and its compiled form, with a line for the log whenever a graph is compiled.

    Args:
        compiled: `function` compiled as one graph.
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
        """Run the compiled function.

        Args:
            what: description of the arguments, for the log.

        Raises:
            ConfigError: the function cannot be compiled on this machine.
        """
        start, graphs_before = time.perf_counter(), counters["stats"]["unique_graphs"]
        try:
            # Keep one graph under DistributedDataParallel too; gradients are then reduced at its end.
            with torch._dynamo.config.patch(recompile_limit=MOST_GRAPHS, optimize_ddp=False):  # type: ignore
                result = self.compiled(*arguments)
        except FailOnRecompileLimitHit:
            if not self.is_full:
                self.is_full = True
                self.tell(
                    f"{self.setting}: {self.num_graphs} graphs are compiled, which is the limit; batches of other "
                    f"shapes, such as {what}, are computed without compiling"
                )
            return self.function(*arguments)
        except TorchDynamoException as error:
            reason = " ".join(str(error).split("\n\n")[0].split()) or type(error).__name__
            raise ConfigError(f"{self.setting}: this model cannot be compiled here ({reason}); turn it off") from error
        new = counters["stats"]["unique_graphs"] - graphs_before
        if new:
            self.num_graphs += new
            seconds = time.perf_counter() - start
            self.tell(f"compiled graph {self.num_graphs} for {what}: {seconds:.0f} s including the first run")
        return result


def compiled_detector(
    detector: FasterRCNN,
    choice: Compile,
    *,
    device: torch.device,
    setting: str,
    tell: Callable[[str], None] = tqdm.write,
) -> CompiledDetector | FasterRCNN:
    """Return the detector, compiled if `choice` requests it. Raises the errors of `check_compiler`."""
    if not choice:
        return detector
    check_compiler(choice, device, setting=setting)
    return CompiledDetector(detector, tell=tell, setting=setting, use_cuda_graphs=choice == "reduce-overhead")


def check_compiler(choice: Compile, device: torch.device, *, setting: str) -> None:
    """Raise ConfigError if this machine cannot compile for `device`."""
    if not choice:
        return
    if choice == "reduce-overhead" and device.type != "cuda":
        raise ConfigError(f"{setting}: reduce-overhead records CUDA graphs, but the device is {device.type}; use true")
    if device.type == "cuda":
        if not has_triton():
            raise ConfigError(
                f"{setting}: compiling for {device} needs Triton, which is missing or does not support this GPU"
            )
        return
    try:
        get_cpp_compiler()
    except (InvalidCxxCompiler, RuntimeError):
        raise ConfigError(
            f"{setting}: no C++ compiler found; install g++, set the environment variable CXX to a compiler, or turn "
            "it off"
        ) from None


def with_free_canvas(images: Tensor, *others: Tensor) -> None:
    """Mark height and width of images (B, 3, H, W) as the only dynamic sizes of the graph."""
    for axis in (2, 3):
        torch._dynamo.maybe_mark_dynamic(images, axis)
    torch._dynamo.mark_static(images, 0)
    for tensor in others:
        torch._dynamo.mark_static(tensor)


def describe(images: Tensor) -> str:
    count, _, height, width = images.shape
    return f"{count} image{'s' * (count > 1)} on canvases such as {height}x{width}"
