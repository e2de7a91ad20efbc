"""Encodings of groups by the targets of their members, for all targets at once.

Words: *target encoding* gives a row statistics of the training targets in its group; *cross-fitting* takes them,
for a training row, from the rows outside its fold only. A *leave-one-out encoding* of a row is the mean target
of the other rows of its group. A row's own target never enters its own encoding, to the last bit: nothing is
subtracted from a total that it is part of. Nor do the targets of its *replicates*, where the encoder is told which rows
these are: a new row has none. The one exception must be asked for by name (`leaky=True`).

Targets must be complete: where genes were not tested, the stack hands over targets that it has imputed from the same
training rows (`rapids_pipeline.data.untested`). An imputed value of another row may then have seen a row's own target.
"""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Self

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from features.group_statistics import (
    GroupedTargets,
    GroupTable,
    checked_folds,
    checked_statistics,
    folds_of_units,
    group_table,
    read_labels,
    sums_of_others,
)
from features.rows import places
from rapids_pipeline.backend.arrays import Float32, Indices, Labels
from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.backend.state import State, StateReader


class GroupEncoder(TransformerMixin, BaseEstimator):
    """Base of the encoders: statistics of every target by group.

    In a ColumnTransformer it takes one column; `set_output(transform="pandas")` gives data frames.

    Attributes
    ----------
    table_ : GroupTable
        What new rows are encoded by.
    statistics_ : tuple of str
    """

    statistics: Sequence[str] = ("mean",)
    smoothing: float = 0.0

    table_: GroupTable
    statistics_: tuple[str, ...]

    def fit(self, groups: ArrayLike, Y: ArrayLike) -> Self:
        """Learn the statistics of all training rows.

        Parameters
        ----------
        groups : array-like or series, (n,)
            Label of each row's group.
        Y : array-like or data frame, (n, n_targets) or (n,)
            The targets of each row.

        Raises
        ------
        InputError
            A label is missing or a target not finite (the row is named), the numbers of rows differ, a statistic
            is unknown, or smoothing is negative.
        """
        self._fit(GroupedTargets.read(groups, Y))
        return self

    @abstractmethod
    def fit_transform(self, groups: ArrayLike, Y: ArrayLike, replicates: Indices | None = None) -> Float32:
        """Fit, and return the encodings of the training rows, each without its own targets and its replicates'.

        `replicates` are (n,) numbers 0, 1, …, the same for replicates of each other, which are in one group
        (`features.rows.contexts_of`); by default no row has any.
        """

    def transform(self, groups: ArrayLike) -> Float32:
        """Return the encodings of new rows, (n, n_statistics · n_targets) float32, ordered by statistic."""
        check_is_fitted(self)
        codes = places(read_labels(groups), self.table_.levels)  # −1, where unseen: the table's last row
        return self.table_.values[codes].reshape(len(codes), self.n_columns_)

    def get_feature_names_out(self, input_features: ArrayLike | None = None) -> Labels:
        """Return GROUP_STATISTIC_TARGET of every column, targets numbered from 0, with the column that was fitted."""
        check_is_fitted(self)
        n_targets = self.table_.values.shape[-1]
        named = self.table_.column if input_features is None else str(np.asarray(input_features, object)[0])
        names = [
            f"{named}_{statistic}_{target}" for statistic in self.statistics_ for target in range(n_targets)
        ]
        return np.array(names, dtype=object)

    @property
    def n_columns_(self) -> int:
        """Columns of the encodings."""
        return int(np.prod(self.table_.values.shape[1:]))

    def state(self) -> State:
        """Return what `transform` needs, as plain data; InputError where labels are no strings."""
        check_is_fitted(self)
        return {
            "encoder": type(self).__name__,
            "statistics": list(self.statistics_),
            "table": self.table_.state(),
        }

    @classmethod
    def from_state(cls, reader: StateReader) -> Self:
        """Make what `state` described: it transforms as the original."""
        named = reader.strings("statistics")
        if reader.text("encoder") != cls.__name__:
            raise reader.fault(f"it is of a {reader.text('encoder')}, not of a {cls.__name__}")
        made = cls()
        try:
            made.statistics = made.statistics_ = checked_statistics(named)
        except InputError as error:
            raise reader.fault(str(error)) from None
        made.table_ = GroupTable.from_state(reader.part("table"), len(named))
        return made

    def _fit(self, data: GroupedTargets) -> None:
        everyone = np.ones(len(data.Y), dtype=bool)
        self.table_ = group_table(data, everyone, self.statistics, self.smoothing)
        self.statistics_ = checked_statistics(self.statistics)


