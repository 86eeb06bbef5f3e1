"""Faster R-CNN with tensors of fixed shape.

>>> import frcnn
>>> result = frcnn.train("configs/demo.yaml", out="runs/demo")  # doctest: +SKIP
>>> frcnn.evaluate("runs/demo").report["coco"]["AP"]  # doctest: +SKIP
>>> predictions = frcnn.load("runs/demo").predict(["street.jpg"])  # doctest: +SKIP
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from frcnn.version import __version__

if TYPE_CHECKING:
    from frcnn.inference.detect_dataset import Evaluation
    from frcnn.inference.predictor import Prediction, Predictor, load
    from frcnn.runs.evaluate import evaluate
    from frcnn.runs.train import TrainingResult, train

__all__ = [
    "Evaluation",
    "Prediction",
    "Predictor",
    "TrainingResult",
    "__version__",
    "evaluate",
    "load",
    "train",
]
_MODULES = {
    "Evaluation": "frcnn.inference.detect_dataset",
    "Prediction": "frcnn.inference.predictor",
    "Predictor": "frcnn.inference.predictor",
    "TrainingResult": "frcnn.runs.train",
    "evaluate": "frcnn.runs.evaluate",
    "load": "frcnn.inference.predictor",
    "train": "frcnn.runs.train",
}
"""The module of each name. It is imported on first use, so that `import frcnn` does not import torch."""


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(_MODULES[name]), name)
    raise AttributeError(f"module 'frcnn' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
