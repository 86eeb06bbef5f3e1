"""The folder of a series: one training from several seeds, and what its runs show together.

    seed_0/, seed_1/, ...     run folders, named by train.seed
    seeds.json                metrics of the finished runs: each seed's, mean, standard deviation and range

A series is begun, and resumed, with the same settings but for the seed, so that nothing else moves its metrics.
"""

import json
import re
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from frcnn.errors import CheckpointError, ConfigError, DataError
from frcnn.training.run_folder import RunFolder, prepare_folder, refuse_overwriting, write_text

SHOWN = {"AP": "AP", "AP50": "AP50", "AP75": "AP75", "voc_mAP": "VOC mAP", "voc_mAP_11point": "VOC 11-point"}
"""Metrics of the printed table, and what it calls them."""


class SeriesFolder(NamedTuple):
    """Paths of one series."""

    path: Path

    @property
    def summary(self) -> Path:
        return self.path / "seeds.json"

    def run(self, seed: int) -> RunFolder:
        return RunFolder(self.path / f"seed_{seed}")

    def begun(self) -> list[int]:
        """Seeds of the runs that lie here, ascending."""
        names = (re.fullmatch(r"seed_(0|[1-9][0-9]*)", path.name) for path in self.path.glob("seed_*"))
        seeds = sorted(int(name[1]) for name in names if name)
        return [seed for seed in seeds if self.run(seed).holds_run()]


def refuse_overwriting_series(folder: SeriesFolder, seeds: Sequence[int], *, overwrite: bool) -> None:
    """Raise ConfigError where a new series would overwrite runs unbidden, or files that are no series'."""
    if RunFolder(folder.path).holds_run():
        raise ConfigError(f"{folder.path} holds a single run; choose another folder for the series by --out")
    begun = folder.begun()
    if begun and not overwrite:
        raise ConfigError(
            f"{folder.path} already holds {_runs(begun)}. Go on by --resume, choose another folder by --out, or "
            "throw all of it away by --overwrite"
        )
    for seed in seeds:
        refuse_overwriting(folder.run(seed), overwrite=overwrite)
    if not begun and folder.summary.exists() and _read(folder.summary).get("seeds") != []:
        raise ConfigError(
            f"{folder.path} holds no run of a series, but {folder.summary.name}, which a series would overwrite. "
            "Choose another folder by --out, or move that away"
        )


def refuse_series(path: Path) -> None:
    """Raise ConfigError where the folder for a single run holds a series."""
    begun = SeriesFolder(path).begun()
    if begun:
        raise ConfigError(
            f"{path} holds a series, {_runs(begun)}. Go on with it by --resume --seeds N, with one run of it by "
            f"--resume --out {SeriesFolder(path).run(begun[0]).path}, or choose another folder by --out"
        )


def start_series(folder: SeriesFolder, seeds: Sequence[int], *, overwrite: bool, init_from: Path | None) -> None:
    """Make the folder for a new series; with `overwrite` throw away every run it holds, whatever its seed.

    seeds.json is written before the first run: it says what later runs start from, when the series is resumed.
    """
    refuse_overwriting_series(folder, seeds, overwrite=overwrite)
    for seed in folder.begun():
        prepare_folder(folder.run(seed), overwrite=True)
    write_summary(folder, [], seeds, init_from=init_from)


def find_series(folder: SeriesFolder, seeds: Sequence[int] | None = None) -> tuple[list[int], Path | None]:
    """What a resume has to know: the seeds that were begun, and the weights that all runs of the series start from.

    Raises:
        CheckpointError: there is no run.
        ConfigError: there are runs of other seeds than `seeds`.
        DataError: seeds.json is missing or damaged.
    """
    begun = folder.begun()
    if not begun:
        raise CheckpointError(f"{folder.path} holds no series to resume (no seed_*/checkpoints); leave out --resume")
    others = [seed for seed in begun if seed not in seeds] if seeds is not None else []
    if others and seeds is not None:
        raise ConfigError(
            f"{folder.path} holds {_runs(others)}, but asked for is {seeds[0]} to {seeds[-1]}: raise --seeds, set "
            "train.seed as it was, or choose another folder by --out"
        )
    init_from = _read(folder.summary).get("init_from")
    return begun, Path(init_from) if init_from else None


