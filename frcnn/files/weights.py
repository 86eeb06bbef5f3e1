"""Weight files of any program, read without running anything that stands in them.

A .safetensors file is plain data. The others are pickles, and a pickle is a small program that may call anything. So

1. torch files, new (zip) and old, are read by `torch.load(weights_only=True)`. Training programs like to save objects
   of their own beside the tensors, which that refuses; here each class it does not know is replaced by a
   `Placeholder`, which takes whatever it is given and does nothing.
2. Other pickles (Detectron2's .pkl) are read by an unpickler that knows numpy arrays, OrderedDict and nothing else. The
   arrays are rebuilt from their bytes here, not by numpy's own functions for it.
"""

import pickle
import pickletools
import re
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from frcnn.errors import CheckpointError
from frcnn.files.weight_limits import check_archive, check_pickle, check_tensors

ZIP_START = b"PK\x03\x04"
OLD_TORCH_NUMBER = bytes.fromhex("6cfc9c46f9206aa85019")
"""torch's files begin with it, pickled, where they are no zip archives."""
OLD_TORCH_PICKLES = 4
"""Of the old format: the number, its version, sizes of C types, and what was saved."""
RUNS_CODE = re.compile(
    r"(os|posix|nt|sys|subprocess|shutil|importlib|runpy|socket|pty|ctypes)\..*"
    r"|(builtins|io|_io)\.(eval|exec|compile|open|open_code|__import__|breakpoint|input)"
)
"""Names that no weight file has a use for. They would not be called anyway; a file that asks for them is refused."""


class Placeholder:
    """An object of a class that is not restored. It keeps nothing and does nothing."""

    class_name = ""

    def __init__(self, *args: Any, **kwargs: Any):
        pass

    def __setstate__(self, state: Any) -> None:
        pass


def read_weight_file(path: str | Path) -> Any:
    """What a weight file holds, on the CPU: as a rule a dict, with tensors somewhere in it.

    Numpy arrays come out as tensors, objects of other programs' classes as `Placeholder`.

    Raises:
        CheckpointError: missing, empty, cut short, of another kind, or with a call that no weights need.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise CheckpointError(f"{path}: no such weight file")
    try:
        content = _with_tensors(_read(path), {})
        check_tensors(content, path)
        return content
    except CheckpointError:
        raise
    except pickle.UnpicklingError as error:  # torch's own message advises to load without protection
        raise CheckpointError(
            f"{path}: cannot be read as weights: it holds more than tensors, or is another kind of file "
            f"({_reason(error)}). A pickled model must be saved as its state_dict() first"
        ) from error
    except MemoryError as error:
        raise CheckpointError(f"{path}: cannot be read as weights: it asks for more memory than there is") from error
    except Exception as error:  # a broken file fails in many ways: zip, pickle, end of file
        raise CheckpointError(
            f"{path}: cannot be read as weights; it may be truncated or another kind of file "
            f"({type(error).__name__}: {_first_line(error)})"
        ) from error


def find_state_dict(content: Any, *, source: str | Path) -> dict[str, Tensor]:
    """The tensors by name: of the content itself, or of its entry `model` or `state_dict`; {} where there are none.

    Raises:
        CheckpointError: the model was pickled as an object.
    """
    for key in ("model", "state_dict"):
        inner = content.get(key) if isinstance(content, Mapping) else None
        content = inner if isinstance(inner, Mapping | Placeholder) else content
    if isinstance(content, Placeholder):
        raise CheckpointError(
            f"{source}: cannot be read as weights: it holds a pickled object ({content.class_name}). "
            "A pickled model must be saved as its state_dict() first"
        )
    items = content.items() if isinstance(content, Mapping) else ()
    return {str(key): value for key, value in items if isinstance(value, Tensor)}


def _read(path: Path) -> Any:
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    with path.open("rb") as file:
        start = file.read(32)
    if not start:
        raise CheckpointError(f"{path}: cannot be read as weights: the file is empty")
    if start.startswith(ZIP_START) or OLD_TORCH_NUMBER in start:
        return _read_torch(path, is_zip=start.startswith(ZIP_START))
    if path.suffix == ".pkl" or start.startswith(pickle.PROTO):
        check_pickle(path)
        with path.open("rb") as file:
            return _ArrayUnpickler(file, path).load()
    raise CheckpointError(f"{path}: cannot be read as weights: it begins with {start[:16]!r}, as no weight file does")


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        from safetensors.torch import load_file
    except ImportError as error:
        raise CheckpointError(f"{path}: reading it needs safetensors: pip install safetensors") from error
    return load_file(path)


def _read_torch(path: Path, *, is_zip: bool) -> Any:
    """`torch.load(weights_only=True)`, which looks at our replacements only for names it does not know itself."""
    if is_zip:
        check_archive(path)
    names = torch.serialization.get_unsafe_globals_in_checkpoint(str(path)) if is_zip else _names_in_old_file(path)
    for name in names:
        _refuse_code(_current_name(*name.rpartition(".")[::2]), path)
    replacements: list[Any] = [(_replacement(name), name) for name in sorted(names)]
    with torch.serialization.safe_globals(replacements):
        return torch.load(path, map_location="cpu", weights_only=True)


def _names_in_old_file(path: Path) -> set[str]:
    """Every class and function that torch's old format names, by old and by new name, without loading anything."""
    names = set()
    with path.open("rb") as file:
        for _ in range(OLD_TORCH_PICKLES):
            for operation, argument, _ in pickletools.genops(file):
                if operation.name == "GLOBAL" and isinstance(argument, str):
                    module, _, name = argument.partition(" ")
                    names |= {f"{module}.{name}", _current_name(module, name)}
    return names


