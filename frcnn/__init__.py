"""Faster R-CNN as a fixed-shape program.

import frcnn
predictions = frcnn.load("runs/demo").predict(["street.jpg"])
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from frcnn.inference.predictor import load

__version__ = "0.1.0"
__all__ = ["__version__", "load"]


def __getattr__(name: str) -> Any:
    """`load` comes from frcnn.inference, imported on first use so that `import frcnn` need not wait for torch."""
    if name == "load":
        from frcnn.inference.predictor import load

        return load
    raise AttributeError(f"module 'frcnn' has no attribute {name!r}")
