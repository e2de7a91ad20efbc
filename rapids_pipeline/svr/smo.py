r"""Sequential minimal optimisation for thousands of SVRs, each with its own factored kernel.

The dual of epsilon-SVR for target t (β = α − α*, f = y_t − K_t β):

    min_β ½ βᵀK_tβ − y_tᵀβ + ε‖β‖₁    subject to  1ᵀβ = 0,  |β_i| ≤ C_i

moves two coordinates at a time, β_i + s and β_j − s. With u_i = f_i − (ε if β_i ≥ 0 else −ε) for β_i < C_i
and l_j = f_j − (ε if β_j > 0 else −ε) for β_j > −C_j, the dual falls at rate u_i − l_j. Second-order selection:

    i = argmax u,   j = argmax over l_j < u_i of (u_i − l_j)² / (K_ii + K_jj − 2K_ij),   s exact, past zeros

until U − L = max u − min l ≤ tol. This is LIBSVM's problem in n variables instead of 2n.

Target-specific features never become a matrix. Where every feature belongs to one of two groupings of the
rows (such as compound and cell type), the RBF kernel is a product of two small tables per target,

    K_t[i, j] = A_t[a_i, a_j] · B_t[b_i, b_j],   A_t = exp(−γ_t (D_1 + ‖S_t1[a] − S_t1[a']‖²)),  B_t likewise,

with D the squared distances of what all targets share and S_t the statistics of target t.

The inner loop is float32; β is float64 throughout, and f, U − L, b and the predictions are computed from it
in float64 (for a Gram matrix that all targets share in float32 where the rounding is far below tol, see
`smo_shared`). Where U − L is too large there, the iterations go on in float64.

Sources: Fan, Chen and Lin, JMLR 6 (2005), 1889–1918 (second-order selection, "WSS 2"); Chang and Lin, LIBSVM,
ACM TIST 2 (2011), section 4 (stopping, intercept).
"""

from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from rapids_pipeline.backend.errors import InputError, UnavailableError
from rapids_pipeline.backend.progress import Progress
from rapids_pipeline.svr.smo_arrays import dense_work, factored_work
from rapids_pipeline.svr.smo_problem import (
    DEFAULT_MAX_ITER,
    FactoredKernel,
    Floats,
    Grouping,
    Indices,
    SmoOptions,
    SmoResult,
    checked_levels,
)
from rapids_pipeline.svr.smo_run import Run
from rapids_pipeline.svr.smo_shared import SharedGram, WarmStart
from rapids_pipeline.svr.solution import DualSolution

__all__ = [
    "DEFAULT_MAX_ITER",
    "FactoredKernel",
    "Grouping",
    "SmoOptions",
    "SmoResult",
    "predict_factored",
    "require_numba",
    "scale_gamma",
    "solve",
    "solve_dense",
    "solve_factored",
]

NUMBA_REMEDY = "the SMO solver needs numba: pip install 'rapids-perturb[cpu]'"


def solve_factored(
    kernel: FactoredKernel,
    rows: Indices,
    Y: Floats,
    options: SmoOptions | None = None,
    *,
    test_rows: Indices | None = None,
    initial: Floats | None = None,
    progress: Progress | None = None,
) -> SmoResult:
    """Solve every target's SVR on its own factored kernel.

    Parameters
    ----------
    kernel : FactoredKernel
    rows : array of int, (2, n_rows)
        Levels (a_i, b_i) of each training row; any pairs, in any order, repeats included.
    Y : array, (n_rows, n_targets)
    options : SmoOptions, optional
    test_rows : array of int, (2, n_test_rows), optional
        Levels of rows to predict while the tables are at hand (cheaper than `predict_factored`).
    initial : array, (n_targets, n_rows), optional
        β to start from; made feasible first.
    progress : Progress, optional

    Raises
    ------
    InputError
        Shapes, levels or values that cannot be used.
    UnavailableError
        numba is not installed.
    """
    targets = kernel.gamma.size
    rows = checked_levels(kernel, rows, "rows")
    tests = checked_levels(kernel, _NO_ROWS if test_rows is None else test_rows, "test_rows")
    if Y.shape != (rows.shape[1], targets):
        raise InputError(f"Y must be {(rows.shape[1], targets)}, (rows, targets), not {Y.shape}")
    order = np.lexsort((rows[0], rows[1]))  # the kernels want rows sorted by the second grouping
    run = Run(_numba_kernels(), Y, order, options or SmoOptions(), tests, kernel, initial)
    return run.solve(lambda: factored_work(run.kernels, kernel, rows[:, order]), progress)


