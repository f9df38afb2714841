"""Reading of pickles that hold plain values and NumPy arrays, such as the weights of detectron2. No code of them runs.

A pickle names functions to call and classes to construct. Here these names are only labels: each known one stands for
a function of this module, and any other one is refused.
"""

import pickle
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

_KINDS = "biuf"  # bool, integers, floating point


class RefusedPickle(ValueError):
    """A pickle that holds more than plain values and NumPy arrays. The message names what it asks for."""


def read_pickle(path: Path, convert: Callable[[Array], Any] = np.asarray) -> Any:
    """Read a pickle of any protocol, also one of Python 2.

    Args:
        path: path of the file.
        convert: function of a NumPy array of numbers, whose result takes its place.

    Returns:
        Its value: dicts, lists, tuples, numbers, texts, bytes and None. Dicts, and dicts in them, may hold the results
        of `convert`.

    Raises:
        RefusedPickle: the pickle asks for anything else.
        ValueError: the file is damaged or no pickle. The message is the name of an exception.
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        try:
            return plain(_Unpickler(file, encoding="latin1").load(), convert)
        except (RefusedPickle, OSError, MemoryError):
            raise
        except Exception as error:  # a damaged pickle can raise almost any exception
            raise ValueError(type(error).__name__) from error


class _Unpickler(pickle._Unpickler):
    # The variant in Python: a few bytes make the one in C allocate gigabytes for its memo.

    def find_class(self, module: str, name: str, /) -> Callable[..., Any]:
        known = _KNOWN.get(f"{module}.{name}")
        if known is None:
            raise RefusedPickle(f"it asks for {module}.{name}")
        return lambda *args: known(*args)  # a new function each time, whose attributes a pickle may change in vain

    def persistent_load(self, pid: Any) -> Any:
        raise RefusedPickle("it refers to objects outside the file")


class _Dtype:
    """Type of the numbers of an array; a pickle sets its byte order afterwards."""

    def __init__(self, code: str, *_: object) -> None:
        self.dtype = np.dtype(str(code))
        if self.dtype.kind not in _KINDS:
            raise RefusedPickle(f"it holds an array of the type {self.dtype}")

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.dtype = self.dtype.newbyteorder(state[1])


class _PickledArray:
    """Array whose content a pickle sets after its construction."""

    def __init__(self, *_: object) -> None:
        self.array: Array | None = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, is_fortran, data = state
        self.array = _array(data, dtype, shape, "F" if is_fortran else "C").array


def _array(data: Any, dtype: _Dtype, shape: tuple[int, ...], order: Any) -> _PickledArray:
    pickled = _PickledArray()
    array: Array = np.frombuffer(_bytes(data), dtype.dtype).reshape(shape, order=order)
    pickled.array = array.astype(dtype.dtype.newbyteorder("="))  # a copy that can be written to
    return pickled


def _scalar(dtype: _Dtype, data: Any) -> Any:
    return np.frombuffer(_bytes(data), dtype.dtype)[0].item()


def _bytes(data: Any) -> bytes:
    # Python 2 had one type for bytes and texts.
    return data.encode("latin1") if isinstance(data, str) else bytes(data)


def _encoded(text: str = "", encoding: str = "latin1") -> bytes:
    return text.encode("latin1" if encoding == "latin1" else "utf-8")


_OF_CORE: dict[str, Callable[..., Any]] = {
    "multiarray._reconstruct": _PickledArray,
    "multiarray.scalar": _scalar,
    "numeric._frombuffer": _array,
}
_NUMPY: dict[str, Callable[..., Any]] = {
    "numpy.dtype": _Dtype,
    "numpy.ndarray": _PickledArray,  # an argument of `_reconstruct`
    **{f"numpy.{core}.{name}": known for core in ("core", "_core") for name, known in _OF_CORE.items()},
}
_KNOWN = _NUMPY | {
    "collections.OrderedDict": OrderedDict,
    **dict.fromkeys(("_codecs.encode", "__builtin__.bytes"), _encoded),  # bytes in older protocols
}

NUMPY_NAMES: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    (known, name) for name, known in _NUMPY.items()
]
"""Functions of this module and the names in a pickle that they stand for, as `torch.serialization.safe_globals` takes
them; `plain` then gives the arrays."""


def plain(value: Any, convert: Callable[[Array], Any], depth: int = 2) -> Any:
    """Return a value from a pickle in which `convert` has replaced the arrays, those in dicts up to this depth."""
    if isinstance(value, _PickledArray):
        return None if value.array is None else convert(value.array)
    if isinstance(value, dict) and depth:
        return {key: plain(each, convert, depth - 1) for key, each in value.items()}
    return value
