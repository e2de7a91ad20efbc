r"""Features of each target's own: statistics of that target in two groupings of the rows.

A row i has a level a_i of the first grouping (such as its compound) and b_i of the second (its cell type). The
features of target t there are what is known of the two levels, x_t(i) = [u_a, v_b, S_t(a), S_t'(b)]: u and v the
features that all targets share, S_t and S_t' statistics of target t over the training rows of that level. They
never become a matrix: the RBF kernel is a product of one small table for each grouping (`rapids_pipeline.svr.smo`).

A level that no training row has, and any level outside the table, is *unseen*: its statistics are the training
rows' mean of that statistic. Its shared features are those of the table, or zeros outside it (level −1).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.targets.statistics import group_statistics as statistics_of_groups
from rapids_pipeline.backend.arrays import Array, to_host
from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.svr.gram import Gamma, squared_distances
from rapids_pipeline.svr.smo import FactoredKernel, Grouping, scale_gamma

Floats = NDArray[np.floating[Any]]
Levels = NDArray[np.integer[Any]]
TableMaker = Callable[[Floats, Levels, int], Floats]
"""(Y (n, n_targets), level of each row (n,), n_levels) → statistics (n_targets, n_levels, n_statistics)."""

STATISTICS = ("mean", "min", "max", "median", "first", "quantile_0.4")
"""The statistics of `group_statistics`, in order: those of the published pipeline."""


@dataclass(frozen=True)
class TargetFeatures:
    """How target-specific features are made; the rows' levels are the X of fit and predict.

    Attributes
    ----------
    first, second : array, (n_levels, n_features)
        Features of each level of the two groupings that all targets share (one-hot columns, molecule
        features); n_features may be 0.
    tables : callable
        Makes a grouping's statistics from the training targets at fit; ready-made tables, or none, are a
        function that returns them.
    """

    first: Array
    second: Array
    tables: TableMaker = lambda Y, levels, n_levels: group_statistics(Y, levels, n_levels)


def group_statistics(Y: Floats, levels: Levels, n_levels: int) -> Floats:
    """Return mean, min, max, median, first and 0.4-quantile of every target in every level.

    Parameters
    ----------
    Y : array, (n, n_targets)
    levels : array of int, (n,)
        Level of each row; negative ones are left out.
    n_levels : int

    Returns
    -------
    array of float32, (n_targets, n_levels, 6)
        NaN where a level has no rows. Quantiles interpolate linearly, as pandas does.
    """
    tables = statistics_of_groups(Y, levels, n_levels, STATISTICS)
    return np.ascontiguousarray(tables.transpose(2, 0, 1))


@dataclass(frozen=True)
class LearntTargetFeatures:
    """Target features after a fit: kernels of all targets, where the last level of each grouping is "unseen".

    Attributes
    ----------
    kernel : FactoredKernel
    training : array of int, (2, n)
        Levels of the training rows.
    """

    kernel: FactoredKernel
    training: Levels

    @classmethod
    def learn(
        cls, features: TargetFeatures, levels: Array, Y: Floats, gamma: Gamma
    ) -> "LearntTargetFeatures":
        """Make the tables from training rows: their `levels` (n, 2) and targets `Y` (n, n_targets)."""
        shared = [_with_unseen(np.asarray(to_host(x), np.float64)) for x in (features.first, features.second)]
        training = _positions(levels, shared)
        groupings, sums = [], np.zeros(2)
        for values, groups in zip(shared, training, strict=True):
            n_levels = len(values) - 1
            tables = np.asarray(features.tables(Y, np.where(groups < n_levels, groups, -1), n_levels))
            if tables.shape[:2] != (Y.shape[1], n_levels) or tables.ndim != 3:
                raise InputError(
                    f"target_features.tables gave {tables.shape} where (n_targets, n_levels, n_statistics) = "
                    f"({Y.shape[1]}, {n_levels}, …) was expected"
                )
            squared = squared_distances(values, values)
            groupings.append(Grouping(squared, _filled(tables, groups)))
            rows = values[groups]
            sums += rows.sum(), (rows**2).sum()
        if gamma == "scale":
            gammas = scale_gamma(
                training,
                groupings[0].statistics,
                groupings[1].statistics,
                n_shared=shared[0].shape[1] + shared[1].shape[1],
                shared_sum=sums[0],
                shared_sum_of_squares=sums[1],
            )
        else:
            gammas = np.full(Y.shape[1], float(gamma))
        return cls(FactoredKernel(groupings[0], groupings[1], gammas), training)

    def positions(self, levels: Array) -> Levels:
        """Return the levels (2, m) of other rows as the kernel numbers them; unknown ones become "unseen"."""
        return _positions(
            levels, [side.squared_distances for side in (self.kernel.first, self.kernel.second)]
        )


def _with_unseen(values: Floats) -> Floats:
    """Return the shared features of a grouping's levels with those of the unseen level, zeros, below them."""
    if values.ndim != 2 or not np.isfinite(values).all():
        raise InputError(f"shared features of levels must be finite and (n_levels, p), not {values.shape}")
    return np.vstack([values, np.zeros((1, values.shape[1]))])


def _filled(tables: Floats, groups: Levels) -> Floats:
    """Return tables with the unseen level added, and levels without training rows filled in like it."""
    n_levels = tables.shape[1]
    counts = np.bincount(groups, minlength=n_levels + 1)[:n_levels]
    seen = np.flatnonzero(counts)
    if not np.isfinite(tables[:, seen]).all():
        raise InputError(
            "target_features.tables gave values that are not finite for levels with training rows"
        )
    weights = counts[seen] / max(counts[seen].sum(), 1)
    typical = np.einsum("tls,l->ts", tables[:, seen], weights)
    filled = np.concatenate([tables, typical[:, None]], axis=1)
    filled[:, np.flatnonzero(counts == 0)] = typical[:, None]
    return filled


def _positions(levels: Array, tables: list[Floats]) -> Levels:
    """Return (2, n) positions in tables whose last row stands for every level outside them."""
    values = np.asarray(to_host(levels))
    if values.ndim != 2 or values.shape[1] != 2:
        raise InputError(f"with target_features X holds the levels (n, 2) of each row, not {values.shape}")
    positions = values.astype(np.int64)
    if not np.array_equal(positions, values):
        raise InputError("with target_features X holds the levels of each row as whole numbers")
    sizes = np.asarray([len(table) - 1 for table in tables])
    return np.where((positions < 0) | (positions >= sizes), sizes, positions).T
