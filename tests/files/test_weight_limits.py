"""Weight files that need more memory than their size."""

import io
import pickle
import zipfile

import pytest
import torch

from frcnn.errors import CheckpointError
from frcnn.files import weight_limits
from frcnn.files.checkpoint import load_checkpoint
from frcnn.files.weights import read_weight_file

READERS = [load_checkpoint, read_weight_file]


def save_small(path, content):
    """A torch file with a compressed archive."""
    file = io.BytesIO()
    torch.save(content, file)
    with zipfile.ZipFile(file) as stored, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as small:
        for entry in stored.infolist():
            small.writestr(entry.filename, stored.read(entry))


@pytest.mark.parametrize("read", READERS)
def test_a_zip_bomb_is_not_unpacked(tmp_path, read, monkeypatch):
    monkeypatch.setattr(weight_limits, "UNPACKED_BYTES", 2**20)
    path = tmp_path / "bomb.pt"
    save_small(path, {"weight": torch.zeros(2**20)})
    assert path.stat().st_size < 20_000
    with pytest.raises(CheckpointError, match=r"bomb\.pt: refused: .* unpacks to 4,19\d,\d+, more than 4 times"):
        read(path)


def test_a_compressed_file_of_normal_size_is_read(tmp_path):
    save_small(tmp_path / "small.pt", {"weight": torch.ones(1000)})
    assert read_weight_file(tmp_path / "small.pt")["weight"].sum() == 1000


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("is_zip", [True, False])
def test_a_tensor_larger_than_its_file(tmp_path, read, is_zip):
    path = tmp_path / "large.pt"
    torch.save({"weight": torch.zeros(1).expand(10**9)}, path, _use_new_zipfile_serialization=is_zip)
    with pytest.raises(
        CheckpointError, match=r"large\.pt: (refused: .* holds a tensor of 4,000,000,000|cannot be read)"
    ):
        read(path)


@pytest.mark.parametrize("read", READERS)
def test_a_shape_larger_than_its_storage(tmp_path, read):
    """torch would enlarge the storage to the shape, with uninitialized memory."""
    file = io.BytesIO()
    torch.save({"weight": torch.zeros(4)}, file)
    path = tmp_path / "grown.pt"
    with zipfile.ZipFile(file) as old, zipfile.ZipFile(path, "w") as new:
        for entry in old.infolist():
            content = old.read(entry)
            if entry.filename.endswith("data.pkl"):
                four, more = b"K\x00K\x04\x85", b"K\x00J\x00\x00\x00\x02\x85"  # offset 0 and the shape
                assert four in content
                content = content.replace(four, more)
            new.writestr(entry.filename, content)
    with pytest.raises(CheckpointError, match=r"grown\.pt: (refused: .* holds a tensor of 134,217,728|cannot be read)"):
        read(path)


def test_a_pickle_with_a_large_memo_table(tmp_path):
    whole = pickle.dumps({"a": 1}, 2)
    path = tmp_path / "table.pkl"
    path.write_bytes(whole[:2] + b"Nr\xff\xff\xff\x7f0" + whole[2:])  # put None at place 2147483647
    with pytest.raises(CheckpointError, match=r"table\.pkl: refused: .* asks for a table of 2147483647 entries"):
        read_weight_file(path)


@pytest.mark.parametrize("value", [torch.zeros(3), [1] * 100, "x" * 1000, 2**70, 0, None, True, 1.5])
def test_invalid_format_number(tmp_path, value):
    torch.save({"format": value}, tmp_path / "odd.pt")
    with pytest.raises(CheckpointError, match=r"odd\.pt: .*format") as caught:
        load_checkpoint(tmp_path / "odd.pt")
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"class_names": ["cat", 5]}, "a class name is not a string"),
        ({"category_ids": [1, "x"]}, "a category id is not an integer"),
    ],
)
def test_names_and_ids_of_another_type(tmp_path, change, message):
    whole = {"format": 1, "model": {}, "config": {}, "class_names": ["a", "b"], "category_ids": [1, 2], "step": 1}
    torch.save({**whole, **change}, tmp_path / "odd.pt")
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(tmp_path / "odd.pt")