def _current_name(module: str, name: str) -> str:
    """The full name of a class in Python 3, where the file may have been written by Python 2."""
    module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
    return f"{module}.{name}"


def _replacement(name: str) -> Callable[..., Any]:
    if name == "collections.defaultdict":  # it is filled like a dict, which torch lets no placeholder be
        return _plain_dict
    return _NUMPY.get(name) or type("Placeholder", (Placeholder,), {"class_name": name})


def _plain_dict(*_: Any) -> dict[Any, Any]:
    return {}


def _refuse_code(name: str, path: Path) -> None:
    if RUNS_CODE.fullmatch(name):
        raise CheckpointError(
            f"{path}: refused: it asks to call {name}, which weights have no use for and an attack has. "
            "Nothing of it was run"
        )


class _ArrayUnpickler(pickle.Unpickler):
    """Plain values, OrderedDict and numpy arrays."""

    def __init__(self, file: BinaryIO, path: Path):
        super().__init__(file, encoding="latin1")  # by which numpy's bytes survive from Python 2
        self.path = path

    def find_class(self, module: str, name: str) -> Any:
        full_name = _current_name(module, name)
        known = {"collections.OrderedDict": OrderedDict, "_codecs.encode": _encode, **_NUMPY}
        if full_name in known:
            return known[full_name]
        _refuse_code(full_name, self.path)
        raise pickle.UnpicklingError(f"it names {full_name}; a .pkl file may hold numpy arrays only")

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("it refers to data outside of it")


# What numpy writes into pickles, without numpy's functions: a dtype of numbers, a shape and bytes.


class _Dtype:
    """numpy.dtype(text, ...), as far as it is one of numbers."""

    def __init__(self, text: Any, *_: Any):
        if not re.fullmatch(r"[<>|=]?([fiu][1248]|b1)", str(text)):
            raise pickle.UnpicklingError(f"an array of {str(text)[:40]!r} is none of numbers")
        self.dtype = np.dtype(text)

    def __setstate__(self, state: Any) -> None:
        self.dtype = self.dtype.newbyteorder(state[1])


class _Array:
    """numpy.ndarray; `values` is None until its state has come."""

    values: np.ndarray | None = None

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, is_fortran, data = state
        self.values = _build_array(data, dtype, shape, "F" if is_fortran else "C")


def _empty_array(*_: Any) -> _Array:
    return _Array()


def _array_from_buffer(data: Any, dtype: Any, shape: Any, order: Any) -> _Array:
    array = _Array()
    array.values = _build_array(data, dtype, shape, order)
    return array


def _scalar(dtype: Any, data: Any) -> float | int | bool:
    return _build_array(data, dtype, (), "C").item()


def _build_array(data: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
    if not isinstance(dtype, _Dtype) or not isinstance(data, str | bytes | bytearray):
        raise pickle.UnpicklingError("an array whose elements are no numbers")
    data = data.encode("latin1") if isinstance(data, str) else data
    array = np.frombuffer(data, dtype.dtype).reshape(shape, order=order)  # fails where the sizes do not agree
    return array.astype(dtype.dtype.newbyteorder("="))  # a copy, which is writable


def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    """codecs.encode, by which pickle writes bytes; codecs can do more than that."""
    if not isinstance(text, str) or encoding != "latin1":
        raise pickle.UnpicklingError(f"it encodes by {str(encoding)[:40]!r}")
    return text.encode("latin1")


def _empty_bytes(*_: Any) -> bytes:
    return b""


_NUMPY: dict[str, Callable[..., Any]] = {
    "builtins.bytes": _empty_bytes,  # for arrays without elements
    "numpy.ndarray": _Array,
    "numpy.dtype": _Dtype,
    **{
        f"numpy.{core}.{name}": function
        for core in ("core", "_core")
        for name, function in {
            "multiarray._reconstruct": _empty_array,
            "multiarray.scalar": _scalar,
            "numeric._frombuffer": _array_from_buffer,
        }.items()
    },
}


def _with_tensors(value: Any, done: dict[int, Any]) -> Any:
    """`value` with a tensor in the place of each array; `done` holds the outcome of each object seen before."""
    if id(value) in done:
        return done[id(value)]
    if isinstance(value, _Array):
        done[id(value)] = None if value.values is None else torch.from_numpy(value.values)
    elif isinstance(value, dict):
        done[id(value)] = changed = {}
        changed.update((key, _with_tensors(inner, done)) for key, inner in value.items())
    elif isinstance(value, list):
        done[id(value)] = items = []
        items.extend(_with_tensors(inner, done) for inner in value)
    elif type(value) is tuple:
        done[id(value)] = tuple(_with_tensors(inner, done) for inner in value)
    else:
        return value
    return done[id(value)]


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[0][:200]


def _reason(error: Exception) -> str:
    """The unpickler's own words, around which torch puts advice."""
    return _first_line(error.__context__ if isinstance(error.__context__, Exception) else error)
