"""The reference of all keys of a config, as Markdown, made from the schema."""

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

from frcnn.config.schema import Config, Section
from frcnn.config.sections import format_of, sections_in

_HEAD = """\
# Config keys

Every key with its type, default and meaning. [config.md](config.md) explains files, inheritance and overrides.
This page is generated: `frcnn schema --markdown --out docs/config_keys.md`.
"""

_NAMES = {
    "integer": "whole number",
    "number": "number",
    "string": "text",
    "null": "null",
}


class Key(NamedTuple):
    """One row of the reference."""

    name: str
    """Dotted, from the section of the file on."""
    type: str
    default: str
    """As YAML in backticks, or "required" where the section is given."""
    meaning: str


class Table(NamedTuple):
    """The keys of one section."""

    title: str
    level: int
    """Of the heading: 2 for a section of the file."""
    about: str
    keys: list[Key]


def markdown_reference() -> str:
    """The page: a table for each section."""
    parts = [_HEAD]
    for table in _tables(Config, (), defaults=None):
        rows = [f"| `{key.name}` | {key.type} | {key.default} | {key.meaning} |" for key in table.keys]
        text = f"{'#' * table.level} {table.title}\n\n{table.about}\n"
        if rows:
            text += "\n" + "\n".join(["| key | type | default | meaning |", "|---|---|---|---|", *rows]) + "\n"
        parts.append(text)
    return "\n".join(parts)


def all_keys() -> list[Key]:
    """The rows of all tables."""
    return [key for table in _tables(Config, (), defaults=None) for key in table.keys]


def _tables(
    section: type[Section], path: tuple[str, ...], *, defaults: Any, about: str | None = None
) -> Iterator[Table]:
    """The table of a section, then those of the sections inside it.

    Args:
        defaults: the section's value where it is not given; None where there is none.
        about: what the section is for; None takes its docstring.
    """
    nodes = section.model_json_schema()["properties"]
    keys, inner = [], []
    for name, field in section.model_fields.items():
        below = sections_in(field.annotation)
        is_required = field.is_required() and defaults is None
        default = getattr(defaults, name) if field.is_required() and defaults is not None else field.default
        is_section = field.annotation in below
        if not is_section:
            keys.append(
                Key(
                    ".".join((*path, name)),
                    _type(nodes[name]).replace("|", r"\|"),
                    "required" if is_required else _shown(default),
                    _one_line(field.description),
                )
            )
        for each in below:
            if format_of(each) is None:
                inner.append(
                    (each, (*path, name), default if isinstance(default, Section) else None, field.description)
                )
    if path:
        yield Table(f"`{'.'.join(path)}`", len(path) + 1, _one_line(about or section.__doc__), keys)
    for each, below_path, default, description in inner:
        yield from _tables(each, below_path, defaults=default, about=description)
    if path == ("data",):
        for each in sections_in(section.model_fields["val"].annotation):
            yield from _source_table(each)


def _source_table(source: type[Section]) -> Iterator[Table]:
    """The keys of a dataset of one format, as they are below data.train."""
    for table in _tables(source, ("data", "train"), defaults=None):
        about = f"{table.about} The same keys apply to `data.val` and to each entry of a list in `data.train`."
        yield table._replace(title=f"`data.train` with `format: {format_of(source)}`", about=about)


def _one_line(text: str | None) -> str:
    """Without line breaks, and fit for a cell of a table."""
    return " ".join((text or "").split()).replace("|", r"\|")


def _shown(value: Any) -> str:
    return f"`{value if isinstance(value, str) else json.dumps(value)}`"


def _type(node: dict[str, Any], *, is_plural: bool = False) -> str:
    """A node of the JSON Schema in words; plural inside a list."""
    options = node.get("anyOf") or (node.get("oneOf") and [{"$ref": ""}])
    if options:
        texts = [_type(option, is_plural=is_plural) for option in options]
        return ", or ".join(dict.fromkeys(text.replace("true or false", "true, false") for text in texts))
    if node.get("type") == "object":
        return "mapping"
    if "$ref" in node:
        return "dataset" + "s" * is_plural if node.get("$ref") == "" else "section"
    choices = node.get("enum", [node["const"]] if "const" in node else [])
    if choices:
        *first, last = (f"`{choice}`" for choice in choices)
        return f"{', '.join(first)} or {last}" if first else last
    if node["type"] == "boolean":
        return "true or false"
    if node["type"] == "array":
        members = node.get("prefixItems")
        count = f"{len(members)} " if members else ""
        return f"list{'s' * is_plural} of {count}{_type(members[0] if members else node['items'], is_plural=True)}"
    name = "path" if node.get("format") == "path" else _NAMES[node["type"]]
    if is_plural and name != "text":
        name += "s"
    return name + _bounds(node)


def _bounds(node: dict[str, Any]) -> str:
    if "minimum" in node and "maximum" in node:
        return f" from {node['minimum']:g} to {node['maximum']:g}"
    signs = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
    limits = [f" {sign} {node[name]:g}" for name, sign in signs.items() if name in node]
    return " and".join(limits)
