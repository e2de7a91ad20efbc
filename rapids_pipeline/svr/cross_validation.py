"""Cross-validation of all targets from one Gram matrix over all rows, sub-indexed for every fold.

    out-of-fold    row i of fold k    SVR of all training rows outside fold k
    test           test row           mean over k of those SVRs

What all folds share does not depend on targets; γ, the statistics of target-specific features and the solution
are each fold's own, from its training rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone

from rapids_pipeline.backend.arrays import Array, namespace, to_host
from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.backend.progress import Progress
from rapids_pipeline.svr.duals import checked_weight, solve_duals, solve_target_specific
from rapids_pipeline.svr.engines import choose_engine
from rapids_pipeline.svr.estimator import MultiTargetSVR
from rapids_pipeline.svr.gram import GramTable
from rapids_pipeline.svr.inputs import is_foreign, require_finite, target_names_of
from rapids_pipeline.svr.memory import require_room
from rapids_pipeline.svr.solution import DualSolution
from rapids_pipeline.svr.target_features import LearntTargetFeatures

Rows = NDArray[np.intp]


@dataclass(frozen=True)
class CrossValidated:
    """Predictions of every row by SVRs that never saw it; n rows, m test rows, t targets.

    Attributes
    ----------
    oof : array, (n, t), or (n,) for a 1-D target
        Out-of-fold predictions, in the library of Y and its floating dtype.
    test : array, (m, t) or (m,)
        Predictions of the test rows, the mean over folds.
    converged, n_iter, gap : array, (n_folds, t)
        On the host.
    gamma : array, (n_folds,), or (n_folds, t) with target-specific features
        On the host.
    """

    oof: Array
    test: Array
    converged: NDArray[np.bool_]
    n_iter: NDArray[np.integer[Any]]
    gap: NDArray[np.floating[Any]]
    gamma: NDArray[np.floating[Any]]


class AnyGramTable(Protocol):
    """A kernel over a fixed set of rows, of which any rectangle can be had, as `GramTable`."""

    def gamma_of(self, training_rows: Rows) -> float:
        """Return γ for a fold that trains on `training_rows`."""

    def gram(self, rows: Rows, columns: Rows, gamma: float) -> Array:
        """Return K over rows × columns, float64."""


@dataclass(frozen=True)
class FoldFit:
    """One fit on some rows of a table: predictions of the groups of rows asked for, and how it went."""

    predictions: list[Array]
    solution: DualSolution
    gamma: Any


def cross_val_predict(
    svr: MultiTargetSVR,
    X: Any,
    Y: Any,
    folds: Rows,
    X_test: Any = None,
    *,
    sample_weight: Any = None,
    progress: Progress | None = None,
) -> CrossValidated:
    """Predict every training row out of fold, and test rows by the mean over the folds' fits.

    Parameters
    ----------
    svr : MultiTargetSVR
        What to fit; it is not changed.
    X : array, (n, p), or GramTable
        Training rows. A `GramTable` (the way for a precomputed kernel) holds the n training rows, then the test rows.
    Y : array, (n, t) or (n,)
        In the library and on the device of X.
    folds : array of int, (n,)
        Fold 0 … n_folds−1 of each row; every fold has rows.
    X_test : array, (m, p), optional
        Test rows, in the library of X.
    sample_weight : array, (n,), optional
    progress : Progress, optional
        Advances once a fold.

    Raises
    ------
    InputError
        Folds that do not partition the rows, values that are not finite, a Gram matrix that does not fit in memory.
    """
    problem = _Problem.of(svr, X, Y, folds, X_test, sample_weight)
    xp, n, n_folds = namespace(problem.Y), len(problem.folds), int(problem.folds.max()) + 1
    progress = progress or Progress()
    progress.start(n_folds)
    parts, order, fits = [], [], []
    test: Array = None
    for k in range(n_folds):
        training, held_out = np.flatnonzero(problem.folds != k), np.flatnonzero(problem.folds == k)
        fit = problem.fit(training, [held_out, np.arange(n, problem.n_rows)])
        parts.append(fit.predictions[0])
        order.append(held_out)
        share = fit.predictions[1] / n_folds
        test = share if test is None else test + share
        fits.append(fit)
        progress.advance()
    back = xp.asarray(np.argsort(np.concatenate(order)), device=problem.Y.device)
    oof = xp.take(xp.concat(parts), back, axis=0)
    one = problem.one_target
    return CrossValidated(
        oof[:, 0] if one else oof,
        test[:, 0] if one else test,
        converged=np.stack([to_host(fit.solution.converged) for fit in fits]),
        n_iter=np.stack([to_host(fit.solution.n_iter) for fit in fits]),
        gap=np.stack([to_host(fit.solution.gap) for fit in fits]),
        gamma=np.asarray([fit.gamma for fit in fits]),
    )


def fit_predict(
    table: AnyGramTable,
    Y: Array,
    training: Rows,
    groups: Sequence[Rows],
    *,
    C: Array | float,
    epsilon: Array | float,
    tol: float,
    max_iter: int | None,
    engine_name: str,
    sample_weight: Array | None = None,
    target_names: Sequence[str] | None = None,
) -> FoldFit:
    """Train on the `training` rows of a table and predict several groups of its rows.

    `Y` (n, t) are targets of the table's first n rows; `sample_weight` is of the training rows. Predictions,
    (len(group), t), are in the dtype of Y and in its library.
    """
    xp = namespace(Y)
    gamma = table.gamma_of(training)
    solution = solve_duals(
        table.gram(training, training, gamma),
        xp.take(Y, xp.asarray(training, device=Y.device), axis=0),
        C=C,
        epsilon=epsilon,
        tol=tol,
        max_iter=max_iter,
        engine_name=engine_name,
        sample_weight=sample_weight,
        target_names=target_names,
    )
    dual_coef, intercept = (xp.astype(x, Y.dtype) for x in (solution.dual_coef, solution.intercept))
    predictions = [
        xp.astype(table.gram(rows, training, gamma), Y.dtype) @ dual_coef + intercept[None, :]
        for rows in groups
    ]
    return FoldFit(predictions, solution, gamma)


@dataclass(frozen=True)
class _Problem:
    """Checked input: either a table (shared features) or all rows' levels (target-specific features)."""

    svr: MultiTargetSVR
    table: Any
    levels: Any
    Y: Array
    one_target: bool
    folds: Rows
    n_rows: int
    weight: NDArray[np.float64] | None
    target_names: list[str] | None

    @classmethod
    def of(
        cls, svr: MultiTargetSVR, X: Any, Y: Any, folds: Rows, X_test: Any, sample_weight: Any
    ) -> "_Problem":
        if not isinstance(svr.kernel, str):
            raise InputError(
                "a composite kernel learns from the rows of each fold: use scikit-learn's cross_val_predict, which "
                "fits anew for every fold"
            )
        names = target_names_of(Y)
        Y = Y if is_foreign(Y) else np.asarray(Y)
        xp = namespace(Y)
        Y = Y if xp.isdtype(Y.dtype, "real floating") else xp.astype(Y, xp.float64)
        require_finite("Y", Y, names)
        folds = _checked_folds(folds, Y.shape[0])
        columns = Y[:, None] if Y.ndim == 1 else Y
        table = X if isinstance(X, GramTable) else None
        weight = None if sample_weight is None else checked_weight(sample_weight, len(folds))
        if table is None:
            rows = _all_rows(X, X_test, columns)
            if svr.target_features is None:
                largest = len(folds) - int(np.bincount(folds).min())
                choice = choose_engine(svr.engine, columns)
                require_room(rows, rows.shape[0], largest, choice.engine.work_bytes)
                table = GramTable(rows, svr.kernel, svr.gamma)
        else:
            rows = table.X
        return cls(clone(svr), table, rows, columns, Y.ndim == 1, folds, rows.shape[0], weight, names)

    def fit(self, training: Rows, groups: list[Rows]) -> FoldFit:
        """Fit on some rows and predict others."""
        svr = self.svr
        how: dict[str, Any] = {
            "C": svr.C,
            "epsilon": svr.epsilon,
            "tol": svr.tol,
            "max_iter": svr.max_iter,
            "engine_name": svr.engine,
            "sample_weight": None if self.weight is None else self.weight[training],
            "target_names": self.target_names,
        }
        if svr.target_features is None:
            return fit_predict(self.table, self.Y, training, groups, **how)
        xp = namespace(self.Y)
        Y = xp.take(self.Y, xp.asarray(training, device=self.Y.device), axis=0)
        levels = to_host(self.levels)
        learnt = LearntTargetFeatures.learn(svr.target_features, levels[training], to_host(Y), svr.gamma)
        result = solve_target_specific(learnt, Y, test_levels=levels[np.concatenate(groups)], **how)
        predicted = xp.astype(
            xp.asarray(np.ascontiguousarray(result.predicted.T), device=Y.device), Y.dtype, copy=False
        )
        first = len(groups[0])
        return FoldFit([predicted[:first], predicted[first:]], result.as_dual_solution(), learnt.kernel.gamma)


