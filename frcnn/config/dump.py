"""Conversion of a config to plain data, YAML and JSON Schema."""

from typing import Any

from frcnn.config.schema import Config
from frcnn.config.schema.section import PEER
from frcnn.files import yaml_text

_BASE = {
    "type": "string",
    "title": "Base",
    "description": "Path of the config to inherit from, relative to this file.",
}


def dump_config(config: Config) -> dict[str, Any]:
    """All keys with their values as JSON types. Paths become strings."""
    return config.model_dump(mode="json")


def to_yaml(config: Config) -> str:
    """The whole config with defaults as YAML text that loads into an equal config."""
    return yaml_text.write(dump_config(config))


def json_schema() -> dict[str, Any]:
    """JSON Schema of config files, for completion and checks in editors.

    A file may inherit any key from its base. Therefore no key is required here, and a data source without `format` may
    match several formats. Loading validates the merged config.

    Keys that only reproduce other implementations have the keyword "x-peer" and say so in their description.
    """
    schema = _relax(Config.model_json_schema())
    schema["properties"] = {"base": _BASE, **schema["properties"]}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "frcnn config"}


def _relax(node: Any) -> Any:
    """Drop `required` and the defaults of sections, replace oneOf by anyOf, and put descriptions on one line."""
    if isinstance(node, list):
        return [_relax(item) for item in node]
    if not isinstance(node, dict):
        return node
    relaxed = {}
    for key, value in node.items():
        if key in ("required", "discriminator") or (key == "default" and isinstance(value, dict)):
            continue
        if key == "description" and isinstance(value, str):
            value = " ".join(value.split()) + (" Only reproduces other implementations." if PEER in node else "")
        relaxed["anyOf" if key == "oneOf" else key] = _relax(value)
    return relaxed
