"""Reading and writing of YAML: the safe subset of PyYAML with the scalars of YAML 1.2.

PyYAML follows YAML 1.1, in which `1e-3` is a string, `yes` and `off` are booleans, `1:30` is 90 and a date is an
object. Here only true and false are booleans, and all numbers of Python's notation are numbers. A duplicate key in a
mapping is an error, as YAML requires; PyYAML would silently keep the last one.
"""

import re
from typing import Any

import yaml

from frcnn.files.limits import CONFIG_DEPTH, CONFIG_DIGITS, CONFIG_NODES

_SCALARS = {
    "tag:yaml.org,2002:null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    "tag:yaml.org,2002:bool": (r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    "tag:yaml.org,2002:int": (r"[-+]?[0-9]+(_[0-9]+)*|0x[0-9a-fA-F]+", list("-+0123456789")),
    "tag:yaml.org,2002:float": (
        r"[-+]?([0-9][0-9_]*\.[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+"
        r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        list("-+0123456789."),
    ),
    "tag:yaml.org,2002:merge": (r"<<", ["<"]),
}


class _Loader(yaml.SafeLoader):
    """SafeLoader with the scalars above, which refuses duplicate keys and enforces limits on size and depth."""

    yaml_implicit_resolvers: dict = {}

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.depth = 0
        self.count = 0
        self.sizes: dict[int, int] = {}

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node:
        """Enforce the limits. Each use of an alias counts as many values as the aliased node, as for a reader."""
        event, before = self.peek_event(), self.count
        self.depth += 1
        if self.depth > CONFIG_DEPTH:
            raise _error(f"nesting is deeper than {CONFIG_DEPTH} levels", event)
        node: Any = super().compose_node(parent, index)
        if isinstance(event, yaml.AliasEvent):
            if id(node) not in self.sizes:
                raise _error(f"the alias {event.anchor!r} refers to a value that contains it", event)
            self.count += self.sizes[id(node)]
        else:
            self.count += 1 + (len(node.value) // 100 if isinstance(node, yaml.ScalarNode) else 0)
            self.sizes[id(node)] = self.count - before
        if self.count > CONFIG_NODES:
            raise _error(f"more than {CONFIG_NODES} values after expansion of aliases", event)
        self.depth -= 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen: dict[str, yaml.Node] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    first = seen[key.value].start_mark.line + 1
                    raise yaml.MarkedYAMLError(
                        problem=f"duplicate key {key.value!r}, first on line {first}",
                        problem_mark=key.start_mark,
                    )
                seen[key.value] = key
        return super().construct_mapping(node, deep)

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        text = self.construct_scalar(node)
        if len(text) > CONFIG_DIGITS:
            raise _error(f"an integer with {len(text)} characters, more than the limit of {CONFIG_DIGITS}", node)
        return int(text, 16 if text.startswith("0x") else 10)


class _Dumper(yaml.SafeDumper):
    """SafeDumper that quotes strings which YAML 1.1 or 1.2 would misread and writes lists of scalars on one line."""

    yaml_implicit_resolvers: dict = {key: list(rules) for key, rules in yaml.SafeDumper.yaml_implicit_resolvers.items()}

    def represent_list(self, data: list) -> yaml.SequenceNode:
        flow = not any(isinstance(item, dict) for item in data)
        return self.represent_sequence("tag:yaml.org,2002:seq", data, flow_style=flow)

    def ignore_aliases(self, data: object) -> bool:
        return True


for _tag, (_pattern, _first) in _SCALARS.items():
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(_tag, re.compile(rf"(?:{_pattern})$"), _first)
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)
_Dumper.add_representer(list, _Dumper.represent_list)


def read(text: str) -> object:
    """Parse one YAML document.

    Raises:
        yaml.YAMLError: invalid YAML, a duplicate key in a mapping, or a limit of `frcnn.files.limits` is exceeded.

    >>> read("{lr: 1e-3, steps: 090, classes: [yes, no], weights: null}")
    {'lr': 0.001, 'steps': 90, 'classes': ['yes', 'no'], 'weights': None}
    """
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader
    except yaml.YAMLError:
        raise
    except (ValueError, LookupError, TypeError, AttributeError) as error:  # from tags such as `!!int x`
        raise yaml.YAMLError(f"a value does not match its tag: {error}") from error


def line_of(error: yaml.YAMLError) -> str:
    """The line of an error as the end of a file name in a message, such as ", line 3"; empty if it is unknown."""
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    return f", line {mark.line + 1}" if mark else ""


def problem_of(error: yaml.YAMLError) -> str:
    """One line that says what is wrong."""
    parts = [getattr(error, "context", None), getattr(error, "problem", None)]
    return ", ".join(part for part in parts if part) or str(error).splitlines()[0]


def _error(problem: str, place: yaml.Event | yaml.Node) -> yaml.YAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=place.start_mark)


def write(value: object) -> str:
    """YAML text that `read` converts back to `value`, made of plain dicts, lists and scalars.

    >>> print(write({"rpn": {"sizes": [[32.0], [64.0]], "name": "1e-3"}}), end="")
    rpn:
      sizes: [[32.0], [64.0]]
      name: '1e-3'
    """
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120, default_flow_style=False)
