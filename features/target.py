"""Encodings of groups by the targets of their members, for all targets at once.

Words: *target encoding* gives a row statistics of the training targets in its group; *cross-fitting* takes them,
for a training row, from the rows outside its fold only. A *leave-one-out encoding* of a row is the mean target
of the other rows of its group. A row's own target never enters its own encoding, to the last bit: nothing is
subtracted from a total that it is part of. The one exception must be asked for by name (`leaky=True`).
"""

from collections.abc import Iterable, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from features.group_labels import (
    Codes,
    GroupedTargets,
    checked_folds,
    codes_among,
    random_folds,
    read_labels,
    targets_of,
    targets_state,
)
from features.group_statistics import checked_statistics
from features.group_tables import CrossFittedTables, GroupTable, group_tables
from features.leave_one_out import LeaveOneOutEncoder
from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.backend.state import State, StateReader

__all__ = ["LeaveOneOutEncoder", "TargetEncoder"]

ROWS_AT_ONCE = 256
"""Rows copied out of a table at once: bounds the memory beside the result."""


class TargetEncoder(BaseEstimator):
    """Statistics of every target over the training rows of a row's group.

    For a row of group g with n_g training rows, statistic s and smoothing m:

        e = (n_g s(rows of g) + m s(all rows)) / (n_g + m)          and e = s(all rows) where n_g = 0

    but the count, which is n_g itself, 0 where the group is unseen. For a training row, all these are over the
    rows outside its fold. Columns are ordered by column of groups, then statistic, then target.

    Parameters
    ----------
    statistics : sequence of str
        From mean, std, min, max, median, first, count and quantile_q, q from 0 to 1 (such as quantile_0.4);
        `features.group_statistics` has their formulas.
    smoothing : float
        m ≥ 0, in rows: how far each statistic is drawn to that of all rows; for the mean as scikit-learn's
        `TargetEncoder(smooth=m)` on a continuous target.
    n_folds : int
        Folds of `fit_transform` where it is given none; at most as many as rows.
    random_state : int
        Seed of those folds.
    leaky : bool
        Whether `fit_transform` gives training rows the statistics of all rows, their own targets included. THIS
        LEAKS: a model trained on such columns is fooled, and so is its score. It exists to reproduce published
        numbers that were made so.

    Attributes
    ----------
    tables_ : tuple of GroupTable
        What new rows are encoded by, one table a column of groups.
    columns_, statistics_, targets_ : tuple of str
        Names of the columns of groups, of the statistics and of the targets.

    Examples
    --------
    >>> groups, Y = ["a", "a", "b", "b"], [[1.0], [2.0], [3.0], [4.0]]
    >>> encoder = TargetEncoder().fit(groups, Y)
    >>> encoder.transform(["b", "new"]).tolist()
    [[3.5], [2.5]]
    >>> encoder.cross_fit(groups, Y, [0, 1, 0, 1]).tolist()
    [[2.0], [1.0], [4.0], [3.0]]
    """

    tables_: tuple[GroupTable, ...]
    columns_: tuple[str, ...]
    statistics_: tuple[str, ...]
    targets_: tuple[str, ...]

    def __init__(
        self,
        statistics: Sequence[str] = ("mean",),
        *,
        smoothing: float = 0.0,
        n_folds: int = 5,
        random_state: int = 0,
        leaky: bool = False,
    ) -> None:
        self.statistics = statistics
        self.smoothing = smoothing
        self.n_folds = n_folds
        self.random_state = random_state
        self.leaky = leaky

    def fit(self, groups: ArrayLike, Y: ArrayLike) -> Self:
        """Learn the statistics of all training rows.

        Parameters
        ----------
        groups : array-like or series (n,), array-like or data frame (n, n_columns)
            Labels of the groups.
        Y : array-like or data frame, (n, n_targets) or (n,)

        Raises
        ------
        InputError
            A label is missing or a target not finite (the row is named), the numbers of rows differ, a statistic
            is unknown, or smoothing is negative.
        """
        self._fit(GroupedTargets.read(groups, Y))
        return self

    def transform(self, groups: ArrayLike) -> NDArray[np.float32]:
        """Return the encodings of new rows, (n, n_columns · n_statistics · n_targets) float32."""
        codes = self._codes(groups)
        parts = np.array_split(np.arange(len(codes)), len(codes) // ROWS_AT_ONCE + 1)
        return self._encoded(codes, ((rows, self.tables_) for rows in parts))

    def cross_fit(self, groups: ArrayLike, Y: ArrayLike, folds: ArrayLike) -> NDArray[np.float32]:
        """Fit on all rows, and return each training row's statistics of the rows outside its fold.

        Parameters
        ----------
        groups, Y
            As for `fit`.
        folds : array-like of int, (n,)
            Fold of each row; at least two different ones.

        Returns
        -------
        ndarray of float32, (n, n_columns · n_statistics · n_targets)
            A group with no row outside the fold gets the global statistics of the rows outside it.

        Raises
        ------
        InputError
            As for `fit`, and for folds that are no whole number a row or all the same.
        """
        data = GroupedTargets.read(groups, Y)
        return self._cross_fit(data, checked_folds(folds, len(data.Y)))

    def cross_fit_tables(self, groups: ArrayLike, Y: ArrayLike, folds: ArrayLike) -> CrossFittedTables:
        """Do as `cross_fit`, and return the tables and the rows' places in them instead of the columns."""
        data = GroupedTargets.read(groups, Y)
        fold_of_row = checked_folds(folds, len(data.Y))
        self._fit(data)
        distinct = np.unique(fold_of_row)
        tables = tuple(self._tables(data, fold_of_row != fold) for fold in distinct)
        return CrossFittedTables(distinct, tables, data.codes)

    def fit_transform(
        self, groups: ArrayLike, Y: ArrayLike, folds: ArrayLike | None = None
    ) -> NDArray[np.float32]:
        """Return `cross_fit`, by default with `n_folds` random folds; with leaky=True what `transform` gives."""
        if self.leaky and folds is not None:
            raise InputError("leaky=True uses no folds: leave them out, or set leaky=False to use them")
        if self.leaky:
            return self.fit(groups, Y).transform(groups)
        if folds is not None:
            return self.cross_fit(groups, Y, folds)
        data = GroupedTargets.read(groups, Y)
        return self._cross_fit(data, random_folds(len(data.Y), self.n_folds, self.random_state))

    def count_unseen(self, groups: ArrayLike) -> dict[str, int]:
        """Return for every column the number of rows whose label no training row had."""
        unseen = self._codes(groups) == [len(table.levels) for table in self.tables_]
        return dict(zip(self.columns_, unseen.sum(axis=0).tolist(), strict=True))

    def get_feature_names_out(self, input_features: object = None) -> NDArray[np.object_]:
        """Return "column:statistic:target" names, such as "sm_name:mean:A1BG"."""
        check_is_fitted(self)
        heads = [f"{c}:{s}:" for c in self.columns_ for s in self.statistics_]
        return np.array([head + target for head in heads for target in self.targets_], dtype=object)

    def state(self) -> State:
        """Return what `transform` needs, as plain data; InputError where labels are no strings."""
        check_is_fitted(self)
        tables = {f"table_{number}": table.state() for number, table in enumerate(self.tables_)}
        return {"statistics": list(self.statistics_), **targets_state(self.targets_), **tables}

    @classmethod
    def from_state(cls, reader: StateReader) -> Self:
        """Make what `state` described: it transforms as the original."""
        named = reader.strings("statistics")
        try:
            statistics = checked_statistics(named)
        except InputError as error:
            raise reader.fault(str(error)) from None
        names = [name for name in reader.names() if name.startswith("table_")]
        tables = [
            GroupTable.from_state(reader.part(f"table_{number}"), len(statistics))
            for number in range(len(names))
        ]
        columns, sizes = [table.column for table in tables], {table.values.shape[2] for table in tables}
        if len(sizes) != 1 or len(set(columns)) < len(columns):
            raise reader.fault("there are no tables of different columns for the same targets")
        made = cls(statistics)
        made.tables_, made.columns_, made.statistics_ = tuple(tables), tuple(columns), statistics
        made.targets_ = targets_of(reader, sizes.pop())
        return made

    def _fit(self, data: GroupedTargets) -> None:
        self.tables_ = self._tables(data, np.ones(len(data.Y), dtype=bool))
        self.statistics_ = checked_statistics(self.statistics)
        self.columns_, self.targets_ = data.columns, data.targets

    def _tables(self, data: GroupedTargets, used: NDArray[np.bool_]) -> tuple[GroupTable, ...]:
        return group_tables(data, used, self.statistics, self.smoothing)

    def _cross_fit(self, data: GroupedTargets, folds: Codes) -> NDArray[np.float32]:
        """Fit on all rows; return the columns of every row from the rows outside its fold."""
        self._fit(data)
        parts = (
            (np.flatnonzero(folds == fold), self._tables(data, folds != fold)) for fold in np.unique(folds)
        )
        return self._encoded(data.codes, parts)

    def _codes(self, groups: Any) -> Codes:
        """Return the levels (n, n_columns) of new rows; those unseen are the last."""
        check_is_fitted(self)
        _, labels = read_labels(groups, self.columns_)
        codes = codes_among(labels, [table.levels for table in self.tables_])
        return np.where(codes >= 0, codes, [len(table.levels) for table in self.tables_])

    def _encoded(
        self, codes: Codes, parts: Iterable[tuple[Codes, tuple[GroupTable, ...]]]
    ) -> NDArray[np.float32]:
        """Return the columns of rows with the given codes, from parts of (rows, tables)."""
        shape = (len(codes), len(self.columns_), len(self.statistics_), len(self.targets_))
        encoded = np.empty(shape, dtype=np.float32)
        for rows, tables in parts:
            for column, table in enumerate(tables):
                encoded[rows, column] = table.take(codes[rows, column])
        return encoded.reshape(len(codes), np.prod(shape[1:], dtype=int))
