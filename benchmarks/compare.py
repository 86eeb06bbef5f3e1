"""One comparison: the same work on both sides, checked, timed and measured."""

from typing import Any

from benchmarks.agreement import compare_detections, compare_training
from benchmarks.build_sides import Sides
from benchmarks.build_torchvision import in_their_names
from benchmarks.graphs import count_graph_breaks, count_host_syncs
from benchmarks.memory import measure_memory
from benchmarks.operators import profile_step
from benchmarks.settings import compile_ours, is_compiled, settle_peer
from benchmarks.timing import alternate, spread


def compare(
    sides: Sides,
    what: str,
    *,
    rounds: int,
    warmup: int,
    is_profiled: bool = True,
    compiles: bool = False,
    counts_graphs: bool = False,
) -> dict[str, Any]:
    """Compare training steps or detection.

    1. Check that both sides compute the same. Otherwise there are times but no ratio.
    2. Choose the settings of the sides, see `settings`.
    3. Time both in alternation.
    4. Measure peak memory, profile one step, and count host syncs and graph breaks on each side.

    Args:
        what: "train" or "detect".
        is_profiled: measure the time of each stage, on sides that are not compiled.
        compiles: compile our side.
        counts_graphs: count graph breaks, which takes as long as compiling.

    Returns:
        Plain data, see docs/benchmarking.md.
    """
    agreement = None
    if sides.peer is not None:
        agreement = (
            compare_detections(sides.ours, sides.peer)
            if what == "detect"
            else compare_training(sides.ours, sides.peer, in_their_names=in_their_names)
        )
        settle_peer(sides.peer, what)
    if compiles:
        compile_ours(sides.ours)
    device = sides.ours.device
    steps = {side.name: side.step(what) for side in sides.both}
    figures: dict[str, dict[str, Any]] = {side.name: {"notes": side.notes} for side in sides.both}
    for step in steps.values():
        step()  # creates momentum and other lazy tensors
    timings = alternate(steps, warmup=warmup, rounds=rounds, device=device)
    images = len(sides.scene.images)
    for side in sides.both:
        own, step, seconds = figures[side.name], steps[side.name], timings.seconds[side.name]
        own["seconds"] = spread(seconds).as_dict()
        own["seconds_of_rounds"] = [float(f"{each:.6g}") for each in seconds]
        own["images_per_second"] = float(f"{images / spread(seconds).median:.5g}")
        own["memory"] = measure_memory(side, step)
        if is_profiled and not is_compiled(side):
            own |= profile_step(side, step)
        own["host_syncs"] = count_host_syncs(step, device)
    for side in sides.both if counts_graphs else ():
        figures[side.name]["graphs"] = count_graph_breaks(side, what)  # last, because it discards compiled graphs
    ratio = None
    if sides.peer is not None and agreement is not None and agreement.agrees:
        ratio = timings.ratio(sides.peer.name, sides.ours.name)
    return {
        "what": what,
        "input": describe_input(sides),
        "adapted": sides.adapted,
        "agreement": None if agreement is None else agreement._asdict(),
        "warmup": warmup,
        "sides": figures,
        "ratio": ratio,
        "no_ratio": sides.no_peer if agreement is None else agreement.reasons,
        **timings.conditions,
    }


def describe_input(sides: Sides) -> dict[str, Any]:
    """The images and objects of a step."""
    batch = sides.scene.batch
    return {
        "images": len(batch.images),
        "sizes": batch.image_sizes.tolist(),
        "canvas": list(batch.images.shape[2:]),
        "objects": [len(target["boxes"]) for target in sides.scene.targets],
        "classes": sides.num_classes,
        "origin": sides.scene.origin,
        "precision": sides.ours.precision,
    }
