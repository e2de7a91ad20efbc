"""Encodings of a group by the targets of its members, for all targets at once.

Words: a *leave-one-out encoding* of a row is the mean target of the other rows of its group. A row's own
target never enters its own encoding, to the last bit: sums are built from the rows before and the rows after
it, never by subtracting it from a total.
"""

from typing import Self

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted


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

    Notes
    -----
    As `category_encoders.LeaveOneOutEncoder`, one column at a time, but for groups of one: there the original
    uses the mean of all rows, the row itself included, and also gives a new row of such a group that mean;
    here the row itself is left out, and a new row gets the group's only value.
    """

    levels_: pd.Index
    level_means_: NDArray[np.float32]
    global_mean_: NDArray[np.float32]

    def __init__(self, sigma: float = 0.0, random_state: int = 0) -> None:
        self.sigma = sigma
        self.random_state = random_state

    def fit(self, groups: ArrayLike, Y: ArrayLike) -> Self:
        """Learn each group's mean from `groups` (n_samples,) and `Y` (n_samples, n_targets)."""
        self._statistics(groups, Y)
        return self

    def fit_transform(self, groups: ArrayLike, Y: ArrayLike) -> NDArray[np.float32]:
        """Fit, and return the leave-one-out encodings of the training rows, (n_samples, n_targets) float32."""
        targets, codes, counts = self._statistics(groups, Y)
        encoded = _sum_of_others(targets, codes) / np.maximum(counts[codes] - 1, 1)[:, None]
        alone = counts[codes] == 1
        if alone.any():
            everyone = np.zeros(len(targets), dtype=np.intp)
            encoded[alone] = (_sum_of_others(targets, everyone) / max(len(targets) - 1, 1))[alone]
        if self.sigma:
            noise = np.random.default_rng(self.random_state).normal(1.0, self.sigma, encoded.shape)
            encoded *= noise
        return encoded.astype(np.float32)

    def transform(self, groups: ArrayLike) -> NDArray[np.float32]:
        """Return the group means of new rows, (n_samples, n_targets) float32; unseen groups: the global mean."""
        check_is_fitted(self)
        codes = self.levels_.get_indexer(pd.Index(np.asarray(groups, dtype=object)))
        return np.where((codes >= 0)[:, None], self.level_means_[codes], self.global_mean_)

    def _statistics(
        self, groups: ArrayLike, Y: ArrayLike
    ) -> tuple[NDArray[np.float64], NDArray[np.intp], NDArray[np.intp]]:
        targets = np.asarray(Y, dtype=np.float64)
        names = np.asarray(groups, dtype=object)
        if targets.ndim != 2 or len(targets) != len(names) or not len(targets):
            raise ValueError(f"need one group a row of Y: {names.shape} groups, Y of shape {targets.shape}")
        codes, levels = pd.factorize(names, sort=True)
        if (codes < 0).any():
            raise ValueError(f"row {int(np.argmin(codes))} (from 0) has no group: it is missing")
        counts = np.bincount(codes)
        sums = np.zeros((len(levels), targets.shape[1]))
        np.add.at(sums, codes, targets)
        self.levels_ = pd.Index(levels)
        self.level_means_ = (sums / counts[:, None]).astype(np.float32)
        self.global_mean_ = targets.mean(axis=0).astype(np.float32)
        return targets, np.asarray(codes, dtype=np.intp), counts


def _sum_of_others(targets: NDArray[np.float64], codes: NDArray[np.intp]) -> NDArray[np.float64]:
    """Return for each row the sum over the other rows of its group: the sum before it plus the sum after it."""
    order = np.argsort(codes, kind="stable")
    others = np.empty_like(targets)
    for members in np.split(order, np.flatnonzero(np.diff(codes[order])) + 1):
        block = targets[members]
        before = np.zeros_like(block)
        after = np.zeros_like(block)
        np.cumsum(block[:-1], axis=0, out=before[1:])
        after[:-1] = np.cumsum(block[:0:-1], axis=0)[::-1]
        others[members] = before + after
    return others
