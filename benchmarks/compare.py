"""One comparison: the same work on both sides, checked, timed and measured."""

from typing import Any

from benchmarks.agreement import Agreement, compare_detections, compare_training
from benchmarks.build_sides import Sides
from benchmarks.build_torchvision import in_their_names
from benchmarks.graphs import count_graph_breaks, count_host_syncs
from benchmarks.memory import measure_memory
from benchmarks.operators import profile_step
from benchmarks.settings import compile_ours, is_compiled, settle_peer
from benchmarks.sides import Torchvision
from benchmarks.timing import alternate, cpu_pressure, describe_machine, ratio_of, spread, synchroniser


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

    1. Both sides compute the same: without that there are times, but no ratio.
    2. The sides are put into their settings, see `settings`: on a CPU the peer runs as it is shipped.
    3. Times in alternation.
    4. Outside of these, peak memory, one profiled step, host syncs and graph breaks of each.

    Args:
        what: "train" or "detect".
        is_profiled: with the time of each stage, of sides that are not compiled.
        compiles: our side is compiled.
        counts_graphs: with graph breaks, which takes as long as compiling.

    Returns:
        plain data: see docs/benchmarking.md.
    """
    agreement = None if sides.peer is None else check(sides, what)
    if sides.peer is not None:
        settle_peer(sides.peer, what)
    if compiles:
        compile_ours(sides.ours)
    device = sides.ours.device
    steps = [side.step(what) for side in sides.both]
    figures: dict[str, dict[str, Any]] = {side.name: {"notes": side.notes} for side in sides.both}
    for step in steps:
        step()  # momentum and lazily made tensors exist from here on
    pressure = cpu_pressure()
    seconds = alternate(steps, warmup=warmup, rounds=rounds, synchronise=synchroniser(device))
    images = len(sides.scene.images)
    for side, times in zip(sides.both, seconds, strict=True):
        figures[side.name]["seconds"] = spread(times).as_dict()
        figures[side.name]["seconds_of_rounds"] = [float(f"{time:.6g}") for time in times]
        figures[side.name]["images_per_second"] = float(f"{images / spread(times).median:.5g}")
    pressure = [pressure, cpu_pressure()]
    for side, step in zip(sides.both, steps, strict=True):
        figures[side.name]["memory"] = measure_memory(side, step)
        if is_profiled and not is_compiled(side):
            figures[side.name] |= profile_step(side, step)
        figures[side.name]["host_syncs"] = count_host_syncs(step, device)
    for side in sides.both if counts_graphs else ():
        figures[side.name]["graphs"] = count_graph_breaks(side, what)
    is_comparable = agreement is not None and agreement.agrees
    return {
        "what": what,
        "input": describe_input(sides),
        "adapted": sides.adapted,
        "agreement": None if agreement is None else agreement._asdict(),
        "rounds": rounds,
        "warmup": warmup,
        "sides": figures,
        "ratio": ratio_of(seconds[1], seconds[0]).as_dict() if is_comparable else None,
        "no_ratio": sides.no_peer if agreement is None else agreement.reasons,
        "cpu_pressure": pressure,
        "machine": describe_machine(device),
    }


def check(sides: Sides, what: str) -> Agreement:
    """Whether both sides compute the same thing; Detectron2 is not given our samples, so its detections must do."""
    assert sides.peer is not None
    if what == "detect" or not isinstance(sides.peer, Torchvision):
        return compare_detections(sides.ours, sides.peer)
    return compare_training(sides.ours, sides.peer, in_their_names=in_their_names)


def describe_input(sides: Sides) -> dict[str, Any]:
    """What a step works on."""
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
