"""Every config in configs/ loads, round-trips, fits the JSON Schema and builds its model."""

import json
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from frcnn.config import dump_config, json_schema, load_config, parse_config, to_yaml
from frcnn.files import yaml_text
from frcnn.model.build_detector import build_detector

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
FILES = sorted(CONFIGS.rglob("*.yaml"))
FRAGMENT = ("data.train.format=shapes", "data.val.format=shapes", "train.steps=10")


def load(path):
    """The files in base/ do not set data and length; they are checked with the demo's data."""
    return load_config(path, FRAGMENT if path.parent.name == "base" else ())


def test_there_are_configs():
    assert len(FILES) >= 15


@pytest.fixture(params=FILES, ids=lambda path: str(path.relative_to(CONFIGS)))
def path(request):
    return request.param


def test_loads_and_round_trips(path):
    config = load(path)
    assert parse_config(yaml_text.read(to_yaml(config)), source="resolved") == config
    assert parse_config(json.loads(json.dumps(dump_config(config))), source="dump") == config


def test_first_line_names_the_schema(path):
    prefix, _, relative = path.read_text().splitlines()[0].partition("$schema=")
    assert prefix == "# yaml-language-server: "
    assert (path.parent / relative).resolve() == CONFIGS / "schema.json"


def test_every_key_is_in_the_schema(path):
    _check_keys(yaml_text.read(path.read_text()), json_schema(), json_schema()["$defs"])


def test_builds(path):
    config = load(path)
    if config.model.backbone.name.startswith("timm/") and find_spec("timm") is None:
        pytest.skip("the extra `timm` is not installed")
    with torch.device("meta"):  # shapes without numbers: large models build in a moment
        model = build_detector(
            config.model,
            num_classes=3,
            mean=config.data.mean,
            std=config.data.std,
            pretrained=config.model.backbone.weights is None,
        )
    assert model.roi_head.predictor.classes.out_features == 1 + 3


def test_schema_file_is_up_to_date():
    is_up_to_date = json.loads((CONFIGS / "schema.json").read_text()) == json_schema()
    assert is_up_to_date, "run: frcnn schema --out configs/schema.json"


def _check_keys(value, node, definitions):
    """Walk a file along the schema, as an editor does, and require that every key is described."""
    options = _options(node, definitions)
    if isinstance(value, dict):
        described = {key: child for option in options for key, child in option.get("properties", {}).items()}
        for key, child in value.items():
            assert key in described, f"{key} is not in schema.json"
            _check_keys(child, described[key], definitions)
    elif isinstance(value, list):
        for child in value:
            items = [option["items"] for option in options if "items" in option]
            _check_keys(child, {"anyOf": items}, definitions)


def _options(node, definitions):
    """The alternatives of a schema node, with references resolved."""
    if "$ref" in node:
        return _options(definitions[node["$ref"].rpartition("/")[2]], definitions)
    if "anyOf" in node:
        return [option for choice in node["anyOf"] for option in _options(choice, definitions)]
    return [node]


@pytest.mark.parametrize(
    ("peer", "empty"), [("torchvision", "drop"), ("mmdetection", "drop"), ("detectron2", "drop_crowd_only")]
)
def test_configs_of_peers_skip_images_without_objects(peer, empty):
    """Each config of a peer sets data.empty, itself or in its base."""
    paths = sorted((CONFIGS / "base").glob(f"{peer}_*.yaml"))
    assert paths
    for path in paths:
        assert load(path).data.empty == empty, path