def predict_factored(
    kernel: FactoredKernel, rows: Indices, test_rows: Indices, dual_coef: Floats, intercept: Floats
) -> Floats:
    """Return K_test β + b, (n_targets, n_test_rows), for solutions of `solve_factored` on the same kernel."""
    still = SmoOptions(C=np.inf, epsilon=0.0, max_iter=0)
    nothing = np.broadcast_to(0.0, dual_coef.shape[::-1])
    at = solve_factored(kernel, rows, nothing, still, test_rows=test_rows, initial=dual_coef)
    return np.asarray(at.predicted - at.intercept[:, None] + intercept[:, None])


def solve_dense(
    K: Floats,
    Y: Floats,
    options: SmoOptions | None = None,
    *,
    initial: Floats | None = None,
    progress: Progress | None = None,
) -> SmoResult:
    """Solve every target's SVR on one Gram matrix `K` (n_rows, n_rows), which all share.

    Several pairs move at a time (`smo_pairs`); what all targets have in common is done by products
    (`smo_shared`). `Y`, `options`, `initial` and `progress` as in `solve_factored`.
    """
    if K.ndim != 2 or K.shape[0] != K.shape[1] or Y.ndim != 2 or Y.shape[0] != K.shape[0]:
        raise InputError(f"K must be square and Y (rows, targets), not {K.shape} and {Y.shape}")
    if not np.isfinite(K).all():
        raise InputError("K has values that are not finite")
    options = options or SmoOptions()
    kernels = _numba_kernels()
    gram = SharedGram.of(K, WarmStart.build(K, Y.shape[1]) if initial is None else None)
    run = Run(kernels, Y, np.arange(K.shape[0]), options, _NO_ROWS, None, initial, gram)
    return run.solve(lambda: dense_work(kernels, gram.fast, gram.exact), progress)


def solve(
    K: Floats,
    Y: Floats,
    *,
    C: float | ArrayLike = 1.0,
    epsilon: float | ArrayLike = 0.1,
    tol: float = 1e-3,
    max_iter: int = DEFAULT_MAX_ITER,
    progress: Progress | None = None,
) -> DualSolution:
    """Solve on one shared Gram matrix: `solve_dense` with the signature of every engine."""
    options = SmoOptions(C=C, epsilon=epsilon, tol=tol, max_iter=max_iter)
    return solve_dense(K, Y, options, progress=progress).as_dual_solution()


def scale_gamma(
    rows: Indices,
    statistics_1: Floats,
    statistics_2: Floats,
    *,
    n_shared: int,
    shared_sum: float,
    shared_sum_of_squares: float,
) -> Floats:
    """Return scikit-learn's gamma="scale", 1 / (p·Var(X_t)), of every target without building X_t.

    X_t (n_rows, p) would hold, for training row i = (a_i, b_i), the shared features and the statistics of
    levels a_i and b_i, so its sums are those of the shared part plus the statistics weighted by how many rows a
    level has. Where X_t is constant, gamma is 1.

    Parameters
    ----------
    rows : array of int, (2, n_rows)
        Levels of the training rows.
    statistics_1, statistics_2 : array, (n_targets, n_levels, n_statistics)
    n_shared : int
        Number of shared feature columns.
    shared_sum, shared_sum_of_squares : float
        Over all n_rows · n_shared entries of the shared features.
    """
    width = n_shared + statistics_1.shape[2] + statistics_2.shape[2]
    total, squares = np.float64(shared_sum), np.float64(shared_sum_of_squares)
    for groups, statistics in zip(rows, (statistics_1, statistics_2), strict=True):
        count = np.bincount(groups, minlength=statistics.shape[1]).astype(np.float64)
        total = total + np.einsum("tgs,g->t", statistics, count, dtype=np.float64)
        squares = squares + np.einsum("tgs,tgs,g->t", statistics, statistics, count, dtype=np.float64)
    entries = rows.shape[1] * width
    variance = squares / entries - (total / entries) ** 2
    positive = variance > 1e-14 * squares / entries
    return np.asarray(1.0 / np.where(positive, width * variance, 1.0))


_NO_ROWS = np.empty((2, 0), dtype=np.uint32)


def require_numba() -> None:
    """Raise UnavailableError where numba is not installed."""
    if find_spec("numba") is None:
        raise UnavailableError(NUMBA_REMEDY)


def _numba_kernels() -> Any:
    try:
        return import_module("rapids_pipeline.svr.smo_kernels")
    except ImportError as error:
        raise UnavailableError(f"{NUMBA_REMEDY} ({error})") from error
