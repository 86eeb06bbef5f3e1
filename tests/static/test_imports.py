"""Who imports whom: the rooms of the package keep to the directions of the design."""

import ast
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODULES = sorted((ROOT / "frcnn").rglob("*.py"))

# What a module may import of this package, by the longest prefix of its name. A room may always import itself.
EVERYTHING = ("frcnn",)
MAY_IMPORT: dict[str, tuple[str, ...]] = {
    "frcnn": ("frcnn.inference",),  # load, on first use
    "frcnn.errors": (),
    "frcnn.structures": (),
    "frcnn.annotations": (),
    "frcnn.files.limits": ("frcnn.errors",),
    "frcnn.files.reading": ("frcnn.errors", "frcnn.files.limits"),
    "frcnn.files.writing": ("frcnn.errors",),
    "frcnn.ops": ("frcnn.structures",),
    "frcnn.config": ("frcnn.errors", "frcnn.files.limits", "frcnn.files.reading"),
    "frcnn.model": ("frcnn.structures", "frcnn.ops", "frcnn.errors", "frcnn.files.weights"),
    "frcnn.data": (
        "frcnn.structures",
        "frcnn.annotations",
        "frcnn.errors",
        "frcnn.files.limits",
        "frcnn.files.reading",
        "frcnn.ops.boxes",
    ),
    "frcnn.evaluation": (
        "frcnn.structures",
        "frcnn.annotations",
        "frcnn.errors",
        "frcnn.files.limits",
        "frcnn.files.reading",
        "frcnn.files.writing",
        "frcnn.ops.boxes",
    ),
    "frcnn.files.checkpoint": (
        "frcnn.errors",
        "frcnn.files.writing",
        "frcnn.files.weight_limits",
        "frcnn.files.reading",
    ),
    "frcnn.files.weight_limits": ("frcnn.errors", "frcnn.files.limits"),
    "frcnn.files.weights": ("frcnn.errors", "frcnn.files.weight_limits"),
    "frcnn.convert": (
        "frcnn.errors",
        "frcnn.files.checkpoint",
        "frcnn.files.weights",
        "frcnn.config",
        "frcnn.model.build_detector",
        "frcnn.model.backbone.pretrained",
    ),
    "frcnn.check": (
        "frcnn.errors",
        "frcnn.data",
        "frcnn.ops.boxes",
        "frcnn.model.rpn.anchors",
        "frcnn.model.build_detector",
        "frcnn.config",
    ),
    "frcnn.inference": (
        "frcnn.structures",
        "frcnn.annotations",
        "frcnn.errors",
        "frcnn.files.writing",
        "frcnn.ops",
        "frcnn.model",
        "frcnn.data",
        "frcnn.evaluation",
        "frcnn.files.checkpoint",
        "frcnn.config",
    ),
    "frcnn.training": (
        "frcnn.structures",
        "frcnn.annotations",
        "frcnn.errors",
        "frcnn.files.writing",
        "frcnn.ops",
        "frcnn.model",
        "frcnn.data",
        "frcnn.evaluation",
        "frcnn.inference",
        "frcnn.files.checkpoint",
        "frcnn.files.weights",
        "frcnn.config",
    ),
    "benchmarks": (
        "frcnn.structures",
        "frcnn.annotations",
        "frcnn.errors",
        "frcnn.model",
        "frcnn.data",
        "frcnn.evaluation",
        "frcnn.inference",
        "frcnn.training.optimizer",
        "frcnn.draw.curves",
        "frcnn.convert.conversion",
        "frcnn.convert.from_detectron2",
        "frcnn.convert.to_torchvision",
        "frcnn.config",
    ),
    "frcnn.analyze": (
        "frcnn.structures",
        "frcnn.model",
        "frcnn.analyze.build_scene",
        "frcnn.analyze.scene",
        "frcnn.analyze.stages",
        "frcnn.config",
    ),
    "frcnn.cli": EVERYTHING,
}
# Rooms below the builders: `config` is read in these modules only, and in inference/ and cli/.
READS_CONFIG = r"frcnn\.\w+\.build|frcnn\.benchmark\.build_\w+|frcnn\.train\.\w+|frcnn\.(config|inference|cli)(\.\w+)*"
# Third-party packages of the rooms that promise to need few.
THIRD_PARTY = {
    "frcnn.structures": {"torch", "torchvision"},
    "frcnn.ops": {"torch", "torchvision"},
    "frcnn.ops.nms_triton": {"torch", "triton"},
    "frcnn.errors": set(),
    "frcnn.annotations": {"numpy"},
    "frcnn.files.weights": {"numpy", "torch", "safetensors"},
    "frcnn.convert": {"torch"},
    "frcnn.config": {"pydantic", "yaml", "typing_extensions"},
}


