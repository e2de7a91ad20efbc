"""What a fitted object has learnt, as plain data: its checked way back, and its files.

A *state* is a mapping of names to arrays, strings, numbers, lists of strings or numbers, None, or further states. An
object that can be saved returns one (`state()`) and is made of one again (`from_state`), without pickle: the class
is chosen by the program, never by the file. `StateReader` hands out a state's values only after it has checked their
kind and shape, so a damaged or hostile file ends in one line that names the file and the value.

As files a state is a tree of JSON, and its arrays stand in one safetensors file. In the tree an array is
{"$array": its place}, such as {"$array": "table.svd.components"}. No name of a state has a "$" or a dot, so nothing
else is taken for an array and no two arrays have one place.
"""

import errno
import math
import os
import re
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import DTypeLike, NDArray

from rapids_pipeline.backend.arrays import Codes
from rapids_pipeline.backend.errors import InputError

State = Mapping[str, Any]
"""Names to arrays, str, int, float, bool, None, lists of str or of numbers, or further states."""

Shape = tuple[int | None, ...]
"""Sizes of the axes; None for any."""

Arrays = dict[str, NDArray[Any]]
"""The arrays of a state by their places."""

DTYPES: dict[str, np.dtype[Any]] = {
    "F32": np.dtype(np.float32),
    "F64": np.dtype(np.float64),
    "I32": np.dtype(np.int32),
    "I64": np.dtype(np.int64),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}
NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
LEVELS = 20
"""How deep states may be nested."""
LARGEST_HEADER = 4 * 2**20
"""Bytes of a safetensors header: tens of thousands of arrays."""
LARGEST_EMPTY = 2**24
"""Size of an axis of an array without elements, whose shape no number of bytes speaks for."""


class StateReader:
    """Reads a state, checking each value.

    Parameters
    ----------
    state : mapping
    source : str
        What the messages call it, such as "DIR/model: svr".
    """

    def __init__(self, state: State, source: str) -> None:
        self.source = source
        self._state = state

    def fault(self, what: str) -> InputError:
        """Return the error that says what is wrong with this state."""
        return InputError(
            f"{self.source}: {what}; the saved model is damaged or was not made by this program"
        )

    def names(self) -> list[str]:
        """Return the names of all values."""
        return list(self._state)

    def array(self, name: str, dtype: DTypeLike, shape: Shape, *, finite: bool = True) -> NDArray[Any]:
        """Return an array of exactly this dtype and shape (None: any size), by default finite throughout."""
        found: NDArray[Any] = self._fitting(name, lambda value: isinstance(value, np.ndarray), "is no array")
        wanted = np.dtype(dtype)
        fits = found.ndim == len(shape) and all(
            size is None or size == there for size, there in zip(shape, found.shape, strict=True)
        )
        if found.dtype != wanted or not fits:
            sizes = ", ".join("any" if size is None else str(size) for size in shape)
            raise self.fault(f"{name} must be {wanted} ({sizes}), not {found.dtype} {found.shape}")
        if finite and np.issubdtype(wanted, np.floating) and not np.isfinite(found).all():
            raise self.fault(f"{name} holds values that are not finite")
        return found

    def codes(self, name: str, shape: Shape, below: int) -> Codes:
        """Return an int32 array of numbers from 0 up to, not including, `below`."""
        found = self.array(name, np.int32, shape)
        if found.size and not (found.min() >= 0 and found.max() < below):
            raise self.fault(f"{name} has numbers outside 0 … {below - 1}")
        return found

    def strings(self, name: str) -> list[str]:
        """Return a list of strings."""
        return list(self._list(name, lambda entry: isinstance(entry, str), "strings"))

    def levels(self, name: str) -> list[str]:
        """Return a list of different strings."""
        found = self.strings(name)
        if len(set(found)) < len(found):
            raise self.fault(f"{name} names something twice")
        return found

    def text(self, name: str) -> str:
        """Return a string."""
        return str(self._fitting(name, lambda value: isinstance(value, str), "is no string"))

    def number(self, name: str) -> float:
        """Return a finite number."""
        return float(self._fitting(name, _is_finite, "is no finite number"))

    def numbers(self, name: str) -> list[float]:
        """Return a list of finite numbers."""
        return [float(entry) for entry in self._list(name, _is_finite, "finite numbers")]

    def integer(self, name: str) -> int:
        """Return a whole number."""
        return int(self._fitting(name, lambda value: type(value) is int, "is no whole number"))

    def flag(self, name: str) -> bool:
        """Return true or false."""
        return bool(self._fitting(name, lambda value: isinstance(value, bool), "is neither true nor false"))

    def anything(self, name: str) -> Any:
        """Return a value as it is, for what checks it itself."""
        if name not in self._state:
            raise self.fault(f"{name} is missing")
        return self._state[name]

    def part(self, name: str) -> "StateReader":
        """Return the reader of a state within this one."""
        found = self._fitting(name, lambda value: isinstance(value, Mapping), "has no parts")
        return StateReader(found, f"{self.source}.{name}")

    def _fitting(self, name: str, fits: Callable[[Any], bool], fault: str) -> Any:
        found = self.anything(name)
        if not fits(found):
            raise self.fault(f"{name} {fault}")
        return found

    def _list(self, name: str, fits: Callable[[Any], bool], what: str) -> Any:
        def is_one(value: Any) -> bool:
            return isinstance(value, list | tuple) and all(map(fits, value))

        return self._fitting(name, is_one, f"is no list of {what}")


