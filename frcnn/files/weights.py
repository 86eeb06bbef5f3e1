"""Read weight files of any program without executing code from them.

A .safetensors file is plain data. The other formats are pickles, and a pickle is a small program that can call any
function. Therefore:

1. torch files, new (zip) and old, are read with `torch.load(weights_only=True)`. It refuses the objects that training
   programs often save next to the tensors. Here each class that torch does not know is replaced with a `Placeholder`,
   which accepts any arguments and does nothing.
2. Other pickles (Detectron2's .pkl) are read with an unpickler that knows NumPy arrays and OrderedDict only. The arrays
   are rebuilt from their bytes here, not with NumPy's own functions.
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
"""Start, pickled, of torch files that are not zip archives."""
OLD_TORCH_PICKLES = 4
"""Pickles in an old torch file: the magic number, its version, sizes of C types, and the saved object."""
RUNS_CODE = re.compile(
    r"(os|posix|nt|sys|subprocess|shutil|importlib|runpy|socket|pty|ctypes)\..*"
    r"|(builtins|io|_io)\.(eval|exec|compile|open|open_code|__import__|breakpoint|input)"
)
"""Names that no weight file needs. They would not be called in any case; a file that names them is refused."""


class Placeholder:
    """Stands for an object whose class is not restored. It stores nothing and does nothing."""

    class_name = ""

    def __init__(self, *args: Any, **kwargs: Any):
        pass

    def __setstate__(self, state: Any) -> None:
        pass


def read_weight_file(path: str | Path) -> Any:
    """Read a weight file onto the CPU; the content is usually a dict with tensors at some level.

    NumPy arrays are converted to tensors. Objects of other programs' classes become a `Placeholder`.

    Raises:
        CheckpointError: the file is missing, empty, truncated, not a weight file, or names a function that weights do
            not need.
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
    except pickle.UnpicklingError as error:  # torch's own message suggests loading without protection
        raise CheckpointError(
            f"{path}: cannot be read as weights: it holds objects other than tensors, or is not a weight file "
            f"({_reason(error)}). If it is a pickled model, save its state_dict() instead"
        ) from error
    except MemoryError as error:
        raise CheckpointError(f"{path}: cannot be read as weights: it needs more memory than is available") from error
    except Exception as error:  # a damaged file fails in many ways: zip, pickle, end of file
        raise CheckpointError(
            f"{path}: cannot be read as weights; it may be truncated or not a weight file "
            f"({type(error).__name__}: {first_line(error)})"
        ) from error


def find_state_dict(content: Any, *, source: str | Path) -> dict[str, Tensor]:
    """The tensors by name, from the content itself or its entry `model` or `state_dict`; {} if there are none.

    Raises:
        CheckpointError: the model was pickled as an object.
    """
    for key in ("model", "state_dict"):
        inner = content.get(key) if isinstance(content, Mapping) else None
        content = inner if isinstance(inner, Mapping | Placeholder) else content
    if isinstance(content, Placeholder):
        raise CheckpointError(
            f"{source}: cannot be read as weights: it holds a pickled object ({content.class_name}). "
            "Save the model's state_dict() instead"
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
    raise CheckpointError(f"{path}: cannot be read as weights: it starts with {start[:16]!r}, unlike any weight file")


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        from safetensors.torch import load_file
    except ImportError as error:
        raise CheckpointError(f"{path}: reading it needs safetensors: pip install safetensors") from error
    return load_file(path)


def _read_torch(path: Path, *, is_zip: bool) -> Any:
    """`torch.load(weights_only=True)`, which uses our replacements only for names it does not know."""
    if is_zip:
        check_archive(path)
    names = torch.serialization.get_unsafe_globals_in_checkpoint(str(path)) if is_zip else _names_in_old_file(path)
    for name in names:
        _refuse_code(_current_name(*name.rpartition(".")[::2]), path)
    replacements: list[Any] = [(_replacement(name), name) for name in sorted(names)]
    with torch.serialization.safe_globals(replacements):
        return torch.load(path, map_location="cpu", weights_only=True)


def _names_in_old_file(path: Path) -> set[str]:
    """Every class and function that an old torch file names, under old and new names, without loading anything."""
    names = set()
    with path.open("rb") as file:
        for _ in range(OLD_TORCH_PICKLES):
            for operation, argument, _ in pickletools.genops(file):
                if operation.name == "GLOBAL" and isinstance(argument, str):
                    module, _, name = argument.partition(" ")
                    names |= {f"{module}.{name}", _current_name(module, name)}
    return names


def _current_name(module: str, name: str) -> str:
    """The full name of a class in Python 3; the file may have been written by Python 2."""
    module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
    return f"{module}.{name}"


def _replacement(name: str) -> Callable[..., Any]:
    if name == "collections.defaultdict":  # torch fills it like a dict, which it does not allow for a placeholder
        return _plain_dict
    return _NUMPY.get(name) or type("Placeholder", (Placeholder,), {"class_name": name})


def _plain_dict(*_: Any) -> dict[Any, Any]:
    return {}


def _refuse_code(name: str, path: Path) -> None:
    if RUNS_CODE.fullmatch(name):
        raise CheckpointError(
            f"{path}: refused: it asks to call {name}, which weight files do not need but attacks do. "
            "Nothing in the file was executed"
        )


class _ArrayUnpickler(pickle.Unpickler):
    """Reads plain values, OrderedDict and NumPy arrays only."""

    def __init__(self, file: BinaryIO, path: Path):
        super().__init__(file, encoding="latin1")  # keeps NumPy's bytes from Python 2 unchanged
        self.path = path

    def find_class(self, module: str, name: str) -> Any:
        full_name = _current_name(module, name)
        known = {"collections.OrderedDict": OrderedDict, "_codecs.encode": _encode, **_NUMPY}
        if full_name in known:
            return known[full_name]
        _refuse_code(full_name, self.path)
        raise pickle.UnpicklingError(f"it names {full_name}; a .pkl file may hold NumPy arrays only")

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("it refers to data outside the file")


# Replacements for the objects that NumPy writes into pickles: a numeric dtype, a shape and bytes.


class _Dtype:
    """numpy.dtype(text, ...), numeric types only."""

    def __init__(self, text: Any, *_: Any):
        if not re.fullmatch(r"[<>|=]?([fiu][1248]|b1)", str(text)):
            raise pickle.UnpicklingError(f"an array of {str(text)[:40]!r} is not numeric")
        self.dtype = np.dtype(text)

    def __setstate__(self, state: Any) -> None:
        self.dtype = self.dtype.newbyteorder(state[1])


class _Array:
    """numpy.ndarray; `values` is None until the state is set."""

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
        raise pickle.UnpicklingError("the elements of an array are not numbers")
    data = data.encode("latin1") if isinstance(data, str) else data
    array = np.frombuffer(data, dtype.dtype).reshape(shape, order=order)  # fails if the sizes do not match
    return array.astype(dtype.dtype.newbyteorder("="))  # a writable copy


def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    """codecs.encode, which pickle uses to write bytes; other encodings are refused."""
    if not isinstance(text, str) or encoding != "latin1":
        raise pickle.UnpicklingError(f"it uses the encoding {str(encoding)[:40]!r}")
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
    """`value` with each array replaced with a tensor; `done` maps the id of each object seen to its result."""
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


def first_line(error: Exception) -> str:
    """The first line of an error's message, at most 200 characters."""
    return (str(error).strip().splitlines() or [""])[0][:200]


def _reason(error: Exception) -> str:
    """The unpickler's own message, without the advice that torch adds."""
    return first_line(error.__context__ if isinstance(error.__context__, Exception) else error)