def name_of(path):
    """Dotted name of a module of the package."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(path):
    """Dotted names a file imports, inside functions too; `from a import b` counts as a.b where that is a module."""
    tree = ast.parse(path.read_text())
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {
                inner if _is_module(inner := f"{node.module}.{alias.name}") else node.module for alias in node.names
            }
    return found


def _is_module(name):
    path = ROOT.joinpath(*name.split("."))
    return path.is_dir() or path.with_suffix(".py").is_file()


def _within(name, room):
    return name == room or name.startswith(f"{room}.")


def _rule(rules, name):
    """Key of the rule for a module: its longest prefix."""
    return max((room for room in rules if _within(name, room)), key=len, default=None)


@pytest.fixture(params=MODULES, ids=name_of)
def module(request):
    return request.param


def test_directions(module):
    name = name_of(module)
    room = _rule(MAY_IMPORT, name)
    assert room != "frcnn" or name == "frcnn", f"{name} belongs to no known room; say in MAY_IMPORT what it may import"
    for imported in imports_of(module):
        if imported.startswith("frcnn.") and not (room != "frcnn" and _within(imported, room)):
            assert any(_within(imported, allowed) for allowed in MAY_IMPORT[room]) or (
                _within(imported, "frcnn.config") and re.fullmatch(READS_CONFIG, name)
            ), f"{name} may not import {imported}"


def test_config_is_read_only_where_things_are_built(module):
    name = name_of(module)
    if any(_within(imported, "frcnn.config") for imported in imports_of(module)):
        assert re.fullmatch(READS_CONFIG, name), f"{name} reads the config; give it explicit arguments instead"


@pytest.mark.parametrize("module", [path for path in MODULES if _rule(THIRD_PARTY, name_of(path))], ids=name_of)
def test_third_party_packages(module):
    tops = {imported.partition(".")[0] for imported in imports_of(module)}
    assert tops - set(sys.stdlib_module_names) - {"frcnn"} <= THIRD_PARTY[_rule(THIRD_PARTY, name_of(module))]


@pytest.mark.parametrize("folder", ["frcnn", "tests", "tools"])
def test_nothing_imports_the_tools(folder):
    for path in (ROOT / folder).rglob("*.py"):
        assert not any(_within(imported, "tools") for imported in imports_of(path)), path


def test_tools_are_wrappers():
    tools = list((ROOT / "tools").glob("*.py"))
    assert tools
    for path in tools:
        assert imports_of(path) == {f"frcnn.cli.{path.stem}"}, path


@pytest.mark.parametrize("folder", ["frcnn", "tests", "tools"])
def test_no_drawer_for_odds_and_ends(folder):
    names = {path.stem for path in (ROOT / folder).rglob("*") if path.suffix == ".py" or path.is_dir()}
    assert not names & {"utils", "util", "misc", "common", "helpers", "helper"}


def test_the_check_sees_imports_inside_functions_and_of_submodules(tmp_path):
    path = tmp_path / "module.py"
    path.write_text(
        "from frcnn import config\n\ndef f():\n    import frcnn.model.build_detector\n    from frcnn.ops import nms\n"
    )
    assert imports_of(path) == {"frcnn.config", "frcnn.model.build_detector", "frcnn.ops.nms"}
