"""Categories (cell type, compound) as columns of zeros and ones."""

from collections.abc import Iterable, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.backend.state import State, StateReader


class OneHotEncoder(TransformerMixin, BaseEstimator):
    """One column per level of each named column: x = 1 where the row has that level, else 0.

    Levels are those seen in `fit`, sorted within a column by code point, columns in the order given. A level
    that `fit` has not seen gives zeros in all columns of its category; `count_unseen` counts such rows.

    Parameters
    ----------
    columns : sequence of str
        Names of the columns to encode.

    Attributes
    ----------
    levels_ : dict of str to list of str
        The sorted levels of every column.

    Examples
    --------
    >>> obs = {"cell_type": ["T cells", "B cells"]}
    >>> OneHotEncoder(columns=("cell_type",)).fit(obs).transform(obs)
    array([[0., 1.],
           [1., 0.]], dtype=float32)
    """

    levels_: dict[str, list[str]]

    def __init__(self, columns: Sequence[str] = ("cell_type", "sm_name")) -> None:
        self.columns = columns

    def fit(self, obs: Any, y: object = None) -> Self:
        """Learn the levels.

        Parameters
        ----------
        obs : DataFrame (pandas, polars, narwhals) or mapping of column name to sequence
            Has every column of `columns`; all values are strings.

        Raises
        ------
        InputError
            There is no row, a column is missing, or a value is missing or no string (column and row named).
        """
        values = self._values(obs)
        if not all(values.values()):
            raise InputError("one-hot encoding: no row to learn levels from")
        self.levels_ = {column: sorted(set(labels)) for column, labels in values.items()}
        return self

    def transform(self, obs: Any) -> NDArray[np.float32]:
        """Return zeros and ones, of shape (n, total number of levels), float32 (errors as in `fit`)."""
        check_is_fitted(self, "levels_")
        values = self._values(obs)
        n_rows = len(next(iter(values.values())))
        encoded = np.zeros((n_rows, sum(map(len, self.levels_.values()))), dtype=np.float32)
        start = 0
        for column, levels in self.levels_.items():
            place = {level: start + number for number, level in enumerate(levels)}
            found = [(row, place[label]) for row, label in enumerate(values[column]) if label in place]
            if found:
                encoded[tuple(np.array(found).T)] = 1
            start += len(levels)
        return encoded

    def count_unseen(self, obs: Any) -> dict[str, int]:
        """Return for every column the number of rows whose level `fit` has not seen (errors as in `fit`)."""
        check_is_fitted(self, "levels_")
        values = self._values(obs)
        known = {column: set(levels) for column, levels in self.levels_.items()}
        return {column: sum(label not in known[column] for label in values[column]) for column in known}

    def get_feature_names_out(self, input_features: object = None) -> NDArray[np.object_]:
        """Return "column=level" names, as "cell_type=B cells" (NotFittedError before `fit`)."""
        check_is_fitted(self, "levels_")
        names = [f"{column}={level}" for column, levels in self.levels_.items() for level in levels]
        return np.array(names, dtype=object)

    def state(self) -> State:
        """Return the levels of each column, as plain data."""
        check_is_fitted(self, "levels_")
        levels = {f"levels_{number}": found for number, found in enumerate(self.levels_.values())}
        return {"columns": list(self.levels_), **levels}

    @classmethod
    def from_state(cls, reader: StateReader) -> Self:
        """Make what `state` described."""
        columns = reader.levels("columns")
        made = cls(tuple(columns))
        made.levels_ = {column: reader.levels(f"levels_{number}") for number, column in enumerate(columns)}
        if not columns or not all(made.levels_.values()):
            raise reader.fault("there is no column, or a column without levels")
        return made

    def _values(self, obs: Any) -> dict[str, list[str]]:
        """Return the labels of each column, all of them str and as many in each."""
        present = list(obs.columns if hasattr(obs, "columns") else obs.keys())
        missing = [column for column in self.columns if column not in present]
        if missing or not self.columns:
            raise InputError(
                f"one-hot encoding: no column {', '.join(missing) or 'asked for'}; there are {present}"
            )
        values = {column: _strings(column, obs[column]) for column in self.columns}
        if len({len(labels) for labels in values.values()}) > 1:
            raise InputError("one-hot encoding: the columns do not have the same number of rows")
        return values


def _strings(column: str, values: Iterable[Any]) -> list[str]:
    strings = list(values)
    for row, value in enumerate(strings):
        if not isinstance(value, str):
            raise InputError(f"column {column}, row {row} (from 0): {value!r} is missing or no string")
    return [str(value) for value in strings]
