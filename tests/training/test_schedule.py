import math

import pytest

from frcnn.errors import ConfigError
from frcnn.training.build_experiment import describe
from frcnn.training.schedule import lr_factor
from tests.training.experiments import tiny_experiment


def test_multistep_drops_at_fractions_of_the_length():
    settings = {"length": 90_000, "kind": "multistep", "milestones": [2 / 3, 8 / 9], "gamma": 0.1}
    steps = [0, 59_999, 60_000, 79_999, 80_000, 89_999]
    assert [lr_factor(step, **settings) for step in steps] == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


def test_warmup_is_linear_from_its_factor_to_one():
    settings = {"length": 100, "kind": "constant", "warmup_steps": 10, "warmup_factor": 0.2}
    assert [lr_factor(step, **settings) for step in (0, 5, 9, 10, 99)] == pytest.approx([0.2, 0.6, 0.92, 1, 1])


def test_cosine_falls_from_the_end_of_the_warmup_to_the_final_factor():
    settings = {"length": 110, "kind": "cosine", "warmup_steps": 10, "warmup_factor": 0.0, "final_factor": 0.1}
    assert lr_factor(0, **settings) == 0
    assert lr_factor(10, **settings) == pytest.approx(1)
    assert lr_factor(60, **settings) == pytest.approx(0.55)
    assert lr_factor(35, **settings) == pytest.approx(0.1 + 0.9 * (1 + math.cos(math.pi / 4)) / 2)
    assert lr_factor(110, **settings) == pytest.approx(0.1)


def test_warmup_multiplies_the_milestones_too():
    settings = {"length": 10, "kind": "multistep", "milestones": [0.2], "warmup_steps": 4, "warmup_factor": 0.0}
    assert lr_factor(2, **settings) == pytest.approx(0.05)


@pytest.mark.parametrize("kind", ["multistep", "cosine", "constant"])
def test_a_warmup_may_be_longer_than_the_run(kind):
    factors = [lr_factor(step, length=5, kind=kind, milestones=[], warmup_steps=10) for step in range(6)]
    assert factors == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.5])


def test_lr_is_scaled_to_the_batch():
    plain, scaled = tiny_experiment(), tiny_experiment(lr=0.02, lr_per_images=16, batch_size=4)
    assert plain.lr(3) == pytest.approx(0.002) and "train.lr=0.002," in describe(plain)
    assert scaled.lr(3) == pytest.approx(0.005)
    assert scaled.optimizer.param_groups[0]["lr"] == pytest.approx(0.005)
    assert "train.lr=0.005 (train.lr 0.02 for 16 images, scaled to 4)" in describe(scaled)
    with pytest.raises(ConfigError, match=r"train\.lr_per_images"):
        tiny_experiment(lr_per_images=0)


def test_the_length_of_an_epoch_depends_on_the_sampling():
    longer = tiny_experiment(data={"sampling": "repeat_factor", "repeat_threshold": 1.0}, steps=None, epochs=2)
    draws = longer.epoch_draws
    assert draws > 8 and longer.steps_per_epoch == draws // 2 and longer.length == 2 * longer.steps_per_epoch
    assert f"{draws} draws of 8 images, data.sampling=repeat_factor" in describe(longer)
