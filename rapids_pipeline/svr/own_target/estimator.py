r"""SVRs of all genes, each on features of its own: shared columns, and statistics of that gene alone, leak-free.

The kernel of target t between rows x and x', with u and v the shared columns of compound and cell type, and S_t and
S_t' the statistics of target t by either:

    K_t(x, x') = exp(−γ_t(‖u − u'‖² + ‖S_t(x) − S_t(x')‖²)) · exp(−γ_t(‖v − v'‖² + ‖S_t'(x) − S_t'(x')‖²))

A training row's statistics are those of the training rows outside its inner fold, so its own target is in none of
them; any other row has the statistics of all training rows. It is the SVR (RBF; gamma="scale" is scikit-learn's) on
the columns that `features.feature_sets.FeatureTable` makes for one target, for all targets at once and without those
columns. Sources: the per-gene SVR ("v1") of the competition's fourth place; cross-fitting as in
`features.target_encoders`.

A fitted model holds the training targets and the inner folds, and makes the statistics again, to the last bit, when
it predicts: a quarter of the size of the statistics themselves.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from features.feature_sets import FeatureSet
from features.rows import Rows
from rapids_pipeline.backend.arrays import Float32, Float64
from rapids_pipeline.backend.devices import processor_count
from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.backend.progress import Progress
from rapids_pipeline.backend.state import State, StateReader
from rapids_pipeline.svr.engines import warn_of_missed
from rapids_pipeline.svr.gram import Gamma
from rapids_pipeline.svr.own_target.solver import Settings, Solutions, TrainedRows
from rapids_pipeline.svr.own_target.statistics import Levels, Side, sides_of
from rapids_pipeline.svr.smo.solver import in_chunks

TARGETS_AT_ONCE = 512
"""Targets of one thread's chunk; its statistics take about 25 MB at 614 rows."""
ROWS_AT_ONCE = 4096
"""Other rows predicted at once."""


