r"""SVRs of all genes, each on features of its own: shared columns, and statistics of that gene alone, leak-free.

The kernel of target t between rows x and x', with u and v the shared columns of compound and cell type, and S_t and
S_t' the statistics of target t by either:

    K_t(x, x') = exp(−γ_t(‖u − u'‖² + ‖S_t(x) − S_t(x')‖²)) · exp(−γ_t(‖v − v'‖² + ‖S_t'(x) − S_t'(x')‖²))

A training row's statistics are those of the training rows outside its inner fold, so its own target is in none of
them; any other row has the statistics of all training rows. It is the SVR (RBF; gamma="scale" is scikit-learn's) on
the columns that `features.feature_sets.FeatureTable` makes for one target, for all targets at once and without those
columns. Sources: the per-gene SVR ("v1") of the competition's fourth place; cross-fitting as in
`features.target_encoders`.

By smo, a chunk of targets is solved on rows of their kernels in float32 (`rapids_pipeline.svr.own_target.kernels`).
What that leaves above tol, and everything where tol asks for more than float32, is solved on the target's Gram matrix
in float64. By douglas-rachford, the Gram matrices of a chunk are solved together, on a GPU too
(`rapids_pipeline.svr.own_target.douglas_rachford`).

A fitted model holds the training targets and the inner folds, and makes the statistics again, to the last bit, when it
predicts: a quarter of the size of the statistics themselves.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from features.feature_sets import FeatureSet
from features.rows import Rows
from rapids_pipeline.backend.arrays import Float32, Float64, Mask, checked_weights, to_device
from rapids_pipeline.backend.devices import DeviceName, processor_count
from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.backend.progress import Progress
from rapids_pipeline.backend.state import State, StateReader
from rapids_pipeline.svr.dual import Gamma, require_gamma
from rapids_pipeline.svr.engines import checked_box, choose_engine, iteration_limit, warn_of_missed
from rapids_pipeline.svr.own_target.douglas_rachford import StackSolver
from rapids_pipeline.svr.own_target.statistics import Side, sides_of
from rapids_pipeline.svr.own_target.trained_rows import Statistics, TrainedRows
from rapids_pipeline.svr.smo.solver import in_chunks

TARGETS_AT_ONCE = 496
"""Targets of one thread's chunk, an odd number of cache lines; its statistics take about 25 MB at 614 rows."""
SINGLE_TOL = 1e-4
"""Least tol / max(C_i, 1) at which kernels are evaluated in float32; below, all is float64."""


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
        Whether kernels are evaluated in float32, which is far more exact than the tolerance of the fit.
    """

    first: Side
    second: Side
    targets: Float32
    dual_coef: Float32
    intercept: Float32
    gamma: Float32
    single: bool

    @classmethod
    def fit(cls, features: FeatureSet, rows: Rows, Y: Float32, **how: Any) -> "OwnTargetSVR":
        """Fit every target's SVR; arguments and errors are those of `fit_predict`."""
        return _fitted(features, rows, Y, None, **how)[0]

    def predict(self, rows: Rows) -> Float32:
        """Return the predictions of rows, (m, t) float32; a row's depend on the other rows by rounding alone."""
        trained = TrainedRows(self.first, self.second)
        parts, predicted = trained.parts(rows), np.empty((len(rows.obs), len(self.gamma)), np.float32)

        def predict(targets: slice) -> None:
            self._predict(trained, parts, targets, trained.statistics(self.targets[:, targets]), predicted)

        if parts:
            in_chunks(predict, len(self.gamma), _width(len(self.gamma)))
        return predicted

    def _predict(
        self, trained: TrainedRows, parts: Any, targets: slice, statistics: Any, predicted: Float32
    ) -> None:
        """Write the predictions of a chunk of targets, K β + b summed in float64, one part of the rows at a time."""
        beta = np.array(self.dual_coef[:, targets].T, np.float64, order="C")
        gamma, intercept = (x[targets].astype(np.float64) for x in (self.gamma, self.intercept))
        for which, levels in parts:
            found = trained.weighted(levels, statistics, beta, gamma, self.single)
            predicted[which, targets] = (found + intercept[:, None]).T

    def state(self) -> State:
        """Return what was learnt, as plain data; the feature set is saved apart."""
        names = ("targets", "dual_coef", "intercept", "gamma", "single")
        sides = {"first": self.first.state(), "second": self.second.state()}
        return {name: getattr(self, name) for name in names} | sides

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


