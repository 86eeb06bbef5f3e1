"""Fixtures every room's tests share."""

import os
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def seeded():
    """Every test starts from the same random state."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def shared_path():
    """Path of real data by its name below $FRCNN_SHARED (default: `shared` beside the checkout); skips where absent."""
    folder = Path(os.environ.get("FRCNN_SHARED", ROOT.parent / "shared"))

    def find(name: str) -> Path:
        path = folder / name
        if not path.exists():
            pytest.skip(f"{name} is not on this machine (set FRCNN_SHARED)")
        return path

    return find
