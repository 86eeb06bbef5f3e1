"""Fixtures shared by all tests."""

import os
from pathlib import Path

# One thread, because pytest-xdist keeps each core busy with its own process. PyTorch reads this when it is imported,
# here and in the processes that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from hypothesis import HealthCheck, settings

from frcnn.model.speed.device import set_tf32

ROOT = Path(__file__).resolve().parent.parent

# Property tests try the same few examples everywhere; `pytest --hypothesis-profile=search` looks for new ones.
ALLOWED = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]  # a file is overwritten by the next example
settings.register_profile(
    "same", derandomize=True, max_examples=50, deadline=None, database=None, suppress_health_check=ALLOWED
)
settings.register_profile("search", max_examples=2000, deadline=None, suppress_health_check=ALLOWED)
settings.load_profile("same")


@pytest.fixture(autouse=True)
def seeded():
    """Every test starts from the same random state."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def full_float32():
    """Disable TensorFloat-32 on a GPU, because its rounding would hide the differences that tests look for."""
    set_tf32(False)


@pytest.fixture(scope="session")
def shared_path():
    """Path of real data by its name below $FRCNN_SHARED (default: `shared` next to the checkout); skips if missing."""
    folder = Path(os.environ.get("FRCNN_SHARED", ROOT.parent / "shared"))

    def find(name: str) -> Path:
        path = folder / name
        if not path.exists():
            pytest.skip(f"{name} is not on this machine (set FRCNN_SHARED)")
        return path

    return find
