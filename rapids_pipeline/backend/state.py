"""What a fitted object has learnt, as plain data, and its checked way back.

A *state* is a mapping of names to arrays, strings, numbers, lists of strings or numbers, None, or further states. An
object that can be saved returns one (`state()`) and is made of one again (`from_state`), without pickle: the class
is chosen by the program, never by the file. `StateReader` hands a state's values out only after checking their kind
and shape, so a damaged or hostile file ends in one line that names the file and the value.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from rapids_pipeline.backend.errors import InputError

State = Mapping[str, Any]
"""Names to arrays, str, int, float, bool, None, lists of str or of numbers, or further states."""

Shape = tuple[int | None, ...]
"""Sizes of the axes; None for any."""


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
        found = self._value(name)
        if not isinstance(found, np.ndarray):
            raise self.fault(f"{name} is no array")
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

    def codes(self, name: str, shape: Shape, below: int) -> NDArray[np.int32]:
        """Return an int32 array of numbers from 0 up to, not including, `below`."""
        found = self.array(name, np.int32, shape)
        if found.size and not (found.min() >= 0 and found.max() < below):
            raise self.fault(f"{name} has numbers outside 0 … {below - 1}")
        return found

    def strings(self, name: str) -> list[str]:
        """Return a list of strings."""
        found = self._value(name)
        if not isinstance(found, list | tuple) or not all(isinstance(entry, str) for entry in found):
            raise self.fault(f"{name} is no list of strings")
        return list(found)

    def levels(self, name: str) -> list[str]:
        """Return a list of different strings."""
        found = self.strings(name)
        if len(set(found)) < len(found):
            raise self.fault(f"{name} names something twice")
        return found

    def text(self, name: str) -> str:
        """Return a string."""
        found = self._value(name)
        if not isinstance(found, str):
            raise self.fault(f"{name} is no string")
        return found

    def number(self, name: str) -> float:
        """Return a finite number."""
        found = self._value(name)
        if not _is_finite(found):
            raise self.fault(f"{name} is no finite number")
        return float(found)

    def numbers(self, name: str) -> list[float]:
        """Return a list of finite numbers."""
        found = self._value(name)
        if not isinstance(found, list | tuple) or not all(_is_finite(entry) for entry in found):
            raise self.fault(f"{name} is no list of finite numbers")
        return [float(entry) for entry in found]

    def anything(self, name: str) -> Any:
        """Return a value as it is, for what checks it itself."""
        return self._value(name)

    def integer(self, name: str) -> int:
        """Return a whole number."""
        found = self._value(name)
        if isinstance(found, bool) or not isinstance(found, int):
            raise self.fault(f"{name} is no whole number")
        return found

    def flag(self, name: str) -> bool:
        """Return true or false."""
        found = self._value(name)
        if not isinstance(found, bool):
            raise self.fault(f"{name} is neither true nor false")
        return found

    def part(self, name: str) -> "StateReader":
        """Return the reader of a state within this one."""
        found = self._value(name)
        if not isinstance(found, Mapping):
            raise self.fault(f"{name} has no parts")
        return StateReader(found, f"{self.source}.{name}")

    def _value(self, name: str) -> Any:
        if name not in self._state:
            raise self.fault(f"{name} is missing")
        return self._state[name]


def _is_finite(value: Any) -> bool:
    """Say whether a value is a number that fits a float."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # whole numbers have no bound
        return False


def strings_of(values: Any) -> list[str]:
    """Return labels (a pandas index, a tuple, an object array) as a list of str."""
    return [str(value) for value in values]
