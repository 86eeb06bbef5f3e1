"""The results of benchmarks as text."""

from typing import Any

MIB = 2**20
KINDS = {
    "convolutions": "convolutions",
    "products": "matrix products",
    "pooling": "RoI pooling",
    "outside": "everything else",
}
LEAST_GAIN = 1.1
"""A smaller ratio, or one whose lower quartile is below 1, does not count as a gain."""
LOADING = {
    "ratio": "to resized uint8, compared with PIL",
    "ratio_normalised": "to resized, normalized float32, compared with the references",
    "ratio_of_loader": "the work of our loader compared with all of the references' work before the network",
}


def format_comparison(result: dict[str, Any]) -> str:
    """Format the input, the machine, the sides, and the ratio or the reason why it is missing."""
    given, machine = result["input"], result["machine"]
    sizes = sorted({f"{height}x{width}" for height, width in given["sizes"]})
    lines = [
        f"{result['what']}: batch of {given['images']}, images of {', '.join(sizes)} (canvas {given['canvas'][0]}x"
        f"{given['canvas'][1]}), objects {given['objects']}, {given['classes']} classes, {given['precision']}, "
        f"{given['origin']}",
        format_machine(machine, result["cpu_pressure"]),
    ]
    if result["adapted"]:
        changes = ", ".join(f"{key}={value}" for key, value in result["adapted"].items())
        lines.append(f"changed on our side, because the peer supports one value only: {changes}")
    for name, side in result["sides"].items():
        lines.append(format_side(name, side))
    if staged := {name: side for name, side in result["sides"].items() if "stages" in side}:
        lines += format_stages(staged)
    return "\n".join([*lines, *format_verdict(result)])


def format_stages(sides: dict[str, Any]) -> list[str]:
    """Format the shares of the stages in a profiled step, forward and backward, and shares of kinds of operators."""
    names = list(dict.fromkeys(stage for side in sides.values() for stage in side["stages"]))
    lines = ["share of a step, forward + backward".ljust(36) + "".join(f"{name:>18}" for name in sides)]
    for stage in names:
        cells = ""
        for side in sides.values():
            both, total = side["stages"].get(stage, {"forward": 0, "backward": 0}), side["profiled_seconds"]
            cells += f"{both['forward'] / total:>8.1%} + {both['backward'] / total:>6.1%} "
        lines.append(f"  {stage:34}{cells}")
    for kind, text in KINDS.items():
        lines.append(f"  {text:34}" + "".join(f"{side['shares'][kind]:>17.1%} " for side in sides.values()))
    return lines


def format_machine(machine: dict[str, Any], pressure: list[float | None]) -> str:
    around = " -> ".join("?" if value is None else f"{value:.0f} %" for value in pressure)
    return (
        f"{machine['cpu']}, {machine['threads']} threads on {machine['cpus']} CPUs, device {machine['device']}, torch "
        f"{machine['torch']}, torchvision {machine['torchvision']}, CPU pressure {around}"
    )


def format_side(name: str, side: dict[str, Any]) -> str:
    seconds = side["seconds"]
    text = (
        f"  {name:12} {seconds['median']:8.4f} s  ({seconds['lower']:.4f} to {seconds['upper']:.4f})  "
        f"{side['images_per_second']:7.2f} images/s"
    )
    if "memory" in side:
        memory = side["memory"]
        text += f"  peak {memory['peak'] / MIB:.0f} MiB ({memory['held'] / MIB:.0f} held + {memory['step'] / MIB:.0f})"
    if side.get("host_syncs") is not None:
        text += f"  {side['host_syncs']} host syncs"
    if "graphs" in side:
        graphs = side["graphs"]
        text += f"  {graphs['breaks']} graph breaks" if "error" not in graphs else f"  not compiled: {graphs['error']}"
    return text + "".join(f"\n    {note}" for note in side["notes"])


