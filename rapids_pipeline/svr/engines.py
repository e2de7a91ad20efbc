"""The registry of SVR engines, and how they are called: name → a function that solves many duals on one Gram matrix.

douglas-rachford   all targets at once by matrix products; array API: numpy, cupy, torch
smo                target by target, numba; works on the host
sklearn            one scikit-learn SVR a target on the Gram matrix, which libsvm keeps in float32; works on the host
cuml               one cuML SVR a target; needs an NVIDIA GPU. Where its version has no precomputed kernel, the linear
                   kernel on the rows of W Λ^½ (K = W Λ Wᵀ), whose inner products are K, so the dual is the same
ridge              kernel ridge regression, penalty 1/C, by one factorisation; array API. Squared errors are another
                   problem than the others', so "auto" never takes it
auto               one of the first two, chosen by the kernel, by where the arrays live and how many targets there are

The `gap` of a library's SVR is measured here in float64 on what it returned. `converged` says for scikit-learn that its
own stopping rule ended it, which in float32 may be a little early. cuML does not say why it ended: its `max_iter`
limits all iterations and its `n_iter_` counts the outer ones, and it also ends where U − L no longer changes. So there
`converged` is judged by the gap.
"""

import functools
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from rapids_pipeline.backend.arrays import (
    Array,
    Float64,
    Floats,
    Indices,
    checked_weights,
    namespace,
    to_host,
)
from rapids_pipeline.backend.errors import InputError, UnavailableError, meant
from rapids_pipeline.backend.progress import Progress
from rapids_pipeline.svr import douglas_rachford, kernel_ridge
from rapids_pipeline.svr.dual import DualSolution, optimality_gap, take

FEW_TARGETS = 500
"""Below this many targets SMO's start (loading or compiling its code) costs more than it saves."""
NAMED_TARGETS = 10
CUML_REMEDY = (
    "the cuml engine needs RAPIDS cuML and an NVIDIA GPU: pip install '.[gpu-cu13]' "
    "(or gpu-cu12), or choose another engine"
)
BOUND_ROUNDING = 1e-6
"""A coefficient this close to its bound, relatively, is at it: the bound went through float32 or a division."""
GAP_ROUNDING = 1e-5
"""What rounding may add to a gap, in units of the largest |y|; besides, cuML's own f may be off by as much as tol."""


class NotConvergedWarning(UserWarning):
    """Some targets missed the tolerance within max_iter; the message names them."""


@dataclass(frozen=True)
class Engine:
    """An engine and what has to be known to call it.

    Attributes
    ----------
    name : str
    solve : callable
        (K (n, n), Y (n, t), C, epsilon, tol, max_iter, progress) → `DualSolution` in the library of the input; all
        but K and Y by name, C and epsilon numbers or (1 or n, 1 or t).
    max_iter : int
        How many of its own iterations a target may take unless told otherwise.
    work_bytes : int
        Memory it takes for each entry of the Gram matrix, the float64 matrix itself included.
    takes : tuple of str
        The array libraries it works on; arrays of others are copied to the host for it and back.
    require : callable
        Raises UnavailableError where the engine cannot run.
    """

    name: str
    solve: Callable[..., DualSolution]
    max_iter: int
    work_bytes: int
    takes: tuple[str, ...] = ("numpy", "cupy", "torch", "array_api_strict")
    require: Callable[[], Any] = lambda: None


@dataclass(frozen=True)
class Choice:
    """The engine chosen for a problem and, in words, why."""

    engine: Engine
    reason: str


def _smo(K: Float64, Y: Float64, **how: Any) -> DualSolution:
    from rapids_pipeline.svr.smo.solver import solve  # numba takes its time to load

    return solve(K, Y, **how)


