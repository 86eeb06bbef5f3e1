"""A config as plain data, as YAML and as a JSON Schema."""

from typing import Any

from frcnn.config import yaml_text
from frcnn.config.schema import Config

_BASE = {
    "type": "string",
    "title": "Base",
    "description": "Another config, by its path relative to this file, that this one changes.",
}


def dump_config(config: Config) -> dict[str, Any]:
    """Every key with its value as JSON knows it: dicts, lists, text, numbers, true, false and null. Paths are text."""
    return config.model_dump(mode="json")


def to_yaml(config: Config) -> str:
    """The whole config, defaults included, as a YAML file that loads into an equal config."""
    return yaml_text.write(dump_config(config))


def json_schema() -> dict[str, Any]:
    """JSON Schema of a config file, by which editors complete and check it.

    A file may lean on its base for any key, so nothing is required here; a whole config is checked when it is loaded.
    For the same reason a data source may match several formats as long as `format` itself is not named.
    """
    schema = _relax(Config.model_json_schema())
    schema["properties"] = {"base": _BASE, **schema["properties"]}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "frcnn config"}


def _relax(node: Any) -> Any:
    """Drop `required` and the defaults of whole sections, make oneOf anyOf, join the lines of descriptions."""
    if isinstance(node, list):
        return [_relax(item) for item in node]
    if not isinstance(node, dict):
        return node
    relaxed = {}
    for key, value in node.items():
        if key in ("required", "discriminator") or (key == "default" and isinstance(value, dict)):
            continue
        if key == "description" and isinstance(value, str):
            value = " ".join(value.split())
        relaxed["anyOf" if key == "oneOf" else key] = _relax(value)
    return relaxed
