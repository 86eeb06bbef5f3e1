"""The analysis of a detector as a table."""

from typing import Any

COLUMNS = {
    "trainable": ("trainable", 1e6, "M"),
    "frozen": ("frozen", 1e6, "M"),
    "train_forward": ("forward", 1e9, "GFLOP"),
    "train_backward": ("backward", 1e9, "GFLOP"),
    "saved_bytes": ("saved", 2**20, "MiB"),
    "detect_forward": ("detect", 1e9, "GFLOP"),
}
"""Key -> heading, divisor, unit."""


def format_analysis(result: dict[str, Any]) -> str:
    """One row for each part, and the total."""
    given = result["input"]
    height, width = given["canvas"]
    head = f"{'':26}" + "".join(f"{name:>11}" for name, _, _ in COLUMNS.values())
    units = f"{'':26}" + "".join(f"{unit:>11}" for _, _, unit in COLUMNS.values())
    rows = [_row(name, row) for name, row in result["parts"].items()]
    return "\n".join(
        [
            f"{given['images']} image(s) on a canvas of {height}x{width}, {given['objects']} objects each, "
            f"{given['classes']} classes; parameters, a training step, detection",
            head,
            units,
            *rows,
            _row("total", result["total"]),
            "a multiply-add is two FLOP; convolutions, matrix products and RoI pooling are counted; saved: bytes that "
            "the forward pass of training saves for the backward pass, without parameters",
        ]
    )


def _row(name: str, values: dict[str, int]) -> str:
    return f"{name:26}" + "".join(f"{values[key] / divisor:11.3f}" for key, (_, divisor, _) in COLUMNS.items())
