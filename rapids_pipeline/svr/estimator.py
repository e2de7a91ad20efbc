"""`MultiTargetSVR`: a thin scikit-learn estimator over the engines."""

import warnings
from typing import Self

import numpy as np
from sklearn.base import BaseEstimator, MultiOutputMixin, RegressorMixin

from rapids_pipeline.backend.arrays import Array, namespace, to_host
from rapids_pipeline.backend.progress import Progress
from rapids_pipeline.svr.engines import choose_engine
from rapids_pipeline.svr.gram import Gamma, GramTable, Kernel
from rapids_pipeline.svr.solution import DualSolution


class NotConvergedWarning(UserWarning):
    """Some targets missed the tolerance within max_iter; the message names them."""


class MultiTargetSVR(MultiOutputMixin, RegressorMixin, BaseEstimator):
    """Epsilon-SVR of every target on shared features, all targets at once.

    For each target the optimum of scikit-learn's `SVR` with the same parameters (see
    `rapids_pipeline.svr.douglas_rachford` for the problem and the method), from one Gram matrix.

    Parameters
    ----------
    C : float
        Bound on |β_i|, in the unit of the target.
    epsilon : float
        Half-width of the tube in which errors cost nothing, in the unit of the target.
    kernel : {"rbf", "linear", "precomputed"}
    gamma : float or "scale"
        For "rbf"; "scale" is 1 / (n_features · Var(X)) over the training rows.
    tol : float
        Bound on libsvm's U − L, in the unit of the target.
    max_iter : int, optional
        Iterations a target may take; by default the limit of the engine.
    engine : str
        "auto" or a name in `rapids_pipeline.svr.engines.ENGINES`.

    Attributes
    ----------
    dual_coef_ : array, (n_samples, n_targets)
        β, zero rows included. Arrays are of the library that Y was.
    intercept_, n_iter_, gap_, converged_ : array, (n_targets,)
    gamma_ : float
    n_features_in_ : int
    """

    def __init__(
        self,
        *,
        C: float = 1.0,
        epsilon: float = 0.1,
        kernel: Kernel = "rbf",
        gamma: Gamma = "scale",
        tol: float = 1e-3,
        max_iter: int | None = None,
        engine: str = "auto",
    ) -> None:
        self.C = C
        self.epsilon = epsilon
        self.kernel = kernel
        self.gamma = gamma
        self.tol = tol
        self.max_iter = max_iter
        self.engine = engine

    def fit(self, X: Array, Y: Array, progress: Progress | None = None) -> Self:
        """Solve every column of `Y` (n_samples, n_targets) or (n_samples,) on `X` (n_samples, n_features).

        Raises
        ------
        ValueError
            Shapes that do not fit, non-finite values, unknown kernel or engine.

        Warns
        -----
        NotConvergedWarning
            With the indices of the targets that missed `tol`.
        """
        xp = namespace(X, Y)
        if X.ndim != 2 or Y.ndim not in (1, 2) or Y.shape[0] != X.shape[0]:
            raise ValueError(f"X must be (n, p) and Y (n, t) or (n,), not {tuple(X.shape)}, {tuple(Y.shape)}")
        for name, values in (("X", X), ("Y", Y)):
            if not bool(xp.all(xp.isfinite(values))):
                first = np.argwhere(~np.isfinite(to_host(values)))[0]
                raise ValueError(f"{name} is not finite at {tuple(int(i) for i in first)}")
        self.n_features_in_ = X.shape[1]
        self._one_target = Y.ndim == 1
        table = GramTable(X, self.kernel, self.gamma)
        rows = np.arange(X.shape[0])
        self.gamma_ = table.gamma_of(rows)
        solution = solve_duals(
            table.gram(rows, rows, self.gamma_),
            Y[:, None] if self._one_target else Y,
            C=self.C,
            epsilon=self.epsilon,
            tol=self.tol,
            max_iter=self.max_iter,
            engine_name=self.engine,
            progress=progress,
        )
        self.X_fit_ = table.X
        self.dual_coef_, self.intercept_ = solution.dual_coef, solution.intercept
        self.n_iter_, self.gap_, self.converged_ = solution.n_iter, solution.gap, solution.converged
        return self

    def predict(self, X: Array) -> Array:
        """Return K(X, X_fit) β + b, (n_samples, n_targets), or (n_samples,) after a fit on a 1-D target."""
        xp = namespace(X)
        if X.shape[1] != self.n_features_in_:
            raise ValueError(f"X has {X.shape[1]} features, the fit had {self.n_features_in_}")
        X = xp.astype(X, xp.float64)
        if self.kernel == "precomputed":
            K = X
        else:
            n = X.shape[0]
            table = GramTable(xp.concat([X, self.X_fit_]), self.kernel, self.gamma_)
            K = table.gram(np.arange(n), np.arange(n, n + self.X_fit_.shape[0]), self.gamma_)
        predicted = xp.astype(K, self.dual_coef_.dtype) @ self.dual_coef_ + self.intercept_[None, :]
        return predicted[:, 0] if self._one_target else predicted


def solve_duals(
    K: Array,
    Y: Array,
    *,
    C: float,
    epsilon: float,
    tol: float,
    max_iter: int | None,
    engine_name: str,
    progress: Progress | None = None,
) -> DualSolution:
    """Solve with a named engine, or the one "auto" picks, and warn of every target that did not converge."""
    engine = choose_engine(engine_name, Y).engine
    limit = engine.max_iter if max_iter is None else max_iter
    solution = engine.solve(K, Y, C=C, epsilon=epsilon, tol=tol, max_iter=limit, progress=progress)
    missed = np.flatnonzero(~to_host(solution.converged))
    if len(missed):
        worst = float(to_host(solution.gap).max())
        warnings.warn(
            f"{len(missed)} of {Y.shape[1]} SVR targets did not reach tol={tol} in {limit} iterations "
            f"(largest gap {worst:.3g}); targets {', '.join(map(str, missed[:10]))}"
            f"{' …' if len(missed) > 10 else ''}: raise max_iter or tol",
            NotConvergedWarning,
            stacklevel=3,
        )
    return solution
