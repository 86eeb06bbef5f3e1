"""A cleaned copy of the annotations. The originals are not changed and images are not copied."""

from collections.abc import Sequence
from pathlib import Path

from frcnn.check.repairs import Repairs, plan_repairs
from frcnn.check.run_checks import Check
from frcnn.data.formats.raw import Changes
from frcnn.errors import UserError

MOST_LINES = 20
"""Number of changes that the command prints."""


def require_new(out: Path) -> None:
    """Raise UserError unless `out` is new or an empty folder."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out}: --fix needs a new or empty folder; choose another one")


def write_fixed(check: Check, out: Path) -> list[str]:
    """Write corrected annotations of all sources with annotation files, see `plan_repairs`.

    VOC: OUT/Annotations, OUT/ImageSets/Main and a link OUT/JPEGImages to the images. Several roots get a subfolder of
    OUT each. YOLO: the folders of the dataset with label files and links to the images, OUT/data.yaml and lists of
    images. COCO, CSV and OpenImages: OUT/NAME.json or OUT/NAME.csv. OUT/changes.txt lists all changes.

    Returns:
        Lines about the changes and how to train with the copy.

    Raises:
        UserError: `out` is not empty or cannot be written.
        DataError: an annotation file changed since the check.
    """
    require_new(out)
    plans = [plan for plan in plan_repairs(check) if plan.source.raw.write_copy is not None]
    if not plans:
        return ["nothing to fix: no dataset has annotation files in a format that can be written"]
    try:
        out.mkdir(parents=True, exist_ok=True)
        places = _places(plans, out)
        left_to_do = []
        for origin, place in places.items():
            own = [_changes(plan) for plan in plans if plan.source.raw.origin == origin]
            write_copy = own[0].raw.write_copy
            assert write_copy is not None
            left_to_do += write_copy(own, place)
        changes = [line for plan in plans for line in plan.lines()]
        (out / "changes.txt").write_text("".join(f"{line}\n" for line in changes), encoding="utf-8")
    except OSError as error:
        raise UserError(f"{out}: cannot write: {error.strerror or error}") from error
    shown = [f"  {line}" for line in changes[:MOST_LINES]]
    if len(changes) > MOST_LINES:
        shown.append(f"  ... and {len(changes) - MOST_LINES} more")
    return [
        f"{len(changes)} changes, listed in {out / 'changes.txt'}",
        *shown,
        "to train with the copy, add these overrides:",
        f"  {' '.join(_override(plan, places) for plan in plans)}",
        *left_to_do,
    ]


def _changes(plan: Repairs) -> Changes:
    """A plan without its reasons."""
    return Changes(
        raw=plan.source.raw,
        dropped_images=plan.dropped_images.keys(),
        dropped_objects=plan.dropped_objects.keys(),
        sizes=plan.sizes,
        boxes={number: box for number, (box, _) in plan.boxes.items()},
        names=plan.names,
    )


def _places(plans: Sequence[Repairs], out: Path) -> dict[Path, Path]:
    """Target folder or file of each origin. A single folder is written to `out` itself."""
    origins = list(dict.fromkeys(plan.source.raw.origin for plan in plans if plan.source.raw.origin is not None))
    if len(origins) == 1 and origins[0].is_dir():
        return {origins[0]: out}
    places: dict[Path, Path] = {}
    for number, origin in enumerate(origins, start=1):
        place = out / origin.name
        places[origin] = out / f"{number}_{origin.name}" if place in places.values() else place
    return places


def _override(plan: Repairs, places: dict[Path, Path]) -> str:
    """The override that selects the copy of a source."""
    raw = plan.source.raw
    assert raw.origin is not None
    return f"{plan.source.key}.{raw.origin_key}={places[raw.origin]}"