def solve_sklearn(K: Float64, Y: Floats, *, tol: float, max_iter: int, **how: Any) -> DualSolution:
    """Solve with one `sklearn.svm.SVR` a target; arguments as `Engine.solve`."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.svm import SVR

    make = functools.partial(SVR, kernel="precomputed", tol=tol, max_iter=max_iter)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # counted and reported by name instead
        return _loop(make, K, K, Y, max_iter=max_iter, **how)


def solve_cuml(K: Array, Y: Array, *, tol: float, max_iter: int, **how: Any) -> DualSolution:
    """Solve with one `cuml.svm.SVR` a target; arguments as `Engine.solve`."""
    regressor = cuml_regressor()
    kernel, features = ("precomputed", K) if _has_precomputed(regressor) else ("linear", _square_root(K))
    make = functools.partial(regressor, kernel=kernel, tol=tol, max_iter=max_iter)
    solution = _loop(make, features, K, Y, max_iter=max_iter, **how)
    largest = namespace(Y).max(namespace(Y).abs(Y))
    return replace(solution, converged=solution.gap <= 2 * tol + GAP_ROUNDING * largest)


def _loop(
    make: Callable[..., Any],
    features: Array,
    K: Array,
    Y: Array,
    *,
    C: Array | float,
    epsilon: Array | float,
    max_iter: int,
    progress: Progress | None = None,
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
        model = make(C=float(column.max()), epsilon=float(tube[0, t % tube.shape[1]]))
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


def cuml_regressor() -> Any:
    """Return `cuml.svm.SVR`; UnavailableError where it cannot be imported."""
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


# --- registry and choice --------------------------------------------------------------------------------------


ENGINES = {
    engine.name: engine
    for engine in (
        Engine("douglas-rachford", douglas_rachford.solve, 2000, work_bytes=56),
        Engine("smo", _smo, 1_000_000, 20, ("numpy",)),
        Engine("sklearn", solve_sklearn, 10_000_000, 28, ("numpy",)),
        Engine("cuml", solve_cuml, 100_000, 40, ("numpy", "cupy"), cuml_regressor),
        Engine("ridge", kernel_ridge.solve, 1, 48),
    )
}

OF_OWN_KERNELS = ("douglas-rachford", "smo")
"""Engines that also solve targets with a kernel each (`rapids_pipeline.svr.own_target`)."""


def choose_engine(name: str, Y: Array, *, own_target: bool = False) -> Choice:
    """Return the engine called `name`; "auto" picks one for targets `Y` (n, n_targets).

    Parameters
    ----------
    name : str
        "auto" or a key of `ENGINES`.
    Y : array, (n, n_targets)
    own_target : bool
        Whether every target has a kernel of its own, which only `OF_OWN_KERNELS` solve.

    Raises
    ------
    InputError
        There is no such engine (the message lists them), or it cannot solve kernels of each target's own.
    UnavailableError
        The engine asked for cannot run here; the message says what to install.
    """
    if name != "auto" and name not in ENGINES:
        raise InputError(
            f"no SVR engine {name!r}{meant(name, ENGINES)}; choose one of auto, {', '.join(ENGINES)}"
        )
    if own_target and name not in ("auto", *OF_OWN_KERNELS):
        raise InputError(
            f"engine {name!r} solves one kernel that all targets share; statistics of each target's own need one of "
            f"auto, {', '.join(OF_OWN_KERNELS)}"
        )
    if name != "auto":
        ENGINES[name].require()
        return Choice(ENGINES[name], "asked for")
    rachford, pairs = ENGINES["douglas-rachford"], ENGINES["smo"]
    if not isinstance(Y, np.ndarray):
        return Choice(rachford, "auto: the arrays are not numpy's")
    if own_target:
        return Choice(pairs, "auto: numpy arrays, and every target has a kernel of its own")
    if Y.shape[1] < FEW_TARGETS:
        return Choice(rachford, f"auto: fewer than {FEW_TARGETS} targets")
    return Choice(pairs, f"auto: numpy arrays and at least {FEW_TARGETS} targets")


def solve_duals(
    K: Array,
    Y: Array,
    *,
    C: Array | float,
    epsilon: Array | float,
    tol: float,
    max_iter: int | None,
    engine_name: str,
    sample_weight: Array | None = None,
    target_names: Sequence[str] | None = None,
    progress: Progress | None = None,
) -> DualSolution:
    """Solve with a named engine, or the one "auto" picks, and warn of every target that did not converge.

    Parameters
    ----------
    K, Y : array, (n, n) and (n, n_targets)
        Of one array library; so is the solution, wherever the engine works.
    C, epsilon : float or array of shape (n_targets,)
    tol : float
    max_iter : int, optional
        By default the engine's own limit.
    engine_name : str
    sample_weight : array, (n,), optional
        Multiplies C row by row; rows of weight 0 are left out, and their β is 0.
    target_names : sequence of str, optional
        For the warning; by default the targets' positions.

    Raises
    ------
    InputError
        C or epsilon of the wrong size or sign, weights that cannot be used, no such engine.
    """
    engine = choose_engine(engine_name, Y).engine
    n, n_targets = Y.shape
    bound, tube = checked_box(C, epsilon, n_targets)
    limit = iteration_limit(tol, max_iter, engine)
    if sample_weight is None:
        solution = _solved(engine, K, Y, bound, tube, tol, limit, progress)
    else:
        weight = checked_weights(sample_weight, n)
        kept = np.flatnonzero(weight)
        box = np.atleast_1d(bound)[None, :] * weight[kept, None]
        inside = K if len(kept) == n else take(take(K, kept, 0), kept, 1)
        solution = _solved(engine, inside, take(Y, kept, 0), box, tube, tol, limit, progress)
        solution = _scattered(solution, kept, n)
    warn_of_missed(solution.converged, solution.gap, tol, limit, target_names)
    return solution


class AnyGramTable(Protocol):
    """A kernel over a fixed set of rows, of which any rectangle can be had, as `rapids_pipeline.svr.dual.GramTable`."""

    def gamma_of(self, training_rows: Indices) -> float:
        """Return γ for a fold that trains on `training_rows`."""

    def gram(self, rows: Indices, columns: Indices, gamma: float) -> Array:
        """Return K over rows × columns, float64."""


@dataclass(frozen=True)
class TableFit:
    """One fit on some rows of a table: predictions of the groups of rows asked for, and how it went."""

    predictions: list[Array]
    solution: DualSolution
    gamma: float


def fit_on_table(
    table: AnyGramTable, Y: Array, training: Indices, groups: Sequence[Indices], **how: Any
) -> TableFit:
    """Train on the `training` rows of a table and predict several groups of its rows: K(group, training) β + b.

    `Y` (n, t) are targets of the table's first n rows; `how` is what `solve_duals` takes, `sample_weight` being of the
    training rows. γ and the solution are made from the training rows alone. Predictions, (len(group), t), are in the
    dtype of Y and in its library.
    """
    xp = namespace(Y)
    gamma = table.gamma_of(training)
    solution = solve_duals(table.gram(training, training, gamma), take(Y, training, 0), **how)
    dual_coef, intercept = (xp.astype(x, Y.dtype) for x in (solution.dual_coef, solution.intercept))
    predictions = [
        xp.astype(table.gram(rows, training, gamma), Y.dtype) @ dual_coef + intercept[None, :]
        for rows in groups
    ]
    return TableFit(predictions, solution, gamma)


def checked_box(C: Array | float, epsilon: Array | float, n_targets: int) -> tuple[Any, Any]:
    """Return C and epsilon, each a float or (n_targets,) float64 on the host; InputError where one cannot be used."""
    found = []
    for name, value, usable, within in (
        ("C", C, np.greater, "positive and finite"),
        ("epsilon", epsilon, np.greater_equal, "finite and not negative"),
    ):
        numbers = np.asarray(to_host(value), dtype=np.float64)
        if numbers.shape not in ((), (n_targets,)):
            raise InputError(
                f"{name} must be a number or one for each of {n_targets} targets, not {numbers.shape}"
            )
        if not (np.isfinite(numbers) & usable(numbers, 0)).all():
            raise InputError(f"{name} must be {within} for every target, not {value!r}")
        found.append(numbers if numbers.ndim else float(numbers))
    return found[0], found[1]


def iteration_limit(tol: float, max_iter: int | None, engine: Engine) -> int:
    """Return `max_iter`, or the engine's own limit; InputError where it or the tolerance cannot be used."""
    if not 0 < tol < np.inf:
        raise InputError(f"tol must be positive and finite, not {tol}")
    if max_iter is not None and max_iter < 1:
        raise InputError(f"max_iter must be at least 1, not {max_iter}")
    return engine.max_iter if max_iter is None else int(max_iter)


