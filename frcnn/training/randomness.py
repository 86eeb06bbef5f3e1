"""State of the random generators: set from the seed at the start, saved with checkpoints, kept through evaluations."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def set_seed(seed: int, rank: int) -> None:
    """Seed Python's, NumPy's and PyTorch's generators, differently on each rank.

    Order and transforms of images and the sampling of anchors and RoIs do not hang on these (they are functions of the
    seed, the epoch and the image); dropout does.
    """
    mixed = int(np.random.SeedSequence([seed, rank]).generate_state(1)[0])
    random.seed(mixed)
    np.random.seed(mixed)
    torch.manual_seed(mixed)


def random_state() -> dict[str, Any]:
    """State of every generator of this process, in types that `torch.load(weights_only=True)` reads."""
    kind, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    return {
        "python": random.getstate(),
        "numpy": [kind, np.asarray(keys).tolist(), position, has_gauss, cached],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None,
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Put every generator back to where `random_state` found it; a GPU's only where there is one."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    kind, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), position, has_gauss, cached))
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


@contextmanager
def kept_random_state() -> Iterator[None]:
    """Whatever is drawn inside leaves no trace outside, so that evaluating more often does not change the weights."""
    state = random_state()
    try:
        yield
    finally:
        set_random_state(state)