def fit_predict(features: FeatureSet, rows: Rows, Y: Float32, others: Rows, **how: Any) -> Float32:
    """Return `OwnTargetSVR.fit(...).predict(others)` with every target's statistics made once.

    By smo it is that to the last bit; douglas-rachford predicts on the device, where sums round otherwise.

    Parameters
    ----------
    features : FeatureSet
        Every column hangs on the compound or on the cell type (`rapids_pipeline.svr.own_target.statistics.sides_of`).
    rows, others : Rows
        n training rows, and m that are predicted.
    Y : ndarray of float32, (n, t)
    C, epsilon, gamma, tol, max_iter, engine : optional
        As `rapids_pipeline.stack.members.svr.OwnTargetSvrMember`.
    device : {"cpu", "cuda"}, optional
        Where douglas-rachford solves and predicts; by default the host.
    seed : int, optional
        Seed of the inner folds: those of `FeatureTable(features, seed=seed)`.
    tested : ndarray of bool, (n, t), optional
        Where it is false, a target's row is left out of its fit (β = 0) and its value is read for the statistics only.
        All rows count for a target without a tested one, and by default.
    sample_weight : ndarray of float64, (n,), optional
        Multiplies C row by row; statistics count all rows alike.
    progress : Progress, optional
        Advances once a chunk of targets.

    Returns
    -------
    ndarray of float32, (m, t)

    Raises
    ------
    InputError
        A feature set, targets or settings that cannot be used, or Gram matrices that do not fit in memory.
    """
    return _fitted(features, rows, Y, others, **how)[1]


def _fitted(
    features: FeatureSet,
    rows: Rows,
    Y: Any,
    others: Rows | None,
    *,
    C: float = 1.0,
    epsilon: float = 0.1,
    gamma: Gamma = "scale",
    tol: float = 1e-3,
    max_iter: int | None = None,
    engine: str = "auto",
    device: DeviceName = "cpu",
    seed: int = 0,
    tested: Mask | None = None,
    sample_weight: Float64 | None = None,
    progress: Progress | None = None,
) -> tuple[OwnTargetSVR, Float32]:
    """Return the model, and its predictions of other rows."""
    C, epsilon = checked_box(C, epsilon, 0)
    require_gamma(gamma)
    sides = sides_of(features)
    Y = np.asarray(Y, np.float32)
    if Y.ndim != 2 or len(Y) != len(rows.obs) or not Y.shape[1]:
        raise InputError(f"Y must be ({len(rows.obs)}, t), one row for each training row, not {Y.shape}")
    if not np.isfinite(Y).all():
        row, target = np.argwhere(~np.isfinite(Y))[0]
        raise InputError(f"Y: row {row} (from 0), target {target} is no finite number")
    chosen = choose_engine(engine, to_device(Y[:1], device), own_target=True).engine
    limit = iteration_limit(tol, max_iter, chosen)
    cap = C * checked_weights(np.ones(len(Y)) if sample_weight is None else sample_weight, len(Y))[None]
    if tested is not None:
        cap = np.ascontiguousarray(np.where((tested | ~tested.any(axis=0)).T, cap, 0.0))
    trained = TrainedRows(*(Side.fit(side, rows, seed) for side in sides))
    parts = [] if others is None else trained.parts(others)
    t, gap = Y.shape[1], np.empty(Y.shape[1])
    intercept, own_gamma = np.empty((2, t), np.float32)
    single = tol >= SINGLE_TOL * max(float(cap.max()), 1.0)
    model = OwnTargetSVR(*trained.sides, Y, np.empty(Y.shape, np.float32), intercept, own_gamma, single)
    predicted = np.empty((0 if others is None else len(others.obs), t), np.float32)

    stack = None if chosen.name == "smo" else StackSolver(trained, parts, device)

    def solve(targets: slice) -> None:
        own = np.ascontiguousarray(Y[:, targets])
        statistics = _statistics(trained, own)
        model.gamma[targets] = trained.gammas(statistics, gamma)
        box = cap if len(cap) == 1 else cap[targets]
        problem = own, statistics, model.gamma[targets], box, epsilon, float(tol), limit, model.single
        if stack is None:
            beta, model.intercept[targets], gap[targets] = trained.solve(*problem)
            model.dual_coef[:, targets] = beta.T
            model._predict(trained, parts, targets, statistics, predicted)
            return
        beta, model.intercept[targets], gap[targets], found = stack.fit_predict(*problem)
        model.dual_coef[:, targets] = beta.T
        for which, values in found:
            predicted[which, targets] = values

    width, n_threads = _width(t), None
    if stack is not None and device == "cuda":
        width, n_threads = max(TARGETS_AT_ONCE, stack.targets_at_once()), 1
    in_chunks(solve, t, width, n_threads, progress=progress)
    warn_of_missed(gap <= tol, gap, tol, limit, None)
    return model, predicted


def _statistics(trained: TrainedRows, Y: Float32) -> list[Statistics]:
    """Return the statistics of targets Y (n, t), those of many made in threads."""
    made = in_chunks(lambda some: trained.statistics(Y[:, some]), Y.shape[1], TARGETS_AT_ONCE)
    return made[0] if len(made) == 1 else [Statistics.joined(side) for side in zip(*made, strict=True)]


def _width(n_targets: int) -> int:
    """Return how many targets to solve together, so that every processor has some."""
    return max(1, min(TARGETS_AT_ONCE, -(-n_targets // processor_count())))
