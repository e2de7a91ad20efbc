"""Categories (cell type, compound) as columns of zeros and ones."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.preprocessing import OneHotEncoder as SklearnOneHotEncoder
from sklearn.utils.validation import check_is_fitted

from rapids_pipeline.backend.errors import InputError


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

    def __init__(self, columns: Sequence[str] = ("cell_type", "sm_name")) -> None:
        self.columns = columns

    def fit(self, obs: Any, y: object = None) -> "OneHotEncoder":
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
        if len(values) == 0:
            raise InputError("one-hot encoding: no row to learn levels from")
        encoder = SklearnOneHotEncoder(handle_unknown="ignore", sparse_output=False, dtype=np.float32)
        self.encoder_ = encoder.fit(values)
        found = zip(self.columns, encoder.categories_, strict=True)
        self.levels_ = {column: [str(level) for level in levels] for column, levels in found}
        return self

    def transform(self, obs: Any) -> NDArray[np.float32]:
        """Return zeros and ones, of shape (n, total number of levels), float32 (errors as in `fit`)."""
        check_is_fitted(self, "encoder_")
        values = self._values(obs)
        if len(values) == 0:
            return np.zeros((0, len(self.get_feature_names_out())), dtype=np.float32)
        return np.ascontiguousarray(self.encoder_.transform(values), dtype=np.float32)

    def count_unseen(self, obs: Any) -> dict[str, int]:
        """Return for every column the number of rows whose level `fit` has not seen (errors as in `fit`)."""
        check_is_fitted(self, "encoder_")
        values = self._values(obs)
        return {
            column: sum(value not in levels for value in values[:, number])
            for number, (column, levels) in enumerate((c, set(v)) for c, v in self.levels_.items())
        }

    def get_feature_names_out(self, input_features: object = None) -> NDArray[np.object_]:
        """Return "column=level" names, as "cell_type=B cells" (NotFittedError before `fit`)."""
        check_is_fitted(self, "encoder_")
        names = [f"{column}={level}" for column, levels in self.levels_.items() for level in levels]
        return np.array(names, dtype=object)

    def _values(self, obs: Any) -> NDArray[np.object_]:
        """Return the columns as an (n, n_columns) array of str."""
        present = list(obs.columns if hasattr(obs, "columns") else obs.keys())
        missing = [column for column in self.columns if column not in present]
        if missing or not self.columns:
            raise InputError(
                f"one-hot encoding: no column {', '.join(missing) or 'asked for'}; there are {present}"
            )
        return np.stack([_strings(column, obs[column]) for column in self.columns], axis=1)


def _strings(column: str, values: Iterable[Any]) -> NDArray[np.object_]:
    strings = list(values)
    for row, value in enumerate(strings):
        if not isinstance(value, str):
            raise InputError(f"column {column}, row {row} (from 0): {value!r} is missing or no string")
    return np.array(strings, dtype=object)
