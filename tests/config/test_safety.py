"""Malicious configs."""

import time

import pytest

from frcnn.config import load_config
from frcnn.errors import ConfigError

BOMB = "a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 9)
)
MERGE_BOMB = "a0: &a0 {x: 1}\n" + "".join(
    f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 10)}]}}\n" for n in range(1, 9)
)


def refuse(tmp_path, text, message):
    path = tmp_path / "config.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    start = time.monotonic()
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(path)
    assert "config.yaml" in str(caught.value) and len(str(caught.value)) < 2000
    assert time.monotonic() - start < 20


@pytest.mark.parametrize("text", [BOMB, MERGE_BOMB, f"a: &a '{'x' * 100_000}'\nb: [{', '.join(['*a'] * 1000)}]"])
def test_aliases_of_aliases(tmp_path, text):
    refuse(tmp_path, text, "config.yaml, line [2-9]: more than 100000 values after expansion")


@pytest.mark.parametrize("text", ["data: &a [*a]", "data: &a {b: *a}", "&a {data: {train: *a}}"])
def test_recursive_aliases(tmp_path, text):
    refuse(tmp_path, text, "line 1: the alias 'a' refers to a value that contains it")


@pytest.mark.parametrize("text", ["[" * 5000, "a: " + "[" * 200 + "]" * 200, "{a: " * 5000, "- " * 5000, "? " * 5000])
def test_deep_nesting(tmp_path, text):
    refuse(tmp_path, text, "line 1: nesting is deeper than 50 levels")


@pytest.mark.parametrize(
    "tag",
    ["!!python/object/apply:os.system ['true']", "!!python/name:os.system", "!!python/module:os", "!local {a: 1}"],
)
def test_tags_do_not_create_objects(tmp_path, tag):
    refuse(tmp_path, f"data: {tag}", "could not determine a constructor for the tag")


@pytest.mark.parametrize(
    "value", ["!!int x", "!!int ''", "!!float x", "!!bool maybe", "!!timestamp 2001-99-99", "!!timestamp x", "!!set x"]
)
def test_values_that_do_not_match_their_tag(tmp_path, value):
    refuse(tmp_path, f"data: {value}", "config.yaml")


@pytest.mark.parametrize("number", ["9" * 5000, "0x" + "f" * 5000, "-" + "1" * 1000])
def test_long_integers(tmp_path, number):
    refuse(tmp_path, f"train: {{steps: {number}}}", r"line 1: an integer with \d+ characters")


def test_large_files_are_refused(tmp_path):
    refuse(
        tmp_path, b"#" * (2**20 + 1), "has 1,048,577 bytes, more than the limit of 1,048,576.*FRCNN_MAX_CONFIG_BYTES"
    )


@pytest.mark.parametrize("base", ['"a\\0b"', "loop.yaml", "/", "base.yaml/x"])
def test_a_base_that_cannot_be_read(tmp_path, base):
    (tmp_path / "loop.yaml").symlink_to(tmp_path / "loop.yaml")
    (tmp_path / "base.yaml").write_text("train: {lr: 1}")
    refuse(tmp_path, f"base: {base}", "cannot be read|no such file")


def test_a_long_chain_of_bases(tmp_path):
    for number in range(50):
        (tmp_path / f"{number}.yaml").write_text(f"base: {number + 1}.yaml")
    with pytest.raises(ConfigError, match=r"0\.yaml: more than 30 bases, the last one is .*30\.yaml"):
        load_config(tmp_path / "0.yaml")


def test_small_aliases_are_allowed(tmp_path):
    (tmp_path / "config.yaml").write_text("data:\n  train: &a {format: shapes}\n  val: *a\n")
    assert load_config(tmp_path / "config.yaml").data.val.format == "shapes"
