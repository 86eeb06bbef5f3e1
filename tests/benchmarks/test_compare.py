"""The results of a comparison and of a sweep, as text and as a plot."""

import json

import numpy as np
import pytest
import torch

from benchmarks.compare import compare
from benchmarks.comparison_text import format_comparison, format_point, gain
from benchmarks.graphs import count_graph_breaks, count_host_syncs
from benchmarks.memory import bytes_held, cpu_peak
from benchmarks.sweep import sweep
from benchmarks.sweep_plot import draw_sweep
from frcnn.model.speed.compiled import CompiledDetector
from tests.benchmarks.sides import NO_PEER, small_sides


@pytest.fixture(scope="module", params=["train", "detect"])
def result(request):
    return compare(small_sides(what=request.param), request.param, rounds=3, warmup=1)


def test_a_comparison_is_complete(result):
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert result["agreement"]["agrees"] and result["no_ratio"] == []
    assert result["input"]["canvas"] == [96, 128] and result["input"]["sizes"] == [[96, 120]] * 2
    ratio = result["ratio"]
    assert 0 < ratio["lower"] <= ratio["median"] <= ratio["upper"]
    assert set(result["machine"]) >= {"cpu", "threads", "torch", "torchvision", "device"}
    assert len(result["cpu_pressure"]) == 2
    for side in result["sides"].values():
        assert len(side["seconds_of_rounds"]) == 3
        assert side["memory"]["peak"] == side["memory"]["held"] + side["memory"]["step"] > side["memory"]["step"] > 0
        assert sum(side["shares"].values()) == pytest.approx(1)
        assert all(share > 0 for share in side["shares"].values())
        assert side["host_syncs"] is None


def test_stages_add_up_to_the_step_on_both_sides(result):
    stages = [side["stages"] for side in result["sides"].values()]
    shared = {"backbone", "neck", "rpn head", "proposals", "roi pooling", "box head"}
    for side, named in zip(result["sides"].values(), stages, strict=True):
        assert named.keys() >= shared
        total = sum(sum(both.values()) for both in named.values())
        assert total == pytest.approx(side["profiled_seconds"], rel=0.02)
        if result["what"] == "train":
            assert named.keys() >= {"losses", "labels and sampling", "optimiser"}
            assert all(named[stage]["backward"] > 0 for stage in shared - {"proposals"})
            assert named["proposals"]["backward"] == named["optimiser"]["backward"] == 0
        else:
            assert all(both["backward"] == 0 for both in named.values())


def test_the_text_gives_the_ratio(result):
    text = format_comparison(result)
    assert f"ours is {result['ratio']['median']:.2f} x as fast" in text and "RoI pooling" in text


def test_without_a_peer_there_are_times_but_no_ratio():
    result = compare(small_sides(NO_PEER), "detect", rounds=1, warmup=1)
    assert result["ratio"] is None and list(result["sides"]) == ["ours"]
    assert "no peer: model.backbone.neck_norm is group" in format_comparison(result)


def test_sides_that_disagree_have_no_ratio():
    sides = small_sides()
    with torch.no_grad():
        sides.peer.model.roi_heads.box_predictor.cls_score.weight.mul_(-1)
    result = compare(sides, "detect", rounds=1, warmup=1)
    assert result["ratio"] is None and set(result["sides"]) == {"ours", "torchvision"}
    assert "no ratio, the sides do not compute the same" in format_comparison(result)


def test_our_detection_is_one_graph():
    sides = small_sides(against="none")
    assert count_graph_breaks(sides.ours, "detect")["breaks"] == 0


def test_graphs_are_counted_on_an_eager_copy():
    sides = small_sides(against="none")
    eager = CompiledDetector(sides.ours.model, tell=print, setting="test", backend="eager")
    sides.ours.compiled = eager
    assert count_graph_breaks(sides.ours, "detect")["breaks"] == 0
    assert sides.ours.compiled is eager


@pytest.mark.heavy
def test_a_compiled_side_has_no_stages(monkeypatch):
    def compile_eagerly(ours):
        ours.compiled = CompiledDetector(ours.model, tell=ours.notes.append, setting="test", backend="eager")

    monkeypatch.setattr("benchmarks.compare.compile_ours", compile_eagerly)
    result = compare(small_sides(), "detect", rounds=1, warmup=1, compiles=True)
    assert ["stages" in side for side in result["sides"].values()] == [False, True]
    assert "share of a step, forward + backward" in format_comparison(result)


@pytest.mark.parametrize(("median", "lower", "is_gain"), [(1.2, 1.05, True), (1.05, 1.02, False), (1.2, 0.9, False)])
def test_a_gain_needs_a_ratio_clearly_above_1(median, lower, is_gain):
    assert (gain({"median": median, "lower": lower, "upper": 2.0}) == "") == is_gain


@pytest.mark.slow
def test_our_step_is_one_graph_and_the_peers_is_not():
    sides = small_sides(what="train")
    assert count_graph_breaks(sides.ours, "train")["breaks"] == 0
    theirs = count_graph_breaks(sides.peer, "train")
    assert theirs["breaks"] > 5 and theirs["reasons"]


def test_host_syncs_are_counted_on_a_gpu_only():
    assert count_host_syncs(lambda: None, torch.device("cpu")) is None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_host_syncs_on_a_gpu():
    device = torch.device("cuda")
    number = torch.ones(1, device=device)
    assert count_host_syncs(lambda: [number.item() for _ in range(3)], device) == 3


def test_peak_of_allocated_bytes():
    def step():
        first, second = torch.empty(1000), torch.empty(2000)
        del first
        return second, torch.empty(500)

    assert cpu_peak(step) == pytest.approx(3000 * 4, abs=200)  # blocks are multiples of 64 bytes


def test_held_bytes_count_shared_storages_once():
    sides = small_sides(what="train")
    alone = bytes_held(sides.ours)
    assert alone >= sum(p.numel() * 4 for p in sides.ours.model.parameters())
    sides.ours.model.register_buffer("shared", next(sides.ours.model.parameters()).detach()[:1])
    assert bytes_held(sides.ours) == alone
    sides.ours.model.register_buffer("more", torch.zeros(10))
    assert bytes_held(sides.ours) == alone + 40


def test_a_sweep_and_its_plot():
    result = sweep(
        lambda **changed: small_sides(**changed),
        "detect",
        "objects",
        [1, 3],
        rounds=1,
        warmup=1,
        on_point=lambda _: None,
    )
    assert [point["value"] for point in result["points"]] == [1, 3]
    assert [point["input"]["objects"] for point in result["points"]] == [[1, 1], [3, 3]]
    picture = draw_sweep(result, title="detect")
    assert len(picture.convert("RGB").getcolors(maxcolors=10**6)) > 4
    assert " x" in format_point("objects", result["points"][0])


def test_equal_values_in_a_sweep_are_visible():
    """Both lines are constant and equal: the first shows through the dashes of the second, below the frame."""
    side = {"seconds": {"median": 1.0, "lower": 1.0, "upper": 1.0}, "memory": {"peak": 20 * 2**20}}
    points = [{"value": value, "sides": {"ours": side, "torchvision": side}} for value in (1, 2, 3)]
    picture = np.asarray(draw_sweep({"axis": "batch", "points": points}, title="flat"))
    for panel in np.split(picture, 2, axis=1):
        for colour in ([0x1F, 0x77, 0xB4], [0xFF, 0x7F, 0x0E]):  # the first colors of Matplotlib's cycle
            assert (panel == colour).all(axis=2).sum() > 250
