"""Operations that use TensorFloat-32 on a CUDA device. The setting can be read without a GPU."""

from pathlib import Path

import pytest
import torch

import frcnn
from benchmarks import main as benchmark
from frcnn.config import override_config
from tests.inference.trained import raw_config, save_small_checkpoint
from tests.training.experiments import tiny_experiment

DEMO = Path(__file__).resolve().parents[2] / "configs" / "demo.yaml"


def switches() -> tuple[bool, bool]:
    """TensorFloat-32 in convolutions, and in matrix products."""
    return torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32


def test_tests_compare_in_full_float32():
    assert switches() == (False, False)


def test_the_default_is_that_of_pytorch():
    assert override_config(raw_config(), [], source="test").train.tf32 is True


@pytest.mark.parametrize("tf32", [True, False])
def test_a_training_run_sets_convolutions_only(tf32):
    torch.backends.cudnn.allow_tf32 = not tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    tiny_experiment(tf32=tf32)
    assert switches() == (tf32, False)


@pytest.mark.parametrize("tf32", [True, False])
def test_a_checkpoint_keeps_the_setting_of_its_run(tmp_path, tf32):
    config = raw_config()
    config["train"]["tf32"] = tf32
    path = save_small_checkpoint(tmp_path / "best.pt", config=config)
    torch.backends.cudnn.allow_tf32 = not tf32
    frcnn.load(path, device="cpu")
    assert switches() == (tf32, False)


@pytest.mark.parametrize("tf32", [True, False])
def test_a_benchmark_gives_both_sides_the_setting(tf32):
    torch.backends.cudnn.allow_tf32 = not tf32
    override = f"train.tf32={str(tf32).lower()}"
    benchmark.builder(benchmark.build_parser().parse_args(["detect", str(DEMO), override, "--device", "cpu"]))
    assert switches() == (tf32, False)