def _is_finite(value: Any) -> bool:
    """Say whether a value is a number that fits a float."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # whole numbers have no bound
        return False


def split(state: State, place: str) -> tuple[dict[str, Any], Arrays]:
    """Return a state with its arrays replaced by references, and the arrays by place within the state.

    Raises
    ------
    ValueError
        A name or value that a state cannot have, or too many levels; `place` and what is in it are named.
    """
    arrays: Arrays = {}
    return _split(state, place, "", arrays, LEVELS), arrays


def _split(state: State, place: str, prefix: str, arrays: Arrays, levels: int) -> dict[str, Any]:
    if not levels:
        raise ValueError(f"{place} is nested too deeply to be saved")
    found: dict[str, Any] = {}
    for name, value in state.items():
        here = f"{place}.{name}"
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise ValueError(f"{here} is no name that can be saved: letters, digits, _ and -")
        if isinstance(value, Mapping):
            found[name] = _split(value, here, f"{prefix}{name}.", arrays, levels - 1)
        elif isinstance(value, np.ndarray):
            if value.dtype not in DTYPES.values():
                raise ValueError(f"{here} is an array of {value.dtype}, which is not saved")
            arrays[f"{prefix}{name}"] = value
            found[name] = {"$array": f"{prefix}{name}"}
        else:
            found[name] = _plain(value, here)
    return found


def _plain(value: Any, place: str) -> Any:
    """Return a value, or a list of values, that JSON holds without loss; ValueError for others."""
    entries = value if isinstance(value, list | tuple) else [value]
    for entry in entries:
        if not (entry is None or isinstance(entry, str | int | float)) or (
            isinstance(entry, float) and not math.isfinite(entry)
        ):
            raise ValueError(f"{place} is no plain data that can be saved: {entry!r}")
    return list(value) if isinstance(value, list | tuple) else value


def joined(content: Any, place: str, arrays: Arrays) -> dict[str, Any]:
    """Return the state that `split` took apart; the arrays used are taken out of `arrays`.

    Raises
    ------
    ValueError
        The content has another form than `split` gives it, or its references are not to all arrays, once each.
    """
    state = _joined(content, place, "", arrays, LEVELS)
    if arrays:
        raise ValueError(f"{place} does not mention the array {min(arrays)[:80]!r}")
    return state


def _joined(content: Any, place: str, prefix: str, arrays: Arrays, levels: int) -> dict[str, Any]:
    if not isinstance(content, dict) or not levels:
        raise ValueError(f"{place[:80]} has no parts or too many levels of them")
    found = {}
    for name, value in content.items():
        here = f"{place}.{name}"
        if not NAME.fullmatch(name):
            raise ValueError(f"{here[:80]!r} is no name of a state")
        if not isinstance(value, dict):
            found[name] = value
        elif "$array" not in value:
            found[name] = _joined(value, here, f"{prefix}{name}.", arrays, levels - 1)
        elif value != {"$array": f"{prefix}{name}"} or f"{prefix}{name}" not in arrays:
            raise ValueError(f"the array {here[:80]} is not there")
        else:
            found[name] = arrays.pop(f"{prefix}{name}")
    return found


def save_arrays(arrays: Arrays, path: Path) -> None:
    """Write a safetensors file; equal arrays of equal names give equal bytes.

    Raises
    ------
    OSError
        It cannot be written. The library has an error of its own for a full disk, which becomes the system's.
    """
    in_rows = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    path.touch()
    mode = path.stat().st_mode  # that of every other file here; the library's can be read by their owner only
    try:
        safetensors.numpy.save_file(in_rows, path)
    except safetensors.SafetensorError as error:
        told = re.search(r"os error (\d+)", str(error))
        number = int(told[1]) if told else errno.EIO
        raise OSError(number, os.strerror(number), str(path)) from error
    path.chmod(mode)


def arrays_of(content: bytes) -> Arrays:
    """Return the arrays of a safetensors file's bytes; they can be written to.

    The library checks that the header lies within the bytes, and that the arrays in it cover the rest without gap or
    overlap, each with as many bytes as its shape asks for; so nothing is allocated beyond the size of the file.

    Raises
    ------
    ValueError
        These are no such bytes, or an array's type or shape is none of a saved state.
    """
    if len(content) < 8 or struct.unpack("<Q", content[:8])[0] > LARGEST_HEADER:
        raise ValueError("no header, or one that is too large")
    try:
        found = safetensors.deserialize(content)  # type: ignore[no-untyped-call]
    except safetensors.SafetensorError as error:
        raise ValueError(" ".join(str(error).split())[:120]) from None
    return {name: _array(name, **entry) for name, entry in found}


def _array(name: str, dtype: str, shape: list[int], data: bytes | bytearray) -> NDArray[Any]:
    if dtype not in DTYPES:
        raise ValueError(f"{name[:80]!r} is of type {dtype}")
    if not data and max(shape, default=0) > LARGEST_EMPTY:
        raise ValueError(f"{name[:80]!r} is empty and huge")
    if dtype == "BOOL" and np.frombuffer(data, np.uint8).max(initial=0) > 1:
        raise ValueError(f"{name[:80]!r} is neither true nor false")
    writable = data if isinstance(data, bytearray) else bytearray(data)
    flat: NDArray[Any] = np.frombuffer(writable, dtype=DTYPES[dtype])
    return flat.reshape(shape)
