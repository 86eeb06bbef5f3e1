"""The subpackages import each other only in the directions of the design."""

import ast
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODULES = sorted([*(ROOT / "frcnn").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")])

# Subpackages by layer, lowest first. A subpackage may import itself and the names in its entry, all of lower layers.
EVERYTHING = ("frcnn",)
LAYERS: list[dict[str, tuple[str, ...]]] = [
    {"frcnn.errors": (), "frcnn.structures": (), "frcnn.annotations": (), "frcnn.version": ()},
    {"frcnn.files": ("frcnn.errors",), "frcnn.ops": ("frcnn.structures",)},
    {"frcnn.config": ("frcnn.errors", "frcnn.files")},
    {
        "frcnn.data": ("frcnn.structures", "frcnn.annotations", "frcnn.errors", "frcnn.files", "frcnn.ops.boxes"),
        "frcnn.evaluation": ("frcnn.structures", "frcnn.annotations", "frcnn.errors", "frcnn.ops.boxes"),
        "frcnn.model": ("frcnn.structures", "frcnn.ops", "frcnn.errors", "frcnn.files"),
    },
    {
        "frcnn.draw": ("frcnn.annotations", "frcnn.errors", "frcnn.evaluation"),
        "frcnn.convert": ("frcnn.version", "frcnn.errors", "frcnn.files", "frcnn.config", "frcnn.model"),
        "frcnn.analyze": ("frcnn.structures", "frcnn.errors", "frcnn.config", "frcnn.data", "frcnn.model"),
    },
    {
        "frcnn.check": (
            "frcnn.annotations",
            "frcnn.errors",
            "frcnn.files",
            "frcnn.config",
            "frcnn.data",
            "frcnn.draw",
            "frcnn.model.rpn.anchors",
            "frcnn.model.build_detector",
            "frcnn.ops.boxes",
        ),
        "frcnn.inference": (
            "frcnn.structures",
            "frcnn.annotations",
            "frcnn.errors",
            "frcnn.files",
            "frcnn.ops",
            "frcnn.config",
            "frcnn.data",
            "frcnn.model",
            "frcnn.evaluation",
            "frcnn.draw",
        ),
    },
    {
        "frcnn.training": (
            "frcnn.version",
            "frcnn.structures",
            "frcnn.annotations",
            "frcnn.errors",
            "frcnn.files",
            "frcnn.ops",
            "frcnn.config",
            "frcnn.data",
            "frcnn.model",
            "frcnn.evaluation",
            "frcnn.draw",
            "frcnn.inference",
        ),
    },
    {"frcnn.runs": EVERYTHING},
    {
        "frcnn.cli": EVERYTHING,
        "frcnn": ("frcnn.version", "frcnn.inference", "frcnn.runs"),
    },  # the Python API, imported on first use
    {"benchmarks": (*EVERYTHING, "benchmarks")},
]
MAY_IMPORT = {package: allowed for layer in LAYERS for package, allowed in layer.items()}
# Only these modules read `config`: those that build objects, and the subpackages that run them.
READS_CONFIG = (
    r"frcnn\.\w+\.build_\w+|frcnn\.analyze\.analyze|frcnn\.(config|inference|training|runs|cli)(\.\w+)*|benchmarks\.\w+"
)
# Allowed third-party packages of the subpackages that need only a few.
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
    """Dotted names a file imports, inside functions too; `from a import b` counts as a.b if that is a module."""
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


def _within(name, package):
    return name == package or name.startswith(f"{package}.")


def _rule(rules, name):
    """Key of the rule for a module: its longest prefix."""
    return max((package for package in rules if _within(name, package)), key=len, default=None)


@pytest.fixture(params=MODULES, ids=name_of)
def module(request):
    return request.param


def test_directions(module):
    name = name_of(module)
    package = _rule(MAY_IMPORT, name)
    assert package is not None and (package != "frcnn" or name == "frcnn"), f"{name} is not part of any entry of LAYERS"
    for imported in imports_of(module):
        if imported.partition(".")[0] not in ("frcnn", "benchmarks") or (
            package != "frcnn" and _within(imported, package)
        ):
            continue
        allowed = [each for each in MAY_IMPORT[package] if each != "frcnn" or MAY_IMPORT[package] is EVERYTHING]
        if package == "benchmarks" or (_within(imported, "frcnn.config") and re.fullmatch(READS_CONFIG, name)):
            continue
        assert any(_within(imported, each) for each in allowed), f"{name} may not import {imported}"


def test_no_package_imports_a_higher_one():
    layer_of = {package: number for number, layer in enumerate(LAYERS) for package in layer}
    for path in MODULES:
        package = _rule(MAY_IMPORT, name_of(path))
        for imported in imports_of(path):
            other = _rule(MAY_IMPORT, imported)
            if other not in (None, package):
                assert layer_of[other] < layer_of[package], (
                    f"{name_of(path)} (layer {layer_of[package]}) imports {imported} (layer {layer_of[other]})"
                )


def test_no_cycles():
    """Modules import each other in one direction only, imports inside functions included."""
    edges = {name_of(path): imports_of(path) for path in MODULES}
    done: set[str] = set()

    def visit(name: str, chain: tuple[str, ...]) -> None:
        assert name not in chain, f"import cycle: {' -> '.join([*chain[chain.index(name) :], name])}"
        if name in done:
            return
        for imported in sorted(edges.get(name, ())):
            if imported in edges and imported != name:
                visit(imported, (*chain, name))
        done.add(name)

    for name in edges:
        visit(name, ())


def test_file_names_are_unique():
    """A file name has one meaning. Names of data formats, metrics and commands may repeat if they mean the same."""
    allowed = {
        "__init__",
        "coco",
        "voc",
        "lvis",
        "anchors",
        "boxes",
        "targets",
        "train",
        "evaluate",
        "predict",
        "main",
    } | {path.stem for path in (ROOT / "tools").glob("*.py")}
    seen: dict[str, Path] = {}
    for path in (path for path in MODULES if path.is_relative_to(ROOT / "frcnn") and "schema" not in path.parts):
        if path.stem not in allowed:
            assert path.stem not in seen, f"{path} and {seen[path.stem]} have one name"
            seen[path.stem] = path


def test_config_is_read_only_where_things_are_built(module):
    name = name_of(module)
    if any(_within(imported, "frcnn.config") for imported in imports_of(module)):
        assert re.fullmatch(READS_CONFIG, name), f"{name} reads the config; give it explicit arguments instead"


@pytest.mark.parametrize("module", [path for path in MODULES if _rule(THIRD_PARTY, name_of(path))], ids=name_of)
def test_third_party_packages(module):
    tops = {imported.partition(".")[0] for imported in imports_of(module)}
    assert tops - set(sys.stdlib_module_names) - {"frcnn"} <= THIRD_PARTY[_rule(THIRD_PARTY, name_of(module))]


@pytest.mark.parametrize("folder", ["frcnn", "benchmarks", "tests", "tools"])
def test_nothing_imports_the_tools(folder):
    for path in (ROOT / folder).rglob("*.py"):
        assert not any(_within(imported, "tools") for imported in imports_of(path)), path


def test_tools_are_wrappers():
    tools = {path.stem: path for path in (ROOT / "tools").glob("*.py")}
    assert tools
    for name, path in tools.items():
        command = {"benchmark": {"benchmarks.main", "sys", "pathlib"}}.get(name, {f"frcnn.cli.{name}"})
        assert imports_of(path) == command, path


@pytest.mark.parametrize("folder", ["frcnn", "benchmarks", "tests", "tools"])
def test_no_modules_for_miscellaneous_helpers(folder):
    names = {path.stem for path in (ROOT / folder).rglob("*") if path.suffix == ".py" or path.is_dir()}
    assert not names & {"utils", "util", "misc", "common", "helpers", "helper"}


def test_the_check_sees_imports_inside_functions_and_of_submodules(tmp_path):
    path = tmp_path / "module.py"
    path.write_text(
        "from frcnn import config\n\ndef f():\n    import frcnn.model.build_detector\n    from frcnn.ops import nms\n"
    )
    assert imports_of(path) == {"frcnn.config", "frcnn.model.build_detector", "frcnn.ops.nms"}