def format_verdict(result: dict[str, Any]) -> list[str]:
    """Format the ratio and the preceding check, or the reason why there is no ratio."""
    agreement, ratio = result["agreement"], result["ratio"]
    if ratio is None:
        what = "no peer" if agreement is None else "no ratio, the sides do not compute the same"
        return [f"{what}: {'; '.join(result['no_ratio'])}"]
    lines = [format_agreement(agreement["figures"])]
    text = f"ours is {format_ratio(ratio)}, {result['rounds']} rounds in alternation{gain(ratio)}"
    sides = list(result["sides"].values())
    if "memory" in sides[0]:
        text += f"; peak memory {sides[0]['memory']['peak'] / sides[1]['memory']['peak']:.2f} x"
    return [*lines, text]


def format_ratio(ratio: dict[str, float]) -> str:
    return f"{ratio['median']:.2f} x as fast ({ratio['lower']:.2f} to {ratio['upper']:.2f})"


def gain(ratio: dict[str, float]) -> str:
    """A note on ratios that are not a gain; empty for others."""
    return ": no gain" if ratio["median"] < LEAST_GAIN or ratio["lower"] < 1 else ""


def format_agreement(figures: dict[str, Any]) -> str:
    if "losses" in figures:
        losses = " / ".join(" ".join(f"{value:.5f}" for value in side) for side in figures["losses"])
        distance = figures["gradient_distance"]
        return f"same samples, losses {losses}, relative distance of gradients {distance['median']:.1e} (median)"
    counts, shares = figures["detections"], figures["shared"]
    return (
        f"detections {counts[0]} / {counts[1]}, {min(shares):.1%} equal within {figures['pixels']} pixels and a score "
        f"of {figures['score']}"
    )


def format_point(axis: str, point: dict[str, Any]) -> str:
    """Format one point of a sweep as a line."""
    cells = [
        f"{name} {side['seconds']['median']:.4f} s, {side['memory']['peak'] / MIB:.0f} MiB"
        for name, side in point["sides"].items()
    ]
    ratio = point["ratio"]
    verdict = "; ".join(point["no_ratio"]) if ratio is None else f"{ratio['median']:.2f} x"
    return f"{axis} {point['value']:>5}  " + "  ".join([*cells, verdict])


def format_loading(result: dict[str, Any]) -> str:
    """Format images per second of each side, and the ratios or the reason why they are missing."""
    given = result["input"]
    lines = [
        f"data: {given['images']} images, {given['data']}, short side {given['short_side']}, long side at most "
        f"{given['long_side']}",
        format_machine(result["machine"], result["cpu_pressure"]),
    ]
    for name, side in result["sides"].items():
        seconds = side["seconds"]
        lower, upper = given["images"] / seconds["upper"], given["images"] / seconds["lower"]
        speed = side["images_per_second"]
        lines.append(f"  {name:18} {speed:7.1f} images/s per core  ({lower:.1f} to {upper:.1f})")
    if result["no_ratio"]:
        return "\n".join([*lines, f"no ratio: {'; '.join(result['no_ratio'])}"])
    for key, text in LOADING.items():
        lines.append(f"ours is {format_ratio(result[key])}: {text}{gain(result[key])}")
    return "\n".join(lines)


def format_evaluation(result: dict[str, Any]) -> str:
    """Format the 12 numbers of both sides, the seconds and the ratio."""
    given = result["input"]
    lines = [
        f"eval: {given['images']} images, {given['classes']} classes, {given['objects']} objects, "
        f"{given['detections']} detections",
        format_machine(result["machine"], result["cpu_pressure"]),
    ]
    lines += [f"  {name:6} {_show(one)}  {_show(two)}" for name, (one, two) in result["numbers"].items()]
    for name, side in result["sides"].items():
        seconds = side["seconds"]
        lines.append(f"  {name:12} {seconds['median']:.2f} s  ({seconds['lower']:.2f} to {seconds['upper']:.2f})")
    if (ratio := result["ratio"]) is None:
        return "\n".join([*lines, f"no ratio: {'; '.join(result['no_ratio'])}"])
    return "\n".join([*lines, f"all numbers equal; ours is {format_ratio(ratio)}{gain(ratio)}"])


def _show(number: float | None) -> str:
    return "      -" if number is None else f"{number:7.4f}"