def warn_of_missed(
    converged: Array, gap: Array, tol: float, limit: int, target_names: Sequence[str] | None
) -> None:
    """Warn with the names (or positions) of the targets that did not converge."""
    missed = np.flatnonzero(~to_host(converged))
    if not len(missed):
        return
    names = [str(t) if target_names is None else str(target_names[t]) for t in missed[:NAMED_TARGETS]]
    warnings.warn(
        f"{len(missed)} of {len(to_host(converged))} SVR targets did not reach tol={tol} in {limit} iterations "
        f"(largest gap {float(to_host(gap).max()):.3g}); targets {', '.join(names)}"
        f"{' …' if len(missed) > NAMED_TARGETS else ''}: raise max_iter or tol",
        NotConvergedWarning,
        stacklevel=4,
    )


def _solved(
    engine: Engine,
    K: Array,
    Y: Array,
    C: Float64 | float,
    epsilon: Float64 | float,
    tol: float,
    limit: int,
    progress: Progress | None,
) -> DualSolution:
    """Call an engine on arrays it takes; the solution comes back in the library of the input."""
    xp, device = namespace(K, Y), K.device
    moved = xp.__name__.split(".")[-1] not in engine.takes
    if moved:
        K, Y = to_host(K), to_host(Y)
    inner = namespace(K)
    bounds = {
        name: inner.asarray(np.atleast_2d(value), device=K.device) if isinstance(value, np.ndarray) else value
        for name, value in (("C", C), ("epsilon", epsilon))
    }
    solution = engine.solve(K, Y, **bounds, tol=tol, max_iter=limit, progress=progress)
    return solution.mapped(lambda x: xp.asarray(x, device=device)) if moved else solution


def _scattered(solution: DualSolution, kept: Indices, n: int) -> DualSolution:
    """Return the solution on all n rows, β = 0 at those that were left out."""
    xp = namespace(solution.dual_coef)
    place = np.full(n, len(kept))
    place[kept] = np.arange(len(kept))
    beta = solution.dual_coef
    nothing = xp.zeros((1, beta.shape[1]), dtype=beta.dtype, device=beta.device)
    return replace(solution, dual_coef=take(xp.concat([beta, nothing]), place, 0))
