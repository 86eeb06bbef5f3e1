"""The format number of a run folder, in its env.json."""

from pathlib import Path

from frcnn.errors import CheckpointError
from frcnn.files.reading import read_json, shown

RUN_FORMAT = 1
"""Version of the layout that `training.run_folder` describes. Folders without a number have version 1."""


def check_run_format(environment: Path) -> None:
    """Raise CheckpointError if the run folder of an env.json was written by a newer version of frcnn.

    A missing or damaged env.json counts as version 1: a run can be resumed without it.
    """
    try:
        content = read_json(environment, error=CheckpointError)
    except (CheckpointError, OSError):
        return
    version = content.get("format", 1) if isinstance(content, dict) else 1
    if type(version) is int and version > RUN_FORMAT:
        raise CheckpointError(
            f"{environment.parent}: written by a newer frcnn (run folder format {shown(version)}; this version reads "
            f"up to {RUN_FORMAT}). Update frcnn"
        )
