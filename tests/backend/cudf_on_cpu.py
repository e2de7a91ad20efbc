"""cuDF on a CPU: a stand-in that holds pandas' tables and, as cuDF does, gives them to nobody who does not ask.

It has what narwhals uses of cuDF and no more. numpy and pandas get nothing from it unasked (`__array__` and `__iter__`
raise TypeError, as cuDF's do), so code that forgets to leave the device by `to_arrow` or `to_pandas` fails here, too.
"""

import types
from typing import Any

import pandas as pd
import pyarrow as pa


class _Held:
    """Something of pandas, held out of reach."""

    def __init__(self, held: Any) -> None:
        self._held = held

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._held, name)
        if callable(found):
            return lambda *args, **how: _given(found(*_taken(args), **{k: _taken(v) for k, v in how.items()}))
        return _given(found)

    def __getitem__(self, key: Any) -> Any:
        return _given(self._held[_taken(key)])

    def __len__(self) -> int:
        return len(self._held)

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise TypeError("Implicit conversion to a host NumPy array via __array__ is not allowed")

    def __iter__(self) -> Any:
        raise TypeError(f"{type(self).__name__} object is not iterable")


class DataFrame(_Held):
    """A table; its column names are pandas'."""

    @property
    def columns(self) -> Any:
        return self._held.columns

    def to_arrow(self, preserve_index: bool | None = None) -> pa.Table:
        return pa.Table.from_pandas(self._held, preserve_index=preserve_index).replace_schema_metadata(None)

    def to_pandas(self) -> pd.DataFrame:
        return self._held.copy()


class Series(_Held):
    """A column."""


class Index(_Held):
    """Row labels."""


class RangeIndex(Index):
    """Numbers of rows."""


OURS = {pd.DataFrame: DataFrame, pd.Series: Series, pd.RangeIndex: RangeIndex, pd.Index: Index}


def _given(found: Any) -> Any:
    return next((ours(found) for kind, ours in OURS.items() if isinstance(found, kind)), found)


def _taken(asked: Any) -> Any:
    if isinstance(asked, tuple | list):
        return type(asked)(_taken(one) for one in asked)
    return asked._held if isinstance(asked, _Held) else asked


def module() -> types.ModuleType:
    """Return the module to put into `sys.modules` as `cudf`."""
    made = types.ModuleType("cudf")
    made.__version__ = "26.10.0"
    vars(made).update({kind.__name__: kind for kind in OURS.values()}, from_pandas=_given)
    return made
