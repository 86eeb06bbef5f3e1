"""Reading weight files: every format, damaged files and malicious files."""

import argparse
import codecs
import collections
import io
import os
import pickle
import subprocess
import zipfile

import numpy as np
import pytest
import torch
from torch import nn

from frcnn.errors import CheckpointError
from frcnn.files.weights import Placeholder, find_state_dict, read_weight_file

WRITERS = {
    "zip": lambda content, path: torch.save(content, path),
    "old": lambda content, path: torch.save(content, path, _use_new_zipfile_serialization=False),
    "pkl": lambda content, path: path.write_bytes(pickle.dumps(content)),
}
TORCH_KINDS = ("zip", "old")


@pytest.fixture
def write(tmp_path):
    def write_file(content, kind="zip"):
        path = tmp_path / f"file.{'pkl' if kind == 'pkl' else 'pth'}"
        WRITERS[kind](content, path)
        return path

    return write_file


class Tracker:
    """An object that a training program saves next to its weights."""

    def __init__(self):
        self.history = [1, 2]


class Slotted:
    __slots__ = ("value",)

    def __init__(self):
        self.value = 3


# ----------------------------------------------------------------------------------------------------- readable files


@pytest.mark.parametrize("kind", TORCH_KINDS)
def test_torch_files_with_other_programs_objects(write, kind):
    weight = torch.rand(2, 3)
    content = {
        "model": collections.OrderedDict(weight=weight, half=weight.half(), parameter=nn.Parameter(weight)),
        "args": argparse.Namespace(lr=0.1),
        "tracker": Tracker(),
        "slotted": [Slotted()],
        "counts": collections.defaultdict(list, {"a": [1]}),
        "best": np.float64(0.5),
        "history": np.arange(3),
        "optimizer": torch.optim.SGD([weight], lr=0.1).state_dict(),
        "classes": ("a", "b"),
    }
    path = write(content, kind)
    trusted = set(torch.serialization.get_safe_globals())
    read = read_weight_file(path)
    assert torch.equal(read["model"]["weight"], weight) and read["model"]["half"].dtype == torch.float16
    assert isinstance(read["args"], Placeholder) and read["args"].class_name == "argparse.Namespace"
    assert isinstance(read["tracker"], Placeholder) and not hasattr(read["tracker"], "history")
    assert isinstance(read["slotted"][0], Placeholder)
    assert read["counts"] == {"a": [1]} and read["best"] == 0.5 and read["classes"] == ("a", "b")
    assert read["history"].tolist() == [0, 1, 2]
    assert set(find_state_dict(read, source="x")) == {"weight", "half", "parameter"}
    assert set(torch.serialization.get_safe_globals()) == trusted


def test_torch_files_on_another_device(write, monkeypatch):
    """A tensor saved from a GPU that this machine does not have; its pickle names the device."""
    path = write({"weight": torch.ones(3)}, "old")
    path.write_bytes(path.read_bytes().replace(b"X\x03\x00\x00\x00cpu", b"X\x06\x00\x00\x00cuda:0"))
    assert read_weight_file(path)["weight"].tolist() == [1, 1, 1]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_detectron2_files(tmp_path, protocol):
    arrays = {
        "float": np.linspace(0, 1, 6, dtype=np.float32).reshape(2, 3),
        "fortran": np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3)),
        "big_endian": np.arange(3, dtype=">f4"),
        "int": np.arange(4),
        "empty": np.zeros((0, 3), np.float32),
        "scalar": np.array(7, np.int64),
        "bool": np.array([True, False]),
    }
    path = tmp_path / "model_final.pkl"
    path.write_bytes(
        pickle.dumps({"model": arrays, "__author__": "Detectron2 Model Zoo", "n": np.float32(2)}, protocol)
    )
    read = read_weight_file(path)
    assert read["__author__"] == "Detectron2 Model Zoo" and read["n"] == 2
    for name, array in arrays.items():
        assert read["model"][name].numpy().dtype == array.dtype.newbyteorder("=")
        np.testing.assert_array_equal(read["model"][name].numpy(), array)
    read["model"]["float"].add_(1)  # owns its memory


def test_nested_lists(tmp_path):
    """Forty lists, each of which contains the previous one twice: 2**40 references to one array."""
    nested = [np.ones(1)]
    for _ in range(40):
        nested = [nested, nested]
    nested.append(nested)
    (tmp_path / "nested.pkl").write_bytes(pickle.dumps({"model": nested}))
    read = read_weight_file(tmp_path / "nested.pkl")["model"]
    assert read[2] is read and read[0] is read[1]


def test_pickles_of_python_2(tmp_path):
    """Python 2 has no bytes. This is what Python 2.7 and NumPy 1.16 write for np.array([1, 2], "f4") at protocol 2."""
    text = (
        b"\x80\x02}q\x01U\x01wq\x02cnumpy.core.multiarray\n_reconstruct\nq\x03cnumpy\nndarray\nq\x04K\x00\x85U\x01b"
        b"\x87Rq\x05(K\x01K\x02\x85cnumpy\ndtype\nq\x06U\x02f4K\x00K\x01\x87Rq\x07(K\x03U\x01<NNNJ\xff\xff\xff\xffJ"
        b"\xff\xff\xff\xffK\x00tb\x89U\x08\x00\x00\x80?\x00\x00\x00@tbs."
    )
    (tmp_path / "old.pkl").write_bytes(text)
    assert read_weight_file(tmp_path / "old.pkl")["w"].tolist() == [1, 2]


