"""Properties of merging, overrides and the round trip through YAML."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from frcnn.config import load_config, parse_config
from frcnn.config.dump import to_yaml
from frcnn.config.merge import merge
from frcnn.files import yaml_text
from tests.training.experiments import tiny_settings

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63),
    st.floats(allow_nan=False),
    st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), max_size=20),
)
KEYS = st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), max_size=10)
TREES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)


@given(TREES)
def test_yaml(tree):
    assert yaml_text.read(yaml_text.write(tree)) == tree


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    path = tmp_path_factory.mktemp("configs") / "base.yaml"
    path.write_text(yaml_text.write(tiny_settings()))
    return path


VALUES = {
    "train.lr": st.floats(1e-9, 1, exclude_min=True),
    "train.steps": st.integers(1, 10**9),
    "data.flip": st.floats(0, 1),
    "data.classes": st.lists(st.text(st.characters(codec="utf-8", exclude_categories=["Cc"])), max_size=4) | st.none(),
    "data.train.seed": st.integers(0, 2**62),
    "model.backbone.norm": st.sampled_from(["bn", "frozen_bn"]),
}


@settings(max_examples=20)  # each loads three configs
@given(st.fixed_dictionaries({}, optional=VALUES))
def test_overrides_and_the_written_config(base, values):
    """Overrides change only their keys, and the config survives a round trip through YAML."""
    overrides = [f"{key}={yaml_text.write({'': value}).partition(':')[2]}" for key, value in values.items()]
    config = load_config(base, overrides)
    expected = tiny_settings()
    for key, value in values.items():
        *sections, last = key.split(".")
        section = expected
        for name in sections:
            section = section[name]
        section[last] = value
    assert config == parse_config(expected, source="test")
    again = base.with_name("again.yaml")
    again.write_text(to_yaml(config), encoding="utf-8")
    assert load_config(again) == config


MAPPINGS = st.dictionaries(st.sampled_from("abc"), TREES, max_size=3)


@given(MAPPINGS, MAPPINGS)
def test_merging(below, above):
    assert merge(below, {}, source="test") == below and merge({}, above, source="test") == above
    if not any(isinstance(below.get(key), list) and isinstance(above[key], dict) for key in above):
        merged = merge(below, above, source="test")
        assert merged.keys() == below.keys() | above.keys()
        assert merge(merged, above, source="test") == merged or any(isinstance(each, dict) for each in above.values())