class TargetEncoder(GroupEncoder):
    """Statistics of every target over the training rows of a row's group.

    For a row of group g with n_g training rows, statistic s and smoothing m:

        e = (n_g s(rows of g) + m s(all rows)) / (n_g + m)          and e = s(all rows) where n_g = 0

    but the count, which is n_g itself, 0 where the group is unseen. For a training row, all these are over the
    rows outside its fold. Columns are ordered by statistic, then target.

    Parameters
    ----------
    statistics : sequence of str
        From mean, std, min, max, median, first, count and quantile_q, q from 0 to 1 (such as quantile_0.4);
        `features.group_statistics` has their formulas.
    smoothing : float
        m ≥ 0, in rows: how far each statistic is drawn to that of all rows; for the mean as scikit-learn's
        `TargetEncoder(smooth=m)` on a continuous target.
    n_folds : int
        Folds of `fit_transform`; at most as many as rows.
    random_state : int
        Seed of those folds.
    leaky : bool
        Whether `fit_transform` gives training rows the statistics of all rows, their own targets included. THIS
        LEAKS: a model trained on such columns is fooled, and so is its score. It exists to reproduce published
        numbers that were made so.

    Examples
    --------
    >>> groups, Y = ["a", "a", "b", "b"], [[1.0], [2.0], [3.0], [4.0]]
    >>> encoder = TargetEncoder().fit(groups, Y)
    >>> encoder.transform(["b", "new"]).tolist()
    [[3.5], [2.5]]
    >>> encoder.cross_fit(groups, Y, [0, 1, 0, 1]).tolist()
    [[2.0], [1.0], [4.0], [3.0]]
    """

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

    def cross_fit(self, groups: ArrayLike, Y: ArrayLike, folds: ArrayLike) -> Float32:
        """Fit on all rows, and return each training row's statistics of the rows outside its fold.

        Parameters
        ----------
        groups, Y
            As for `fit`.
        folds : array-like of int, (n,)
            Fold of each row; at least two different ones.

        Returns
        -------
        ndarray of float32, (n, n_statistics · n_targets)
            A group with no row outside the fold gets the global statistics of the rows outside it.

        Raises
        ------
        InputError
            As for `fit`, and for folds that are no whole number a row or all the same.
        """
        data = GroupedTargets.read(groups, Y)
        return self._cross_fit(data, checked_folds(folds, len(data.Y)))

    def fit_transform(self, groups: ArrayLike, Y: ArrayLike, replicates: Indices | None = None) -> Float32:
        """Return `cross_fit` with `n_folds` random folds, replicates in one; with leaky=True what `transform` gives."""
        if self.leaky:
            return self.fit(groups, Y).transform(groups)
        data = GroupedTargets.read(groups, Y)
        units = np.arange(len(data.Y)) if replicates is None else replicates
        return self._cross_fit(data, folds_of_units(units, self.n_folds, self.random_state))

    def _cross_fit(self, data: GroupedTargets, folds: Indices) -> Float32:
        """Fit on all rows; return the columns of every row from the rows outside its fold."""
        self._fit(data)
        encoded = np.empty((len(data.Y), *self.table_.values.shape[1:]), dtype=np.float32)
        for fold in np.unique(folds):
            table = group_table(data, folds != fold, self.statistics, self.smoothing)
            encoded[folds == fold] = table.values[data.codes[folds == fold]]
        return encoded.reshape(len(encoded), self.n_columns_)


class LeaveOneOutEncoder(GroupEncoder):
    """Leave-one-out mean of every target in a row's group.

    For a training row i of group g with n_g members, and target t:

        e_it = (Σ_{j∈g, j≠i} y_jt) / (n_g − 1)            n_g > 1
        e_it = mean of y_jt over all j ≠ i                 n_g = 1

    where replicates of i are left out as i itself is, and n_g = 1 stands for a group of i and its replicates.
    For a new row: the mean over all members of its group, or of all training rows where the group is unseen.
    With `sigma` > 0 training encodings are multiplied by N(1, sigma²) noise, one draw an entry, seeded.

    Parameters
    ----------
    sigma : float
        Standard deviation of the multiplicative training noise; 0 for none (the published pipeline: 0.21).
    random_state : int
        Seed of the noise.

    Notes
    -----
    As `category_encoders.LeaveOneOutEncoder`, one column at a time, but for groups of one: there the original
    uses the mean of all rows, the row itself included, and also gives a new row of such a group that mean;
    here the row itself is left out, and a new row gets the group's only value.

    Examples
    --------
    >>> encoder = LeaveOneOutEncoder()
    >>> encoder.fit_transform(["a", "a", "a"], [[1.0], [2.0], [6.0]]).tolist()
    [[4.0], [3.5], [1.5]]
    >>> encoder.transform(["a"]).tolist()
    [[3.0]]
    """

    def __init__(self, sigma: float = 0.0, random_state: int = 0) -> None:
        self.sigma = sigma
        self.random_state = random_state

    def fit_transform(self, groups: ArrayLike, Y: ArrayLike, replicates: Indices | None = None) -> Float32:
        """Fit, and return the leave-one-out encodings of the training rows, (n, n_targets) float32."""
        data = GroupedTargets.read(groups, Y)
        self._fit(data)
        unit = np.arange(len(data.Y)) if replicates is None else replicates
        first, size = np.unique(unit, return_index=True, return_counts=True)[1:]
        further = np.setdiff1d(np.arange(len(unit)), first)
        sums = data.Y[first].astype(np.float64)
        np.add.at(sums, unit[further], data.Y[further])
        group = data.codes[first]  # of every unit: a row with its replicates
        others = np.bincount(data.codes)[group] - size
        encoded = sums_of_others(sums, group) / np.maximum(others, 1)[:, None]
        alone = others == 0
        if alone.any():
            everyone = np.maximum(len(unit) - size, 1)[:, None]
            encoded[alone] = (sums_of_others(sums, np.zeros_like(group)) / everyone)[alone]
        encoded = encoded[unit]
        if self.sigma:
            encoded *= np.random.default_rng(self.random_state).normal(1.0, self.sigma, encoded.shape)
        return np.asarray(encoded, np.float32)
