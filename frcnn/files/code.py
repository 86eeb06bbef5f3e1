"""Python code that a config names by import path, and the rule that decides whether it may be imported.

Configs travel inside checkpoints, and checkpoints come from strangers. Code is therefore imported only if a config file
or an override that the user passed contains its import path. A path that only a checkpoint contains is refused.
"""

import inspect
import re
from collections.abc import Callable, Mapping, Sequence, Set
from importlib import import_module
from typing import Any

from frcnn.errors import ConfigError

PATTERN = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")
EXAMPLE = "my_package.my_module:my_name"


class ImportPath(str):
    """`package.module:attribute`, and whether the user gave it."""

    is_given: bool

    def __new__(cls, text: str, *, is_given: bool = False) -> "ImportPath":
        path = super().__new__(cls, text)
        path.is_given = is_given
        return path


def texts_in(value: Any) -> set[str]:
    """Every string among the values of nested dicts and lists."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return set[str]().union(*map(texts_in, value))
    return {value} if isinstance(value, str) else set()


def parse_import_path(text: str, *, given: Set[str]) -> ImportPath:
    """An import path of a config.

    Args:
        given: strings in the config files and overrides that the user passed.

    Raises:
        ValueError: the text is not an import path.
    """
    if not PATTERN.fullmatch(text):
        raise ValueError(f"expected an import path such as {EXAMPLE}, found {text!r}")
    return ImportPath(text, is_given=text in given)


def import_code(path: str, *, key: str) -> Callable[..., Any]:
    """Import the callable that a config names.

    Args:
        path: the value of the key.
        key: the config key, for messages.

    Raises:
        ConfigError: the user did not pass the path, the module or the attribute does not exist, or it cannot be called.
            Exceptions that the module itself raises are passed on.
    """
    if not (isinstance(path, ImportPath) and path.is_given):
        raise ConfigError(
            f"{key}: {path} is not imported, because no config file or override that you passed names it. If you "
            f"trust this code, pass the override {key}={path}"
        )
    module_name, _, attribute = path.partition(":")
    try:
        module = import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise  # a module that the user's module imports
        raise ConfigError(
            f"{key}: {path}: there is no module {error.name}; install its package, or add its folder to PYTHONPATH"
        ) from None
    if not hasattr(module, attribute):
        raise ConfigError(f"{key}: {path}: the module has no attribute {attribute} ({module.__file__})")
    code = getattr(module, attribute)
    if not callable(code):
        raise ConfigError(f"{key}: {path}: {attribute} is of type {type(code).__name__}, which cannot be called")
    return code


def check_signature(
    code: Callable[..., Any], args: Sequence[str], arguments: Mapping[str, Any], *, path: str, key: str
) -> None:
    """Raise ConfigError if `code` cannot be called.

    Args:
        args: names of the positional arguments.
        arguments: keyword arguments.
        path: import path of `code`.
        key: the config key, for messages.
    """
    try:
        signature = inspect.signature(code)
    except (TypeError, ValueError):
        return  # callables written in C may have no signature
    try:
        signature.bind(*args, **arguments)
    except TypeError as error:
        call = ", ".join([*args, *(f"{name}=..." for name in arguments)])
        name = path.partition(":")[2]
        raise ConfigError(f"{key}: {path}{signature} cannot be called as {name}({call}): {error}") from None