def _all_rows(X: Any, X_test: Any, Y: Array) -> Array:
    """Return training rows and test rows below them."""
    X, X_test = (x if x is None or is_foreign(x) else np.asarray(x, np.float64) for x in (X, X_test))
    xp = namespace(X, Y)
    if X.ndim != 2 or X.shape[0] != Y.shape[0]:
        raise InputError(f"X must be ({Y.shape[0]}, p), one row for each row of Y, not {tuple(X.shape)}")
    require_finite("X", X)
    if X_test is None:
        return X
    if X_test.ndim != 2 or X_test.shape[1] != X.shape[1]:
        raise InputError(f"X_test must be (m, {X.shape[1]}), not {tuple(X_test.shape)}")
    require_finite("X_test", X_test)
    return xp.concat([X, xp.astype(X_test, X.dtype)])


def _checked_folds(folds: Any, n: int) -> Rows:
    folds = np.asarray(to_host(folds))
    if folds.shape != (n,) or not np.issubdtype(folds.dtype, np.integer) or n == 0 or folds.min() < 0:
        raise InputError(f"folds must be whole numbers from 0, one for each of {n} rows, not {folds.shape}")
    empty = np.flatnonzero(np.bincount(folds) == 0)
    if len(empty) or folds.max() == 0:
        raise InputError(f"fold {empty[0]} has no rows" if len(empty) else "there must be at least 2 folds")
    return np.asarray(folds, dtype=np.intp)
