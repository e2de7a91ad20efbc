"""One library SVR per target on the shared Gram matrix: the references that the other engines are measured by.

scikit-learn    SVR(kernel="precomputed"), libsvm, which keeps K in float32
cuML            SVR(kernel="precomputed"); where its version has no such kernel, the linear kernel on the rows of
                W Λ^½ (K = W Λ Wᵀ), whose inner products are K, so the dual is the same

`gap` is measured here in float64 on what the library returned. `converged` says for scikit-learn that its own stopping
rule ended it, which in float32 may be a little early. cuML does not say why it ended: its `max_iter` limits all
iterations and its `n_iter_` counts the outer ones, and it also ends where U − L no longer changes. So there `converged`
is judged by the gap.
"""

import functools
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from rapids_pipeline.backend.arrays import Array, Float64, Floats, namespace, to_host
from rapids_pipeline.backend.errors import UnavailableError
from rapids_pipeline.backend.progress import Progress
from rapids_pipeline.svr.solution import DualSolution, optimality_gap

CUML_REMEDY = (
    "the cuml engine needs RAPIDS cuML and an NVIDIA GPU: pip install '.[gpu-cu13]' "
    "(or gpu-cu12), or choose another engine"
)
BOUND_ROUNDING = 1e-6
"""A coefficient this close to its bound, relatively, is at it: the bound went through float32 or a division."""
GAP_ROUNDING = 1e-5
"""What rounding may add to a gap, in units of the largest |y|; besides, cuML's own f may be off by as much as tol."""


def solve_sklearn(
    K: Float64,
    Y: Floats,
    *,
    C: Array | float,
    epsilon: Array | float,
    tol: float,
    max_iter: int,
    progress: Progress | None = None,
) -> DualSolution:
    """Solve with one `sklearn.svm.SVR` a target; arguments as `rapids_pipeline.svr.engines.SharedGramEngine`."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.svm import SVR

    def make(bound: float, tube: float) -> Any:
        return SVR(kernel="precomputed", C=bound, epsilon=tube, tol=tol, max_iter=max_iter)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # counted and reported by name instead
        return _loop(make, K, K, Y, C, epsilon, max_iter, progress)


def solve_cuml(
    K: Array,
    Y: Array,
    *,
    C: Array | float,
    epsilon: Array | float,
    tol: float,
    max_iter: int,
    progress: Progress | None = None,
) -> DualSolution:
    """Solve with one `cuml.svm.SVR` a target; arguments as `rapids_pipeline.svr.engines.SharedGramEngine`."""
    regressor = _cuml_regressor()
    kernel = "precomputed" if _has_precomputed(regressor) else "linear"

    def make(bound: float, tube: float) -> Any:
        return regressor(kernel=kernel, C=bound, epsilon=tube, tol=tol, max_iter=max_iter)

    features = K if kernel == "precomputed" else _square_root(K)
    solution = _loop(make, features, K, Y, C, epsilon, max_iter, progress)
    largest = namespace(Y).max(namespace(Y).abs(Y))
    return replace(solution, converged=solution.gap <= 2 * tol + GAP_ROUNDING * largest)


def require_cuml() -> None:
    """Raise UnavailableError where cuML cannot be imported."""
    _cuml_regressor()


def _loop(
    make: Callable[[float, float], Any],
    features: Array,
    K: Array,
    Y: Array,
    C: Array | float,
    epsilon: Array | float,
    max_iter: int,
    progress: Progress | None,
) -> DualSolution:
    """Fit one regressor a target and judge its coefficients in float64."""
    xp = namespace(K, Y)
    n, targets = Y.shape
    box = np.atleast_2d(np.asarray(to_host(C) if hasattr(C, "shape") else C, np.float64))
    tube = np.atleast_2d(np.asarray(to_host(epsilon) if hasattr(epsilon, "shape") else epsilon, np.float64))
    beta, intercept = np.zeros((n, targets)), np.zeros(targets)
    n_iter = np.zeros(targets, np.int32)
    progress = progress or Progress()
    progress.start(targets)
    for t in range(targets):
        column = box[:, t % box.shape[1]]
        weight = None if len(column) == 1 else column / column.max()
        model = make(float(column.max()), float(tube[0, t % tube.shape[1]]))
        model.fit(features, xp.astype(Y[:, t], K.dtype), sample_weight=weight)
        beta[to_host(model.support_).astype(np.intp), t] = to_host(model.dual_coef_).ravel()
        bounded = np.abs(beta[:, t]) > column * (1 - BOUND_ROUNDING)
        beta[:, t] = np.where(bounded, np.copysign(column, beta[:, t]), beta[:, t])
        intercept[t] = float(to_host(model.intercept_).ravel()[0])
        n_iter[t] = int(np.max(getattr(model, "n_iter_", 0)))
        progress.advance()
    box, tube, dual_coef = (xp.asarray(x, device=K.device) for x in (box, tube, beta))
    U, L = optimality_gap(xp.astype(Y, xp.float64) - K @ dual_coef, dual_coef, box, tube)
    intercept, n_iter = (xp.asarray(x, device=K.device) for x in (intercept, n_iter))
    return DualSolution(dual_coef, intercept, n_iter, gap=U - L, converged=n_iter < max_iter)


def _square_root(K: Array) -> Array:
    """Return rows whose inner products are K, (n, n)."""
    xp = namespace(K)
    values, vectors = xp.linalg.eigh(K)
    return vectors * xp.sqrt(xp.where(values > 0, values, xp.zeros_like(values)))[None, :]


def _cuml_regressor() -> Any:
    try:
        from cuml.svm import SVR as regressor
    except Exception as error:  # a broken CUDA installation fails in many ways, never only ImportError
        raise UnavailableError(f"{CUML_REMEDY} ({type(error).__name__}: {error})") from error
    return regressor


@functools.cache
def _has_precomputed(regressor: Any) -> bool:
    """Say whether this cuML solves a precomputed kernel (added after 24.x), by solving two rows."""
    try:
        regressor(kernel="precomputed").fit(np.eye(2), np.asarray([0.0, 1.0]))
    except Exception:  # versions without it fail in the constructor (KeyError) or in fit
        return False
    return True