@dataclass(frozen=True, eq=False)
class OwnTargetSVR:
    """Fitted SVRs of all targets.

    Attributes
    ----------
    first, second : Side
        What hangs on the compound, and on the cell type, with the training rows' labels and inner folds.
    targets : ndarray of float32, (n, t)
        Training targets, which the statistics are made of.
    dual_coef : ndarray of float32, (n, t)
        β; each column sums to zero within rounding.
    intercept, gamma : ndarray of float32, (t,)
    single : bool
        Whether predictions evaluate the kernel in float32, as the fit did.
    """

    first: Side
    second: Side
    targets: Float32
    dual_coef: Float32
    intercept: Float32
    gamma: Float32
    single: bool

    @classmethod
    def fit(
        cls,
        features: FeatureSet,
        rows: Rows,
        Y: Float32,
        *,
        C: float = 1.0,
        epsilon: float = 0.1,
        gamma: Gamma = "scale",
        tol: float = 1e-3,
        max_iter: int | None = None,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> "OwnTargetSVR":
        """Fit every target's SVR.

        Parameters
        ----------
        features : FeatureSet
            See `require_usable`.
        rows : Rows
            n training rows.
        Y : ndarray of float32, (n, t)
        C, epsilon, gamma, tol, max_iter
            As `rapids_pipeline.stack.members.svr.OwnTargetSvrMember`.
        seed : int
            Seed of the inner folds: those of `FeatureTable(features, seed=seed)`.
        progress : Progress, optional
            Advances once a chunk of targets.

        Raises
        ------
        InputError
            A feature set, targets or settings that cannot be used.
        """
        settings = Settings(C, epsilon, gamma, tol, max_iter)
        fit = _Fit.of(features, rows, Y, settings, seed)
        dual_coef = np.empty(fit.Y.shape, np.float32)
        intercept, gammas = np.empty((2, fit.Y.shape[1]), np.float32)

        def solve(targets: slice) -> Float64:
            solutions = fit.solve(targets)[1]
            dual_coef[:, targets] = solutions.dual_coef.T
            intercept[targets], gammas[targets] = solutions.intercept, solutions.gamma
            return solutions.gap

        fit.run(solve, progress)
        return cls(*fit.trained.sides, fit.Y, dual_coef, intercept, gammas, settings.single)

    def predict(self, rows: Rows, progress: Progress | None = None) -> Float32:
        """Return the predictions of rows, (m, t) float32; a row's depend on the other rows by rounding alone."""
        trained = TrainedRows(self.first, self.second)
        parts = _parts(trained, rows)
        predicted = np.empty((len(rows.obs), self.targets.shape[1]), np.float32)

        def predict(targets: slice) -> None:
            solutions = Solutions(
                self.dual_coef[:, targets].T, self.intercept[targets], self.gamma[targets], np.zeros(0)
            )
            statistics = trained.statistics(self.targets[:, targets])
            for which, levels in parts:
                predicted[which, targets] = trained.predict(levels, statistics, solutions, self.single)

        if parts:
            in_chunks(predict, len(self.gamma), _width(len(self.gamma)), progress=progress)
        return predicted

    def state(self) -> State:
        """Return what was learnt, as plain data; the feature set is saved apart."""
        return {
            "targets": self.targets,
            "dual_coef": self.dual_coef,
            "intercept": self.intercept,
            "gamma": self.gamma,
            "single": self.single,
            "first": self.first.state(),
            "second": self.second.state(),
        }

    @classmethod
    def from_state(cls, features: FeatureSet, reader: StateReader) -> "OwnTargetSVR":
        """Make what `state` described: it predicts as the original, to the last bit; InputError where it cannot."""
        targets = reader.array("targets", np.float32, (None, None))
        n, t = targets.shape
        if n < 2 or not t:
            raise reader.fault(f"targets are {targets.shape}")
        gamma = reader.array("gamma", np.float32, (t,))
        if not (gamma > 0).all():
            raise reader.fault("gamma is not positive")
        first, second = (
            Side.from_state(side, reader.part(name), n)
            for side, name in zip(sides_of(features), ("first", "second"), strict=True)
        )
        dual_coef = reader.array("dual_coef", np.float32, (n, t))
        intercept = reader.array("intercept", np.float32, (t,))
        return cls(first, second, targets, dual_coef, intercept, gamma, reader.flag("single"))


def fit_predict(
    features: FeatureSet,
    rows: Rows,
    Y: Float32,
    others: Rows,
    *,
    C: float = 1.0,
    epsilon: float = 0.1,
    gamma: Gamma = "scale",
    tol: float = 1e-3,
    max_iter: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Float32:
    """Return `OwnTargetSVR.fit(...).predict(others)`, to the last bit, without keeping a model.

    Parameters and errors are those of `OwnTargetSVR.fit`; the result is (m, t) float32.
    """
    fit = _Fit.of(features, rows, Y, Settings(C, epsilon, gamma, tol, max_iter), seed)
    parts = _parts(fit.trained, others)
    predicted = np.empty((len(others.obs), fit.Y.shape[1]), np.float32)

    def solve(targets: slice) -> Float64:
        statistics, solutions = fit.solve(targets)
        for which, levels in parts:
            predicted[which, targets] = fit.trained.predict(
                levels, statistics, solutions, fit.settings.single
            )
        return solutions.gap

    fit.run(solve, progress)
    return predicted


def require_usable(features: FeatureSet) -> None:
    """Raise InputError unless every column of a feature set hangs on the compound or on the cell type.

    Those do: onehot, molecules (of an encoder that the block names, reduced or not) and statistics with
    own_target = true, at least one of them; leaky ones, too.
    """
    sides_of(features)


@dataclass(frozen=True)
class _Fit:
    """Checked training rows, their targets and the settings."""

    trained: TrainedRows
    Y: Float32
    settings: Settings

    @classmethod
    def of(cls, features: FeatureSet, rows: Rows, Y: Any, settings: Settings, seed: int) -> "_Fit":
        sides = sides_of(features)
        Y = np.asarray(Y, np.float32)
        if Y.ndim != 2 or len(Y) != len(rows.obs) or not Y.shape[1]:
            raise InputError(f"Y must be ({len(rows.obs)}, t), one row for each training row, not {Y.shape}")
        if not np.isfinite(Y).all():
            row, target = np.argwhere(~np.isfinite(Y))[0]
            raise InputError(f"Y: row {row} (from 0), target {target} is no finite number")
        return cls(TrainedRows(*(Side.fit(side, rows, seed) for side in sides)), Y, settings)

    def solve(self, targets: slice) -> tuple[Any, Solutions]:
        """Return the statistics and the solutions of some targets."""
        Y = np.ascontiguousarray(self.Y[:, targets])
        statistics = self.trained.statistics(Y)
        return statistics, self.trained.solve(Y, statistics, self.settings)

    def run(self, solve: Callable[[slice], Float64], progress: Progress | None) -> None:
        """Run `solve` on all targets, which returns U − L, and warn of those that did not converge."""
        n_targets = self.Y.shape[1]
        gap = np.concatenate(in_chunks(solve, n_targets, _width(n_targets), progress=progress))
        warn_of_missed(gap <= self.settings.tol, gap, self.settings.tol, self.settings.limit, None)


def _parts(trained: TrainedRows, rows: Rows) -> list[tuple[slice, tuple[Levels, Levels]]]:
    """Return the levels of at most `ROWS_AT_ONCE` rows at a time."""
    if not len(rows.obs):
        return []
    first, second = (side.others(rows) for side in trained.sides)
    parts = [slice(start, start + ROWS_AT_ONCE) for start in range(0, len(rows.obs), ROWS_AT_ONCE)]
    return [(part, (_some(first, part), _some(second, part))) for part in parts]


def _some(levels: Levels, rows: slice) -> Levels:
    """Return the levels of some of the rows, without those that none of them has."""
    used, of_row = np.unique(levels.of_row[rows], return_inverse=True)
    return Levels(of_row, levels.labels[used], levels.features[used])


def _width(n_targets: int) -> int:
    """Return how many targets to solve together, so that every processor has some."""
    return max(1, min(TARGETS_AT_ONCE, -(-n_targets // processor_count())))
