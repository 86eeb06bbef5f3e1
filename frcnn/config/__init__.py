"""Config files: `schema` defines the keys, `load` reads files and overrides."""

from frcnn.config.dump import dump_config, json_schema, to_yaml
from frcnn.config.load import load_config, override_config, parse_config
from frcnn.config.reference import markdown_reference
from frcnn.config.schema import Config

__all__ = [
    "Config",
    "dump_config",
    "json_schema",
    "load_config",
    "markdown_reference",
    "override_config",
    "parse_config",
    "to_yaml",
]
