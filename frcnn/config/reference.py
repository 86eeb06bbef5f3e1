"""Markdown reference of all config keys, generated from the schema."""

import json
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from frcnn.config.schema import Config, Section
from frcnn.config.schema.section import is_peer
from frcnn.config.sections import format_of, sections_in

_HEAD = """\
# Config keys

All keys with type, default and meaning, one table per section. The full name of a key starts with its section, for
example `train.schedule.kind`. Keys that only reproduce other implementations are in the
[last table](#keys-that-reproduce-other-implementations). [Write a config](config.md) explains files, inheritance and
overrides. This page is generated: `frcnn schema --markdown --out docs/config_keys.md`.
"""
_PEERS = """\
## Keys that reproduce other implementations

Each implementation of Faster R-CNN makes choices that hardly affect accuracy but must match to obtain its numbers or to
use its weights. Keep the defaults when you train your own model. The configs in `configs/base/` and `frcnn convert` set
these keys. [Numerics](numerics.md) lists the value that each implementation uses.
"""
_COLUMNS = "| key | type | default | meaning |\n|---|---|---|---|"

_NAMES = {
    "integer": "integer",
    "number": "number",
    "string": "string",
    "null": "null",
}


class Key(NamedTuple):
    """One row of the reference."""

    name: str
    """Dotted, starting with a top-level section."""
    type: str
    default: str
    """YAML in backticks, or "required"."""
    meaning: str
    is_peer: bool
    """Whether the key only reproduces other implementations."""
    format: str = ""
    """Dataset format of a key of data.train: several formats have keys of one name."""

    @property
    def anchor(self) -> str:
        return f"{self.name}-{self.format}" if self.format else self.name


class Table(NamedTuple):
    """The keys of one section."""

    title: str
    level: int
    """Heading level; 2 for a top-level section."""
    about: str
    keys: list[Key]


def markdown_reference() -> str:
    """The page: a table for each section, then a table of the keys that reproduce other implementations."""
    parts, peers = [_HEAD], []
    for table in _tables(Config, (), defaults=None):
        keys = [key for key in table.keys if not key.is_peer]
        peers += [key for key in table.keys if key.is_peer]
        if keys or table.level == 2:
            parts.append(f"{'#' * table.level} {table.title}\n\n{table.about}\n")
            parts += [_rows(keys, with_section=False)] if keys else []
    return "\n".join([*parts, _PEERS, _rows(peers, with_section=True)])


def all_keys() -> list[Key]:
    """The rows of all tables."""
    return [key for table in _tables(Config, (), defaults=None) for key in table.keys]


def _rows(keys: Sequence[Key], *, with_section: bool) -> str:
    """A Markdown table. Each key is a link to its own row."""
    lines = []
    for key in keys:
        label = key.name.replace(".", ".<wbr>") if with_section else key.name.rpartition(".")[2]
        link = f'<a id="{key.anchor}"></a>[{label}](#{key.anchor})'
        lines.append(f"| {link} | {key.type} | {key.default} | {key.meaning} |")
    return "\n".join([_COLUMNS, *lines]) + "\n"


def _tables(
    section: type[Section],
    path: tuple[str, ...],
    *,
    defaults: Any,
    about: str | None = None,
    in_peer: bool = False,
) -> Iterator[Table]:
    """The table of a section, followed by the tables of its nested sections.

    Args:
        defaults: value of the section if it is not given; None if it has no default.
        about: description of the section; None uses its docstring.
        in_peer: whether the section itself belongs to a key that reproduces other implementations.
    """
    nodes = section.model_json_schema()["properties"]
    keys, inner = [], []
    for name, field in section.model_fields.items():
        below = sections_in(field.annotation)
        peer = in_peer or is_peer(field)
        is_required = field.is_required() and defaults is None
        default = getattr(defaults, name) if field.is_required() and defaults is not None else field.default
        if field.annotation not in below:
            keys.append(
                Key(
                    ".".join((*path, name)),
                    _type(nodes[name]).replace("|", r"\|"),
                    "required" if is_required else _shown(default),
                    _one_line(field.description),
                    peer,
                )
            )
        for each in below:
            if format_of(each) is None:
                below_defaults = default if isinstance(default, Section) else None
                inner.append((each, (*path, name), below_defaults, field.description, peer))
    if path:
        yield Table(f"`{'.'.join(path)}`", len(path) + 1, _one_line(about or section.__doc__), keys)
    for each, below_path, below_defaults, description, peer in inner:
        yield from _tables(each, below_path, defaults=below_defaults, about=description, in_peer=peer)
    if path == ("data",):
        for each in sections_in(section.model_fields["val"].annotation):
            yield from _source_table(each)


def _source_table(source: type[Section]) -> Iterator[Table]:
    """The keys of a dataset format, named as keys of data.train. `format` itself is in the title."""
    for table in _tables(source, ("data", "train"), defaults=None):
        about = f"{table.about} The same keys apply to `data.val` and to each entry of a list in `data.train`."
        name = format_of(source)
        keys = [key._replace(format=name) for key in table.keys if key.name != "data.train.format"]
        yield table._replace(title=f"`data.train` with `format: {name}`", about=about, keys=keys)


def _one_line(text: str | None) -> str:
    """`text` as one line that fits into a table cell."""
    return " ".join((text or "").split()).replace("|", r"\|")


def _shown(value: Any) -> str:
    return f"`{value if isinstance(value, str) else json.dumps(value)}`"


def _type(node: dict[str, Any], *, is_plural: bool = False) -> str:
    """Describe a node of the JSON Schema in words.

    Args:
        is_plural: whether the words follow "list of".
    """
    options = node.get("anyOf") or (node.get("oneOf") and [{"$ref": ""}])
    if options:
        texts = [_type(option, is_plural=is_plural) for option in options]
        return ", or ".join(dict.fromkeys(text.replace("true or false", "true, false") for text in texts))
    if "$ref" in node or node.get("type") == "object":
        return "dataset" + "s" * is_plural if node.get("$ref") == "" else "mapping"
    choices = node.get("enum", [node["const"]] if "const" in node else [])
    if choices:
        *first, last = (str(choice) for choice in choices)
        return f"{', '.join(first)} or {last}" if first else last
    if node["type"] == "boolean":
        return "true or false"
    if node["type"] == "array":
        members = node.get("prefixItems")
        count = f"{len(members)} " if members else ""
        return f"list{'s' * is_plural} of {count}{_type(members[0] if members else node['items'], is_plural=True)}"
    name = "path" if node.get("format") == "path" else _NAMES[node["type"]]
    if is_plural:
        name += "s"
    return name + _bounds(node)


def _bounds(node: dict[str, Any]) -> str:
    if "minimum" in node and "maximum" in node:
        return f" from {node['minimum']:g} to {node['maximum']:g}"
    signs = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
    limits = [f" {sign} {node[name]:g}" for name, sign in signs.items() if name in node]
    return " and".join(limits)
