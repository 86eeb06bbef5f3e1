"""Error messages for invalid configs: the source, the key, what was expected and the nearest valid key or value."""

import json
import re
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any, NamedTuple

from pydantic import ValidationError

from frcnn.config.schema import Config, Section
from frcnn.config.sections import format_of, sections_in

KeyPath = tuple[str | int, ...]


class Layer(NamedTuple):
    """One file or override before merging."""

    source: str
    """Name in messages."""
    raw: dict[str, Any]


_EXPECTED = {
    "int": "an integer",
    "float": "a number",
    "bool": "true or false",
    "string": "a string",
    "path": "a path",
    "list": "a list",
    "tuple": "a list",
    "model": "a mapping",
}
_UNKNOWN = ("extra_forbidden", "invalid_key")


def explain(error: ValidationError, raw: dict[str, Any], layers: Sequence[Layer]) -> str:
    """Describe each error in one line: source, dotted key, what is wrong and the nearest valid key or value.

    For a key that accepts several types, pydantic reports an error for each type. Three rules select what to show:
    an error deeper inside a value hides a wrong type of the value, a wrong value hides a wrong type, and several wrong
    types are joined into one line ("expected an integer or a list").

    Args:
        raw: the merged config that was validated.
        layers: the configs it was merged from. Later layers override earlier ones.
    """
    wrong_types: dict[KeyPath, list[str]] = {}
    mistakes: dict[KeyPath, list[str]] = {}
    for item in error.errors(include_url=False):
        path = _clean_path(item["loc"], item["type"], raw)
        kind = item["type"].split("_")[0]
        if kind in _EXPECTED:
            wrong_types.setdefault(path, []).append(_EXPECTED[kind])
        elif item["type"].startswith("union_tag"):
            path = (*path, "format")
            mistakes.setdefault(path, []).append(_wrong_choice(item))
        else:
            mistakes.setdefault(path, []).append(_describe(item, path, raw))
    reported = mistakes.keys() | wrong_types.keys()
    for path, expected in wrong_types.items():
        is_deeper = any(other != path and other[: len(path)] == path for other in reported)
        if path not in mistakes and not is_deeper:
            kinds = " or ".join(dict.fromkeys(expected))
            mistakes[path] = [f"expected {kinds}, found {_show(_value_at(raw, path))}"]
    lines = [
        f"{_origin(path, layers)}: {'.'.join(map(str, path)) or 'config'}: {text}"
        for path, texts in mistakes.items()
        for text in dict.fromkeys(texts)
    ]
    return lines[0] if len(lines) == 1 else "\n  ".join([f"{len(lines)} errors in the config:", *lines])


def _clean_path(location: KeyPath, kind: str, raw: Any) -> KeyPath:
    """The keys of `location` without the names that pydantic adds for members of unions."""
    path: list[str | int] = []
    value = raw
    for position, part in enumerate(location):
        if _has(value, part):
            value = value[part]
        elif kind not in ("missing", *_UNKNOWN) or position < len(location) - 1:
            continue
        path.append(part)
    return tuple(path)


def _describe(item: Any, path: KeyPath, raw: dict[str, Any]) -> str:
    kind = item["type"]
    if kind == "missing":
        return "required key is missing"
    if kind in _UNKNOWN:
        return f"unknown key; {_suggest_key(path, raw)}"
    if kind == "literal_error":
        return _wrong_choice(item)
    if kind == "value_error":
        return str(item["ctx"]["error"])
    if kind in ("too_short", "too_long"):
        limit = item["ctx"]["min_length" if kind == "too_short" else "max_length"]
        bound = f"{'at least' if kind == 'too_short' else 'at most'} {limit} {'entry' if limit == 1 else 'entries'}"
        return f"expected {bound}, found {_show(item['input'])}"
    return f"{item['msg'].replace('Input should', 'must')}, found {_show(item['input'])}"


def _wrong_choice(item: Any) -> str:
    context = item.get("ctx", {})
    choices = re.findall(r"'([^']*)'", context.get("expected") or context.get("expected_tags") or "")
    if item["type"] == "union_tag_not_found":
        return f"required key is missing; use one of {', '.join(_formats())}"
    found = item["input"].get("format") if "tag" in context else item["input"]
    nearest = get_close_matches(str(found), choices, 1)
    hint = f"; did you mean {nearest[0]}?" if nearest else ""
    return f"{_show(found)} is not one of {', '.join(choices)}{hint}"


def _suggest_key(path: KeyPath, raw: dict[str, Any]) -> str:
    """Suggest a valid key: one of the same section with a similar spelling, else one of the same name elsewhere."""
    *parents, name = map(str, path)
    siblings = list(_section_at(path[:-1], raw).model_fields)
    nearest = get_close_matches(name, siblings, 1)
    if nearest:
        return f"did you mean {'.'.join([*parents, nearest[0]])}?"
    everywhere = _all_keys(Config)
    if ".".join(part for part in path if isinstance(part, str)) in everywhere:  # in a source of another format
        return f"it belongs to another format; valid keys: {', '.join(siblings)}"
    same_name = [key for key in everywhere if key.rpartition(".")[2] == name]
    if not same_name:
        last_names = get_close_matches(name, [key.rpartition(".")[2] for key in everywhere], 1, 0.8)
        same_name = [key for key in everywhere if key.rpartition(".")[2] in last_names]
    if same_name:
        return f"did you mean {' or '.join(same_name[:3])}?"
    return f"valid keys: {', '.join(siblings)}"


def _section_at(path: KeyPath, raw: dict[str, Any]) -> type[Section]:
    """The class of the section at `path`. For a data source, its `format` selects the class."""
    section: type[Section] = Config
    value: Any = raw
    options = [section]
    for part in path:
        value = value[part]
        if isinstance(part, str):
            options = sections_in(section.model_fields[part].annotation)
        if isinstance(value, dict):
            section = next((s for s in options if len(options) == 1 or format_of(s) == value.get("format")), section)
    return section


def _formats() -> list[str]:
    options = sections_in(Config.model_fields["data"].annotation)[0].model_fields["val"].annotation
    return [name for section in sections_in(options) if (name := format_of(section))]


def _all_keys(section: type[Section], prefix: str = "") -> list[str]:
    """All dotted keys of the schema."""
    keys: dict[str, None] = {}
    for name, field in section.model_fields.items():
        keys[prefix + name] = None
        for inner in sections_in(field.annotation):
            keys.update(dict.fromkeys(_all_keys(inner, f"{prefix}{name}.")))
    return list(keys)


def _show(value: Any) -> str:
    text = json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _value_at(raw: Any, path: KeyPath) -> Any:
    for part in path:
        raw = raw[part]
    return raw


def _origin(path: KeyPath, layers: Sequence[Layer]) -> str:
    """The last layer that contains the key, or else the nearest section above it."""
    for length in range(len(path), 0, -1):
        for layer in reversed(layers):
            if _holds(layer.raw, path[:length]):
                return layer.source
    return next((layer.source for layer in reversed(layers) if not layer.source.startswith("override ")), "config")


def _holds(raw: Any, path: KeyPath) -> bool:
    for part in path:
        if not _has(raw, part):
            part = str(part)  # overrides have list indices as strings
            if not _has(raw, part):
                return False
        raw = raw[part]
    return True


def _has(value: Any, part: str | int) -> bool:
    if isinstance(value, list):
        return isinstance(part, int) and part < len(value)
    return isinstance(value, dict) and part in value