def write_summary(
    folder: SeriesFolder, finished: Sequence[int], seeds: Sequence[int], *, init_from: Path | None
) -> dict[str, Any]:
    """Write seeds.json, from the eval.json of each finished run, and give its content.

    Returns:
        seeds       those that are finished
        unfinished  those that are not
        init_from   the weights that all start from, by train's --init-from, or None
        metrics     COCO's 12, voc_mAP and voc_mAP_11point: of each what `spread` gives
        per_class   {name: {AP, AP50, voc_AP, voc_AP_11point}}, likewise

    Raises:
        DataError: an eval.json is missing or damaged.
        TrainingError: the disk is full.
    """
    reports = [_read_report(folder.run(seed)) for seed in finished]
    summary = {
        "seeds": list(finished),
        "unfinished": [seed for seed in seeds if seed not in finished],
        "init_from": str(init_from) if init_from else None,
        **summarise(reports),
    }
    write_text(folder.summary, json.dumps(summary, indent=2, allow_nan=False) + "\n")
    return summary


def summarise(reports: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """`metrics` and `per_class` of several runs' reports, see `write_summary`; both empty without a report."""
    if not reports:
        return {"metrics": {}, "per_class": {}}
    flat = [report["coco"] | {f"voc_{name}": value for name, value in report["voc"].items()} for report in reports]
    classes = [report["per_class"] for report in reports]
    return {
        "metrics": {name: spread([values[name] for values in flat]) for name in flat[0]},
        "per_class": {
            name: {metric: spread([each[name][metric] for each in classes]) for metric in row if metric != "objects"}
            for name, row in classes[0].items()
        },
    }


def spread(values: Sequence[float | None]) -> dict[str, Any]:
    """One metric of n runs: values, mean, std and range.

    std is the sample's standard deviation, with n - 1 below the root, None for one run; all is None where some run has
    nothing to measure by.

    >>> spread([0.5, 0.75])
    {'values': [0.5, 0.75], 'mean': 0.625, 'std': 0.1767766952966369, 'range': [0.5, 0.75]}
    >>> spread([0.5])
    {'values': [0.5], 'mean': 0.5, 'std': None, 'range': [0.5, 0.5]}
    """
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return {"values": list(values), "mean": None, "std": None, "range": None}
    return {
        "values": known,
        "mean": statistics.fmean(known),
        "std": statistics.stdev(known) if len(known) > 1 else None,
        "range": [min(known), max(known)],
    }


def format_summary(summary: dict[str, Any]) -> str:
    """seeds.json as aligned text, in percent: `SHOWN`, then AP50 of each class that has objects."""
    rows = [["", *(f"seed {seed}" for seed in summary["seeds"]), "mean", "std", "min", "max"]]
    rows += [[title, *_cells(summary["metrics"][name])] for name, title in SHOWN.items()]
    per_class = {name: row["AP50"] for name, row in summary["per_class"].items() if row["AP50"]["mean"] is not None}
    rows += [[f"AP50 {name}", *_cells(row)] for name, row in per_class.items()]
    first = max(len(row[0]) for row in rows)
    widths = [max(6, *(len(row[column]) for row in rows)) for column in range(1, len(rows[0]))]
    return "\n".join(
        "  ".join([row[0].ljust(first), *(cell.rjust(width) for cell, width in zip(row[1:], widths, strict=True))])
        for row in rows
    )


def _cells(row: dict[str, Any]) -> list[str]:
    numbers = [*row["values"], row["mean"], row["std"], *(row["range"] or [None, None])]
    return ["-" if number is None else f"{100 * number:.2f}" for number in numbers]


def _runs(seeds: Sequence[int]) -> str:
    return f"the run{'s' if len(seeds) > 1 else ''} of seed {', '.join(map(str, seeds))}"


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path} is missing: it says what the runs of the series start from (init_from)") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise DataError(f"{path}: not a summary of a series")
    return content


def _read_report(folder: RunFolder) -> dict[str, Any]:
    try:
        report = json.loads(folder.evaluation.read_text(encoding="utf-8"))
        return {name: dict(report[name]) for name in ("coco", "voc", "per_class")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{folder.evaluation}: missing or damaged ({type(error).__name__}); evaluate the run again by "
            f"frcnn eval {folder.path}, then go on with --resume"
        ) from error
