import random

import numpy as np
import torch

from frcnn.training.randomness import kept_random_state, random_state, set_random_state, set_seed


def draw() -> tuple:
    return random.random(), np.random.rand(), torch.rand(3).tolist()


def test_a_saved_state_gives_the_same_draws(tmp_path):
    random.gauss(0, 1)  # leaves a cached value
    np.random.randn()
    torch.save(random_state(), tmp_path / "state.pt")
    expected = draw(), random.gauss(0, 1), np.random.randn()
    set_random_state(torch.load(tmp_path / "state.pt", weights_only=True))
    assert (draw(), random.gauss(0, 1), np.random.randn()) == expected


def test_ranks_draw_differently_and_repeatably():
    draws = []
    for rank in (0, 1, 0):
        set_seed(5, rank)
        draws.append(draw())
    assert draws[0] == draws[2] != draws[1]


def test_the_random_state_is_restored():
    set_seed(0, 0)
    expected = draw()
    set_seed(0, 0)
    with kept_random_state():
        draw()
    assert draw() == expected
