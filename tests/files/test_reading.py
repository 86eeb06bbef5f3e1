"""Limits and folders of files from untrusted sources, see docs/safety.md."""

import os

import pytest

from frcnn.errors import ConfigError, DataError
from frcnn.files.limits import JSON_BYTES, LIST_BYTES
from frcnn.files.reading import path_inside, read_bytes, read_json, read_text, shown


def test_a_file_above_the_limit_is_not_read(tmp_path, monkeypatch):
    path = tmp_path / "found.json"
    path.write_text("[1, 2]")
    monkeypatch.setenv("FRCNN_MAX_JSON_BYTES", "5")
    with pytest.raises(DataError, match=r"found\.json: has 6 bytes, more than the limit of 5.* FRCNN_MAX_JSON_BYTES=6"):
        read_json(path)
    monkeypatch.setenv("FRCNN_MAX_JSON_BYTES", "6")
    assert read_json(path) == [1, 2]


def test_the_size_is_checked_before_the_file_is_read(tmp_path):
    path = tmp_path / "huge.json"
    with path.open("wb") as file:
        file.truncate(JSON_BYTES.default + 1)  # sparse: needs no disk space
    with pytest.raises(DataError, match="more than the limit of 1,610,612,736"):
        read_json(path)


@pytest.mark.parametrize("text", ["x", "0", "-5", "nan", "inf"])
def test_a_limit_is_a_number(tmp_path, monkeypatch, text):
    (tmp_path / "list.txt").write_text("a")
    monkeypatch.setenv("FRCNN_MAX_LIST_BYTES", text)
    with pytest.raises(ConfigError, match=f"FRCNN_MAX_LIST_BYTES is '{text}', expected a number of bytes"):
        read_text(tmp_path / "list.txt", LIST_BYTES, error=DataError)
    monkeypatch.setenv("FRCNN_MAX_LIST_BYTES", "1e3")
    assert LIST_BYTES.value() == 1000


def test_pipes_and_devices_are_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", os.devnull):
        with pytest.raises(OSError, match="not a regular file"):
            read_bytes(type(tmp_path)(path), LIST_BYTES, error=DataError)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "[1, 2", "9" * 5000, "", "\x00", '"\udcff"'])
def test_invalid_or_deeply_nested_json(tmp_path, text):
    path = tmp_path / "found.json"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(DataError, match=r"found\.json: not a JSON file"):
        read_json(path)


@pytest.mark.parametrize("name", ["a.jpg", "sub/a.jpg", "sub/../a.jpg", "./a.jpg", "..a.jpg", "a..jpg", "..."])
def test_names_inside_a_folder(tmp_path, name):
    assert path_inside(tmp_path, name) == tmp_path / name


@pytest.mark.parametrize("name", ["/etc/passwd", "../a.jpg", "sub/../../a.jpg", "..", "//a", "./../a.jpg"])
def test_names_outside_a_folder(tmp_path, name):
    assert path_inside(tmp_path, name) is None


def test_links_are_followed(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "a.txt").write_text("there")
    (tmp_path / "images").symlink_to(tmp_path / "disk")
    found = path_inside(tmp_path / "images", "a.txt")
    assert found is not None and found.read_text() == "there"


def test_values_in_messages_are_short():
    deep: list = []
    for _ in range(60):
        deep = [deep, deep]
    assert len(shown(deep)) < 500 and len(shown("x" * 10**6)) < 100 and len(shown(10**5000)) < 100
    assert len(shown({str(n): "y" * 1000 for n in range(1000)})) < 2000
    assert shown([5, 5, 0, 4]) == "[5, 5, 0, 4]"
