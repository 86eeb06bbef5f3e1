"""Reading and writing of YAML: numbers, booleans, duplicate keys, round trips."""

import math

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from frcnn.files import yaml_text

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters(codec="utf-8"))
plain = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abcé1.", min_size=1), inner, max_size=3),
)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1E5", 1e5),
        ("-1.5e3", -1500.0),
        (".5", 0.5),
        ("5.", 5.0),
        ("12_000", 12000),
        ("007", 7),
        ("-.inf", -math.inf),
        ("true", True),
        ("~", None),
        ("yes", "yes"),
        ("off", "off"),
        ("1:30", "1:30"),
        ("2007-01-01", "2007-01-01"),
        ("1.2.3", "1.2.3"),
        (".", "."),
        ("-", "-"),
        ("'1e-3'", "1e-3"),
        ("e5", "e5"),
    ],
)
def test_scalars_have_the_types_of_yaml_1_2(text, value):
    read = yaml_text.read(f"[{text}]")
    assert read == [value] and type(read[0]) is type(value)


@settings(deadline=None)
@given(plain)
def test_round_trip(value):
    assert yaml_text.read(yaml_text.write({"key": value})) == {"key": value}


@pytest.mark.parametrize("text", ["yes", "off", "1e-3", "1:30", "2007-01-01", "null", "0x1f", "", "1_0", "<<", "="])
def test_strings_stay_strings_in_plain_yaml_readers(text):
    assert yaml.safe_load(yaml_text.write([text])) == [text]


@pytest.mark.parametrize("text", ["a: 1\nb: 2\na: 3", "x: {a: 1, a: 1}", "'a': 1\na: 2"])
def test_a_duplicate_key_is_an_error(text):
    with pytest.raises(yaml.YAMLError, match="duplicate key 'a', first on line 1"):
        yaml_text.read(text)


def test_merge_keys_are_not_duplicates():
    assert yaml_text.read("a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}")["b"] == {"x": 1, "y": 3}


def test_python_objects_are_refused():
    with pytest.raises(yaml.YAMLError):
        yaml_text.read("!!python/object/apply:os.getcwd []")
