"""Merging of config layers."""

from typing import Any

from frcnn.errors import ConfigError

_ALTERNATIVES: dict[tuple[str, ...], str] = {("train", "epochs"): "steps", ("train", "steps"): "epochs"}


def merge(base: dict, overlay: dict, *, source: str, path: tuple[str, ...] = ()) -> dict:
    """Return `base` updated with `overlay`. Both arguments stay unchanged.

    1. Mappings are merged key by key. Any other value of the overlay, including a list, replaces the value of the base.
    2. A data source with another `format` replaces the whole source, so that no key of the old format remains.
    3. Setting one of train.epochs and train.steps removes the other from the base, because they are mutually exclusive.
       (Validation rejects a layer that sets both.)
    4. A mapping whose keys are all numeric strings, as made by the override `data.train.0.root=x`, changes these
       entries of a list.

    Args:
        source: the file or override that `overlay` comes from, for messages.
        path: keys that lead to the two mappings.

    Raises:
        ConfigError: a list index out of range, or a key that is not a list index.

    >>> merge({"train": {"epochs": 12, "lr": 0.1}}, {"train": {"steps": 500}}, source="overlay.yaml")
    {'train': {'lr': 0.1, 'steps': 500}}
    """
    if "format" in base and "format" in overlay and base["format"] != overlay["format"]:
        return overlay
    dropped = {_ALTERNATIVES.get((*path, key)) for key, value in overlay.items() if value is not None}
    merged = {key: value for key, value in base.items() if key not in dropped}
    for key, value in overlay.items():
        merged[key] = _lay_over(merged.get(key), value, source, (*path, str(key)))
    return merged


def nest(key: str, value: Any) -> dict[str, Any]:
    """Convert a dotted key and its value to a nested mapping.

    >>> nest("train.schedule.kind", "cosine")
    {'train': {'schedule': {'kind': 'cosine'}}}
    """
    for part in reversed(key.split(".")):
        value = {part: value}
    return value


def _lay_over(base: Any, value: Any, source: str, path: tuple[str, ...]) -> Any:
    if isinstance(base, dict) and isinstance(value, dict):
        return merge(base, value, source=source, path=path)
    if isinstance(base, list) and isinstance(value, dict) and "format" not in value:
        return _change_entries(base, value, source, path)
    return value


def _change_entries(base: list, entries: dict, source: str, path: tuple[str, ...]) -> list:
    changed = list(base)
    key = ".".join(path)
    for position, value in entries.items():
        if not str(position).isdecimal():
            raise ConfigError(f"{source}: {key} is a list; select an entry, for example {key}.0.{position}")
        if int(position) >= len(base):
            raise ConfigError(
                f"{source}: {key}.{position} does not exist; {key} has {len(base)} entries, counted from 0"
            )
        changed[int(position)] = _lay_over(base[int(position)], value, source, (*path, str(position)))
    return changed
