"""A reader of pickles that can construct nothing but arrays.

Dicts, lists, tuples, strings and numbers need no class. For the few functions that NumPy's arrays and scalars are pickled by, the reader has its own,
which check their arguments; NumPy's would take the bytes of an object type for pointers. The interpreter is the one in Python, which allocates
nothing that the file does not hold.
"""

import math
import pickle
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np


TYPES = re.compile(r"[<>|=]?(\?|[biufcSU]\d{1,4})")  # plain numbers and text; no objects, fields, dates or raw memory
DAMAGES = (
    pickle.UnpicklingError,
    struct.error,
    EOFError,
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    OverflowError,
    MemoryError,
    RecursionError,
)


class _Type:
    """A `numpy.dtype` in the making: its byte order comes with its state."""

    __slots__ = ("value",)

    def __init__(self, name: Any, *_: Any):
        if not isinstance(name, str) or not TYPES.fullmatch(name):
            raise pickle.UnpicklingError(
                f"it holds values of the type {name!r}, and only numbers and text are allowed"
            )
        self.value = np.dtype(name)

    def __setstate__(self, state: tuple) -> None:
        _, order, subtype, names, fields, *_ = state
        if order not in ("<", ">", "|", "=") or not subtype == names == fields is None:
            raise pickle.UnpicklingError("it holds values of several parts, and only numbers and text are allowed")
        self.value = self.value.newbyteorder(order)


class _Array:
    """An array in the making: its content comes with its state, or at once."""

    __slots__ = ("value",)

    def __init__(self, *_: Any):
        self.value: Any = None

    def __setstate__(self, state: tuple) -> None:
        _, shape, kind, fortran, content = state
        self.value = _filled(content, kind, shape, "F" if fortran else "C")


def _filled(content: Any, kind: Any, shape: Any, order: str = "C") -> np.ndarray:
    """The array of a type, shape and order whose bytes are `content`."""
    if not isinstance(kind, _Type) or not isinstance(content, bytes | bytearray):
        raise pickle.UnpicklingError("it holds an array that is not made of a type and bytes")
    shape = (shape,) if isinstance(shape, int) else shape
    if not isinstance(shape, tuple) or not all(isinstance(size, int) and size >= 0 for size in shape):
        raise pickle.UnpicklingError(f"it holds an array of the shape {shape!r}")
    if len(content) != math.prod(shape) * kind.value.itemsize:
        raise pickle.UnpicklingError(f"it holds an array of {len(content)} bytes, which do not fit its shape {shape}")
    return np.ndarray(shape, kind.value, bytearray(content), order="F" if order == "F" else "C")


def _from_buffer(content: Any, kind: Any, shape: Any, order: Any = "C", *_: Any) -> _Array:
    array = _Array()
    array.value = _filled(content, kind, shape, order)
    return array


def _scalar(kind: Any, content: Any) -> Any:
    return _filled(content, kind, ())[()]


def _encode(text: Any, encoding: Any = "latin1", *_: Any) -> bytes:
    if encoding != "latin1" or not isinstance(text, str):
        raise pickle.UnpicklingError("it holds bytes that are not written as latin1")
    return text.encode("latin1")


class _Part:
    """What a pickle names: a function that can be called, and neither changed nor looked into."""

    __slots__ = ("_call",)

    def __init__(self, call: Callable):
        self._call = call

    def __call__(self, *arguments: Any) -> Any:
        return self._call(*arguments)

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("it changes a function")


PARTS: dict[tuple[str, str], Callable] = {
    (f"numpy.{core}.{module}", name): call  # in the versions 1 and 2 of NumPy
    for core in ("core", "_core")
    for module, name, call in (
        ("multiarray", "_reconstruct", _Array),
        ("multiarray", "scalar", _scalar),
        ("numeric", "_frombuffer", _from_buffer),
    )
} | {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Type,
    ("_codecs", "encode"): _encode,
    ("__builtin__", "bytes"): lambda: b"",  # how Python 2's protocols write no bytes
}


class _Reader(pickle._Unpickler):  # the one in Python
    def find_class(self, module: str, name: str) -> _Part:
        if (module, name) not in PARTS:
            raise pickle.UnpicklingError(f"it tries to construct {module}.{name}, which is not allowed")
        return _Part(PARTS[module, name])


def _finished(content: Any) -> Any:
    """The content with its arrays in place of what they were made by."""
    if isinstance(content, dict):
        return {key: _finished(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return type(content)(_finished(item) for item in content)
    if isinstance(content, _Array) and content.value is not None:
        return content.value
    if isinstance(content, _Array | _Type | _Part):
        raise pickle.UnpicklingError("it holds something that is no array and no value")
    return content


def read_pickle(path: str | Path) -> Any:
    """The arrays, dicts, lists, strings and numbers of a pickle.

    Raises:
        `OSError`: the file is missing, is damaged, or tries to construct anything else, which is named.
    """
    path = Path(path)
    with path.open("rb") as file:
        try:
            return _finished(_Reader(file).load())
        except DAMAGES as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise OSError(f"{path}: cannot be read as a pickle of arrays: {reason}.") from None


__all__ = ["read_pickle"]
