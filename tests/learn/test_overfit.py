"""Overfit a few images: data, losses, gradients, detection and evaluation are consistent."""

import json

import pytest

from tests.training.experiments import run, tiny_settings


@pytest.mark.slow
def test_overfit_eight_images(tmp_path):
    source = tiny_settings()["data"]["train"]
    run(
        tmp_path / "run",
        data={"train": source, "val": source, "short_side": 128, "flip": 0.0, "jitter": {}},
        steps=240,
        batch_size=4,
        optimizer="adamw",
        lr=0.002,
        clip_grad_norm=5.0,
        eval_every=240,
        best_metric="AP50",
    )
    report = json.loads((tmp_path / "run" / "eval.json").read_text())
    assert report["coco"]["AP50"] >= 0.9
