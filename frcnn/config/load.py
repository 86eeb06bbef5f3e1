"""Reading of configs: YAML files with inheritance, overrides and validation."""

from collections.abc import Iterable, Sequence, Set
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from frcnn.config.explain import Layer, explain
from frcnn.config.merge import merge, nest
from frcnn.config.schema import Config
from frcnn.config.schema.data import GIVEN
from frcnn.errors import ConfigError
from frcnn.files import yaml_text
from frcnn.files.code import texts_in
from frcnn.files.limits import CONFIG_BASES, CONFIG_BYTES
from frcnn.files.reading import read_text, shown


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read a config file and apply overrides.

    1. Read the file, its `base`, the base of the base, and so on.
    2. Merge them. A file overrides its base (see `merge`).
    3. Merge the overrides `section.key=value` on top. If two set the same key, the later one wins.
    4. Validate the result.

    Args:
        path: a YAML file. `base` is relative to the file that contains it. All other paths in a config are relative to
            the working directory.
        overrides: values are YAML: `train.lr=1e-3`, `data.classes=[cat, dog]`, `model.backbone.weights=null`. A number
            selects an entry of a list: `data.train.0.root=x`.

    Raises:
        ConfigError: names the file or override, the key, the problem and the nearest valid key or value. Validation
            reports all errors at once.
    """
    files = _read_chain(Path(path))
    return _override(files, overrides, given=texts_in([file.raw for file in files]))


def parse_config(raw: dict[str, Any], *, source: str) -> Config:
    """Validate plain data, such as the config of a checkpoint.

    Args:
        source: origin of the data, for messages.

    Raises:
        ConfigError: as `load_config`.
    """
    return override_config(raw, (), source=source)


def override_config(raw: dict[str, Any], overrides: Sequence[str], *, source: str, given: Sequence[str] = ()) -> Config:
    """Apply overrides to plain data, such as the config of a checkpoint, and validate it.

    Args:
        overrides: see `load_config`.
        source: origin of the data, for messages.
        given: strings that the user passed. Code that `raw` names is imported only if they or the overrides contain its
            import path (see `files.code`).

    Raises:
        ConfigError: as `load_config`.
    """
    if not isinstance(raw, dict):
        raise ConfigError(f"{source}: a config must be a mapping of sections, found {type(raw).__name__}")
    return _override([Layer(source, raw)], overrides, given=given)


def _override(files: list[Layer], overrides: Sequence[str], *, given: Iterable[str]) -> Config:
    """Validate `files` changed by `overrides`.

    Args:
        given: strings that the user passed, besides the overrides. Import paths among them may be imported (see
            `files.code`).
    """
    if isinstance(overrides, str):
        raise ConfigError(f"overrides: expected a list such as ['train.lr=0.01'], found the string {overrides!r}")
    changes = [_parse_override(text) for text in overrides]
    raw = _merge_all(files)
    if changes:
        source = changes[0].source if len(changes) == 1 else "overrides"
        raw = merge(raw, _merge_all(changes), source=source)
    return _validate(raw, [*files, *changes], given={*given, *texts_in([layer.raw for layer in changes])})


def _read_chain(path: Path) -> list[Layer]:
    """Read a file and its bases. The file itself is the last layer."""
    layers: list[Layer] = []
    seen: list[Path] = []
    current: Path | None = path
    while current is not None:
        if _resolved(current, named_by=seen[-1] if seen else None) in [earlier.resolve() for earlier in seen]:
            chain = " -> ".join(str(file) for file in [*seen, current])
            raise ConfigError(f"{path}: circular base: {chain}")
        if len(seen) > CONFIG_BASES:
            raise ConfigError(f"{path}: more than {CONFIG_BASES} bases, the last one is {seen[-1]}")
        raw = _read_file(current, named_by=seen[-1] if seen else None)
        seen.append(current)
        base = raw.pop("base", None)
        if base is not None and not isinstance(base, str):
            raise ConfigError(f"{current}: base: expected a path, found {shown(base)}")
        layers.insert(0, Layer(str(current), raw))
        current = current.parent / base if base is not None else None
    return layers


def _resolved(path: Path, *, named_by: Path | None) -> Path:
    by = f" (the base of {named_by})" if named_by else ""
    try:
        return path.resolve()
    except (OSError, RuntimeError, ValueError) as error:  # circular links, invalid file names
        raise ConfigError(f"{str(path)!r}{by}: cannot be read: {error}") from None


def _read_file(path: Path, *, named_by: Path | None) -> dict[str, Any]:
    by = f" (the base of {named_by})" if named_by else ""
    try:
        text = read_text(path, CONFIG_BYTES, error=ConfigError)
    except FileNotFoundError:
        raise ConfigError(f"{path}{by}: no such file") from None
    except (OSError, ValueError) as error:  # ValueError: invalid UTF-8 or file name
        raise ConfigError(f"{path}{by}: cannot be read: {error}") from error
    try:
        raw = yaml_text.read(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}{yaml_text.line_of(error)}: {yaml_text.problem_of(error)}") from error
    if raw is None:
        raise ConfigError(f"{path}{by}: the file is empty")
    if not isinstance(raw, dict):
        raise ConfigError(
            f"{path}{by}: a config must be a mapping of sections such as data and train, found {shown(raw)}"
        )
    return raw


def _parse_override(text: str) -> Layer:
    source = f"override '{text}'"
    key, equals, value = text.partition("=")
    key = key.strip()
    if not equals or not all(key.split(".")):
        raise ConfigError(f"{source}: expected section.key=value, for example train.lr=0.01")
    if not value.strip():
        raise ConfigError(f"{source}: the value is missing; to unset the key, write {key}=null")
    try:
        return Layer(source, nest(key, yaml_text.read(value)))
    except yaml.YAMLError as error:
        raise ConfigError(f"{source}: the value is not valid YAML: {yaml_text.problem_of(error)}") from error


def _merge_all(layers: Sequence[Layer]) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for layer in layers:
        merged = merge(merged, layer.raw, source=layer.source)
    return merged


def _validate(raw: dict[str, Any], layers: Sequence[Layer], *, given: Set[str]) -> Config:
    try:
        return Config.model_validate(raw, context={GIVEN: given})
    except ValidationError as error:
        raise ConfigError(explain(error, raw, layers)) from None
