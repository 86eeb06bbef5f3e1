"""YAML as configs use it: the safe subset of PyYAML with the scalars people expect.

PyYAML follows YAML 1.1, where `1e-3` is a string, `yes` and `off` are booleans, `1:30` is ninety and a date is an
object. Here, as in YAML 1.2, only true/false are booleans and every number a Python programmer would write is a
number. A key that stands twice in one mapping is an error: YAML forbids it, and PyYAML keeps the last in silence.
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
    """SafeLoader with the scalars above that refuses repeated keys, and values without measure."""

    yaml_implicit_resolvers: dict = {}

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.depth = 0
        self.count = 0
        self.sizes: dict[int, int] = {}

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node:
        """Count what an alias stands for at each of its places, where whoever walks through the values meets it."""
        event, before = self.peek_event(), self.count
        self.depth += 1
        if self.depth > CONFIG_DEPTH:
            raise _error(f"it is nested more than {CONFIG_DEPTH} deep", event)
        node: Any = super().compose_node(parent, index)
        if isinstance(event, yaml.AliasEvent):
            if id(node) not in self.sizes:
                raise _error(f"the alias {event.anchor!r} stands inside what it names", event)
            self.count += self.sizes[id(node)]
        else:
            self.count += 1 + (len(node.value) // 100 if isinstance(node, yaml.ScalarNode) else 0)
            self.sizes[id(node)] = self.count - before
        if self.count > CONFIG_NODES:
            raise _error(f"it stands for more than {CONFIG_NODES} values, aliases counted as what they name", event)
        self.depth -= 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen: dict[str, yaml.Node] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    first = seen[key.value].start_mark.line + 1
                    raise yaml.MarkedYAMLError(
                        problem=f"the key {key.value!r} stands twice, first on line {first}",
                        problem_mark=key.start_mark,
                    )
                seen[key.value] = key
        return super().construct_mapping(node, deep)

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        text = self.construct_scalar(node)
        if len(text) > CONFIG_DIGITS:
            raise _error(f"a whole number of {len(text)} characters", node)
        return int(text, 16 if text.startswith("0x") else 10)


class _Dumper(yaml.SafeDumper):
    """SafeDumper that quotes what either YAML version would misread, and writes short lists on one line."""

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
        yaml.YAMLError: the text is no YAML, a key stands twice in one mapping, or it is too deep or long (`limits`).

    >>> read("{lr: 1e-3, steps: 090, classes: [yes, no], weights: null}")
    {'lr': 0.001, 'steps': 90, 'classes': ['yes', 'no'], 'weights': None}
    """
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader
    except yaml.YAMLError:
        raise
    except (ValueError, LookupError, TypeError, AttributeError) as error:  # of tags: `!!int x`, `!!bool maybe`
        raise yaml.YAMLError(f"a value does not fit its tag: {error}") from error


def _error(problem: str, place: yaml.Event | yaml.Node) -> yaml.YAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=place.start_mark)


def write(value: object) -> str:
    """YAML text that `read` turns back into `value`: plain dicts, lists and scalars.

    >>> print(write({"rpn": {"sizes": [[32.0], [64.0]], "name": "1e-3"}}), end="")
    rpn:
      sizes: [[32.0], [64.0]]
      name: '1e-3'
    """
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120, default_flow_style=False)