def test_safetensors(tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    safetensors.save_file({"weight": torch.ones(2)}, tmp_path / "file.safetensors")
    assert read_weight_file(tmp_path / "file.safetensors")["weight"].tolist() == [1, 1]


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"model": s}, lambda s: {"state_dict": s, "epoch": 1}])
def test_location_of_the_state_dict(wrap):
    state = {"weight": torch.ones(1), "note": "no tensor"}
    assert list(find_state_dict(wrap(state), source="x")) == ["weight"]
    for nothing in ({}, [torch.ones(1)], None, torch.ones(1)):
        assert find_state_dict(nothing, source="x") == {}


@pytest.mark.parametrize("wrap", [lambda model: model, lambda model: {"model": model}])
def test_a_pickled_model(write, wrap):
    content = read_weight_file(write(wrap(nn.Linear(2, 2))))
    with pytest.raises(CheckpointError, match=r"here: .*torch\.nn\.modules\.linear\.Linear.* state_dict\(\) instead"):
        find_state_dict(content, source="here")


# --------------------------------------------------------------------------------------------------- malicious files


class Harm:
    """Calls a function that writes a file when it is unpickled."""

    def __init__(self, call, *arguments):
        self.call, self.arguments = call, arguments

    def __reduce__(self):
        return self.call, self.arguments


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("name", ["system", "exec", "eval", "open", "popen"])
def test_nothing_is_executed(write, tmp_path, kind, name):
    mark = tmp_path / "it ran"
    harm = {
        "system": Harm(os.system, f"touch '{mark}'"),
        "popen": Harm(subprocess.Popen, ["touch", str(mark)]),
        "exec": Harm(exec, f"open({str(mark)!r}, 'w')"),
        "eval": Harm(eval, f"open({str(mark)!r}, 'w')"),
        "open": Harm(open, str(mark), "w"),
    }[name]
    path = write({"weight": torch.zeros(2) if kind != "pkl" else np.zeros(2), "harm": harm}, kind)
    with pytest.raises(CheckpointError) as raised:
        read_weight_file(path)
    assert not mark.exists()
    message = str(raised.value)
    assert (
        str(path) in message and "refused: it asks to call" in message and "Nothing in the file was executed" in message
    )
    if kind == "pkl":  # the file is effective without protection
        process = pickle.loads(path.read_bytes())["harm"]
        if name == "popen":
            process.wait()
        assert mark.exists()


@pytest.mark.parametrize("kind", TORCH_KINDS)
def test_calls_of_other_names_do_nothing(write, tmp_path, kind):
    """Functions that are not refused by name are not called either."""
    mark = tmp_path / "it ran"
    content = {"weight": torch.ones(1), "harm": Harm(io.FileIO, str(mark), "w"), "more": Harm(collections.deque, [1])}
    assert read_weight_file(write(content, kind))["weight"].item() == 1
    assert not mark.exists()


def test_a_pickle_of_arrays_may_not_name_anything_else(write, tmp_path):
    for content, message in [
        (Harm(io.FileIO, str(tmp_path / "it ran"), "w"), r"it names _io\.FileIO"),
        (np.array(["text"]), "an array of 'U4' is not numeric"),
        (np.array([{}], object), "an array of 'O8' is not numeric"),
        (Harm(np.load, "x"), "it names numpy.*load"),
        (Harm(codecs.encode, "x", "rot13"), "the encoding 'rot13'|names codecs.encode"),
    ]:
        with pytest.raises(CheckpointError, match=message):
            read_weight_file(write(content, "pkl"))
    assert not (tmp_path / "it ran").exists()


def test_an_array_with_a_wrong_size(tmp_path):
    text = pickle.dumps(np.zeros(2, np.float32), 2)
    assert text.count(b"K\x02\x85") == 1
    (tmp_path / "large.pkl").write_bytes(text.replace(b"K\x02\x85", b"J\xff\xff\xff\x7f\x85"))
    with pytest.raises(CheckpointError, match="large.pkl: cannot be read as weights"):
        read_weight_file(tmp_path / "large.pkl")


# ------------------------------------------------------------------------------------------------------- damaged files


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("share", [0.02, 0.5, 0.98])
def test_a_truncated_file(write, kind, share):
    weight = torch.rand(100, 100)
    path = write({"weight": weight if kind != "pkl" else weight.numpy()}, kind)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(CheckpointError, match=rf"{path.name}: cannot be read as weights"):
        read_weight_file(path)


@pytest.mark.parametrize("suffix", ["pth", "pkl", "safetensors", "pt"])
@pytest.mark.parametrize("content", [b"", b"<html>404</html>", b"\x89PNG\r\n", b"\x80", b"PK\x03\x04broken"])
def test_other_files(tmp_path, suffix, content):
    path = tmp_path / f"file.{suffix}"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"file\.{suffix}: cannot be read as weights"):
        read_weight_file(path)


def test_missing_files(tmp_path):
    for path in (tmp_path, tmp_path / "none.pth"):
        with pytest.raises(CheckpointError, match=f"{path}: no such weight file"):
            read_weight_file(path)


def test_torchscript(tmp_path):
    path = tmp_path / "script.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("script/constants.pkl", pickle.dumps(()))
        archive.writestr("script/data.pkl", pickle.dumps({}, 2))
        archive.writestr("script/version", "3\n")
    with pytest.raises(CheckpointError, match="script.pt: cannot be read as weights.*torchscript"):
        read_weight_file(path)


class Bunch(dict):
    """A subclass of dict, which torch does not allow to be replaced."""


@pytest.mark.parametrize("kind", TORCH_KINDS)
def test_a_class_that_cannot_be_replaced(write, kind):
    with pytest.raises(CheckpointError, match="objects other than tensors.*SETITEM.*Placeholder"):
        read_weight_file(write({"weight": torch.zeros(1), "config": Bunch(lr=1)}, kind))
