"""Leave-one-out encoding of groups: a row's is the mean target of the other rows of its group.

A row's own target never enters its own encoding, to the last bit: nothing is subtracted from a total that it is
part of. The words are explained in `features.target`.
"""

from typing import Self

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from features.group_labels import (
    Codes,
    GroupedTargets,
    codes_among,
    levels_of,
    levels_state,
    read_labels,
    targets_of,
    targets_state,
)
from features.group_statistics import group_statistics, sums_of_others
from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.backend.state import State, StateReader


class LeaveOneOutEncoder(BaseEstimator):
    """Leave-one-out mean of every target in a row's group.

    For a training row i of group g with n_g members, and target t:

        e_it = (Σ_{j∈g, j≠i} y_jt) / (n_g − 1)            n_g > 1
        e_it = mean of y_jt over all j ≠ i                 n_g = 1

    For a new row: the mean over all members of its group, or of all training rows where the group is unseen.
    With `sigma` > 0 training encodings are multiplied by N(1, sigma²) noise, one draw an entry, seeded.

    Parameters
    ----------
    sigma : float
        Standard deviation of the multiplicative training noise; 0 for none (the published pipeline: 0.21).
    random_state : int
        Seed of the noise.

    Attributes
    ----------
    levels_ : pandas.Index
        The training groups, sorted.
    level_means_ : ndarray of float32, (n_levels, n_targets)
    global_mean_ : ndarray of float32, (n_targets,)
    columns_, targets_ : tuple of str
        Names of the column of groups (one) and of the targets.

    Notes
    -----
    As `category_encoders.LeaveOneOutEncoder`, one column at a time, but for groups of one: there the original
    uses the mean of all rows, the row itself included, and also gives a new row of such a group that mean;
    here the row itself is left out, and a new row gets the group's only value.
    """

    columns_: tuple[str, ...]
    targets_: tuple[str, ...]
    levels_: pd.Index
    level_means_: NDArray[np.float32]
    global_mean_: NDArray[np.float32]

    def __init__(self, sigma: float = 0.0, random_state: int = 0) -> None:
        self.sigma = sigma
        self.random_state = random_state

    def fit(self, groups: ArrayLike, Y: ArrayLike) -> Self:
        """Learn each group's mean; groups, (n,) or one column, Y and errors are as for `TargetEncoder.fit`."""
        self._fit(groups, Y)
        return self

    def fit_transform(self, groups: ArrayLike, Y: ArrayLike) -> NDArray[np.float32]:
        """Fit, and return the leave-one-out encodings of the training rows, (n, n_targets) float32."""
        targets, codes, counts = self._fit(groups, Y)
        encoded = sums_of_others(targets, codes) / np.maximum(counts[codes] - 1, 1)[:, None]
        alone = counts[codes] == 1
        if alone.any():
            everyone = np.zeros(len(targets), dtype=np.intp)
            encoded[alone] = (sums_of_others(targets, everyone) / max(len(targets) - 1, 1))[alone]
        if self.sigma:
            noise = np.random.default_rng(self.random_state).normal(1.0, self.sigma, encoded.shape)
            encoded *= noise
        return encoded.astype(np.float32)

    def transform(self, groups: ArrayLike) -> NDArray[np.float32]:
        """Return the group means of new rows, (n, n_targets) float32; unseen groups: the global mean."""
        codes = self._codes(groups)
        return np.where((codes >= 0)[:, None], self.level_means_[codes], self.global_mean_)

    def count_unseen(self, groups: ArrayLike) -> dict[str, int]:
        """Return, under the name of the column, the number of rows whose label no training row had."""
        return {self.columns_[0]: int((self._codes(groups) < 0).sum())}

    def get_feature_names_out(self, input_features: object = None) -> NDArray[np.object_]:
        """Return "column:loo:target" names, such as "sm_name:loo:A1BG"."""
        check_is_fitted(self)
        return np.array([f"{self.columns_[0]}:loo:{target}" for target in self.targets_], dtype=object)

    def state(self) -> State:
        """Return what `transform` needs, as plain data; InputError where labels are no strings."""
        check_is_fitted(self)
        return {
            "column": self.columns_[0],
            "levels": levels_state(self.columns_[0], self.levels_),
            "level_means": self.level_means_,
            "global_mean": self.global_mean_,
            **targets_state(self.targets_),
        }

    @classmethod
    def from_state(cls, reader: StateReader) -> Self:
        """Make what `state` described: it transforms as the original."""
        made = cls()
        made.columns_, made.levels_ = (reader.text("column"),), levels_of(reader)
        made.global_mean_ = reader.array("global_mean", np.float32, (None,))
        shape = (len(made.levels_), len(made.global_mean_))
        made.level_means_ = reader.array("level_means", np.float32, shape)
        made.targets_ = targets_of(reader, len(made.global_mean_))
        return made

    def _codes(self, groups: ArrayLike) -> Codes:
        """Return the level (n,) of new rows, −1 for those unseen."""
        check_is_fitted(self)
        _, labels = read_labels(groups, self.columns_)
        return codes_among(labels, [self.levels_])[:, 0]

    def _fit(self, groups: ArrayLike, Y: ArrayLike) -> tuple[NDArray[np.float64], Codes, Codes]:
        """Learn the means; return targets, level of each row and rows of each level."""
        data = GroupedTargets.read(groups, Y)
        if len(data.columns) != 1:
            raise InputError(f"leave-one-out encoding takes one column of groups, not {len(data.columns)}")
        codes, levels = data.codes[:, 0], data.levels[0]
        self.level_means_ = group_statistics(data.Y, codes, len(levels), ("mean",))[:, 0]
        self.global_mean_ = group_statistics(data.Y, np.zeros_like(codes), 1, ("mean",))[0, 0]
        self.levels_, self.columns_, self.targets_ = levels, data.columns, data.targets
        return data.Y.astype(np.float64), codes, np.bincount(codes)
