"""The folder of a series: the same training run with several seeds, and the summary of their metrics.

    seed_0/, seed_1/, ...     run folders, named by train.seed
    seeds.json                metrics of the finished runs: each seed's value, mean, standard deviation and range

All runs of a series have the same settings except for the seed, so that nothing else affects the metrics.
"""

import json
import re
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from frcnn.errors import CheckpointError, ConfigError, DataError
from frcnn.evaluation.evaluate import flat_metrics
from frcnn.training.run_folder import RunFolder, prepare_folder, refuse_overwriting, write_text

SHOWN = {"AP": "AP", "AP50": "AP50", "AP75": "AP75", "voc_mAP": "VOC mAP", "voc_mAP_11point": "VOC 11-point"}
"""Metrics of the printed table, and their titles."""


class SeriesFolder(NamedTuple):
    """Paths of one series."""

    path: Path

    @property
    def summary(self) -> Path:
        return self.path / "seeds.json"

    def run(self, seed: int) -> RunFolder:
        return RunFolder(self.path / f"seed_{seed}")

    def begun(self) -> list[int]:
        """Seeds of the runs in this folder, ascending."""
        names = (re.fullmatch(r"seed_(0|[1-9][0-9]*)", path.name) for path in self.path.glob("seed_*"))
        seeds = sorted(int(name[1]) for name in names if name)
        return [seed for seed in seeds if self.run(seed).holds_run()]


def refuse_overwriting_series(folder: SeriesFolder, seeds: Sequence[int], *, overwrite: bool) -> None:
    """Raise ConfigError if a new series would overwrite runs, or files that do not belong to a series."""
    if RunFolder(folder.path).holds_run():
        raise ConfigError(f"{folder.path} holds a single run. Choose another folder for the series with --out")
    begun = folder.begun()
    if begun and not overwrite:
        raise ConfigError(
            f"{folder.path} already holds {_runs(begun)}. Resume with --resume, choose another folder with --out, or "
            "delete all of these runs with --overwrite"
        )
    for seed in seeds:
        refuse_overwriting(folder.run(seed), overwrite=overwrite)
    if not begun and folder.summary.exists() and _read(folder.summary).get("seeds") != []:
        raise ConfigError(
            f"{folder.path} holds no run of a series, but it holds {folder.summary.name}, which a series would "
            "overwrite. Choose another folder with --out, or move the file away"
        )


def refuse_series(path: Path) -> None:
    """Raise ConfigError if the folder for a single run holds a series."""
    begun = SeriesFolder(path).begun()
    if begun:
        raise ConfigError(
            f"{path} holds a series, {_runs(begun)}. Resume it with --resume --seeds N, resume one of its runs with "
            f"--resume --out {SeriesFolder(path).run(begun[0]).path}, or choose another folder with --out"
        )


def start_series(folder: SeriesFolder, seeds: Sequence[int], *, overwrite: bool, init_from: Path | None) -> None:
    """Create the folder of a new series. With `overwrite`, delete every run in it, regardless of its seed.

    seeds.json is written before the first run, because it holds the initial weights for the runs of a resumed series.
    """
    refuse_overwriting_series(folder, seeds, overwrite=overwrite)
    for seed in folder.begun():
        prepare_folder(folder.run(seed), overwrite=True)
    write_summary(folder, [], seeds, init_from=init_from)


def find_series(folder: SeriesFolder, seeds: Sequence[int] | None = None) -> tuple[list[int], Path | None]:
    """Find the runs of a series: their seeds, and the weights that all runs are initialized from.

    Raises:
        CheckpointError: there is no run.
        ConfigError: there are runs with seeds that are not in `seeds`.
        DataError: seeds.json is missing or damaged.
    """
    begun = folder.begun()
    if not begun:
        raise CheckpointError(f"{folder.path} holds no series to resume (no seed_*/checkpoints). Omit --resume")
    others = [seed for seed in begun if seed not in seeds] if seeds is not None else []
    if others and seeds is not None:
        raise ConfigError(
            f"{folder.path} holds {_runs(others)}, but the requested seeds are {seeds[0]} to {seeds[-1]}. Raise "
            "--seeds, restore train.seed, or choose another folder with --out"
        )
    init_from = _read(folder.summary).get("init_from")
    return begun, Path(init_from) if init_from else None


def write_summary(
    folder: SeriesFolder, finished: Sequence[int], seeds: Sequence[int], *, init_from: Path | None
) -> dict[str, Any]:
    """Write seeds.json from the eval.json of each finished run.

    Returns:
        its content:

        seeds       seeds of the finished runs
        unfinished  seeds of the other runs
        init_from   the weights that all runs are initialized from (--init-from), or None
        metrics     COCO's 12 metrics, voc_mAP and voc_mAP_11point, each as from `spread`
        per_class   {name: {AP, AP50, voc_AP, voc_AP_11point}}, each as from `spread`

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
    """`metrics` and `per_class` from the reports of several runs, see `write_summary`; both empty without reports."""
    if not reports:
        return {"metrics": {}, "per_class": {}}
    flat = [flat_metrics(report) for report in reports]
    classes = [report["per_class"] for report in reports]
    return {
        "metrics": {name: spread([values[name] for values in flat]) for name in flat[0]},
        "per_class": {
            name: {metric: spread([each[name][metric] for each in classes]) for metric in row if metric != "objects"}
            for name, row in classes[0].items()
        },
    }


def spread(values: Sequence[float | None]) -> dict[str, Any]:
    """Summarize one metric of n runs: values, mean, std and range.

    std is the sample standard deviation (divisor n - 1); None for one run. Everything is None except the values if the
    metric of some run is None.

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
    """Format seeds.json as a text table, in percent: the metrics of `SHOWN`, then AP50 of each class with objects."""
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
        raise DataError(f"{path} is missing: it holds the initial weights of the series (init_from)") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise DataError(f"{path}: not the summary of a series")
    return content


def _read_report(folder: RunFolder) -> dict[str, Any]:
    try:
        report = json.loads(folder.evaluation.read_text(encoding="utf-8"))
        return {name: dict(report[name]) for name in ("coco", "voc", "per_class")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{folder.evaluation}: missing or damaged ({type(error).__name__}). Evaluate the run again with "
            f"frcnn eval {folder.path}, then continue with --resume"
        ) from error
