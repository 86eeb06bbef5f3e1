"""Lay one mapping of config keys over another."""

from typing import Any

from frcnn.errors import ConfigError

_ALTERNATIVES: dict[tuple[str, ...], str] = {("train", "epochs"): "steps", ("train", "steps"): "epochs"}


def merge(base: dict, overlay: dict, *, source: str, path: tuple[str, ...] = ()) -> dict:
    """`base` changed by `overlay`; neither is touched.

    1. Two mappings merge key by key; any other value of the overlay, a list too, replaces that of the base.
    2. A data source whose `format` differs from the base's replaces it whole: no key of the old format is left.
    3. Giving one of train.epochs and train.steps a value drops the other from the base, since only one may be set.
       (A layer that sets both itself is an error, which validation finds.)
    4. A mapping whose keys are all numbers in quotes, as the override `data.train.0.root=x` makes it, changes these
       entries of a list.

    Args:
        source: the file or override that `overlay` comes from, for messages.
        path: keys that lead to these two mappings.

    Raises:
        ConfigError: an entry of a list that does not exist, or keys for a list that is not addressed by entry.

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
    """The mapping that a dotted key and its value stand for.

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
            raise ConfigError(f"{source}: {key} is a list here; name the entry, as in {key}.0.{position}")
        if int(position) >= len(base):
            raise ConfigError(f"{source}: {key} has {len(base)} entries, counted from 0; there is no {key}.{position}")
        changed[int(position)] = _lay_over(base[int(position)], value, source, (*path, str(position)))
    return changed
