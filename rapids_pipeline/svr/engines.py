"""The registry of SVR engines, and how they are called: name → a function that solves many duals on one Gram matrix.

douglas-rachford   all targets at once by matrix products; array API: numpy, cupy, torch
smo                target by target, numba; works on the host
sklearn            one scikit-learn SVR a target on the precomputed Gram; works on the host
cuml               one cuML SVR a target; needs an NVIDIA GPU
ridge              kernel ridge regression, penalty 1/C, by one factorisation; array API. Squared errors are another
                   problem than the others', so "auto" never takes it
auto               one of the first two, chosen by the kernel, by where the arrays live and how many targets there are
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from rapids_pipeline.backend.arrays import Array, Float64, Indices, namespace, to_host
from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.backend.progress import Progress
from rapids_pipeline.svr import douglas_rachford, kernel_ridge, reference
from rapids_pipeline.svr.solution import DualSolution

FEW_TARGETS = 500
"""Below this many targets SMO's start (loading or compiling its code) costs more than it saves."""
NAMED_TARGETS = 10


class NotConvergedWarning(UserWarning):
    """Some targets missed the tolerance within max_iter; the message names them."""


class SharedGramEngine(Protocol):
    """Solves min ½βᵀKβ − yᵀβ + ε‖β‖₁, 1ᵀβ = 0, |β| ≤ C for every column y of Y."""

    def __call__(
        self,
        K: Array,
        Y: Array,
        *,
        C: Array | float,
        epsilon: Array | float,
        tol: float,
        max_iter: int,
        progress: Progress | None = None,
    ) -> DualSolution:
        """Return the solutions for K (n, n) and Y (n, n_targets), in the library of the input."""


@dataclass(frozen=True)
class Engine:
    """An engine and what has to be known to call it.

    Attributes
    ----------
    name : str
    solve : SharedGramEngine
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
    solve: SharedGramEngine
    max_iter: int
    work_bytes: int
    takes: tuple[str, ...] = ("numpy", "cupy", "torch", "array_api_strict")
    require: Callable[[], None] = lambda: None


@dataclass(frozen=True)
class Choice:
    """The engine chosen for a problem and, in words, why."""

    engine: Engine
    reason: str


def _smo(K: Float64, Y: Float64, **how: Any) -> DualSolution:
    from rapids_pipeline.svr.smo.solver import solve  # numba takes its time to load

    return solve(K, Y, **how)


ENGINES = {
    engine.name: engine
    for engine in (
        Engine("douglas-rachford", douglas_rachford.solve, 2000, work_bytes=56),
        Engine("smo", _smo, 1_000_000, 20, ("numpy",)),
        Engine("sklearn", reference.solve_sklearn, 10_000_000, 28, ("numpy",)),
        Engine("cuml", reference.solve_cuml, 100_000, 40, ("numpy", "cupy"), reference.require_cuml),
        Engine("ridge", kernel_ridge.solve, 1, 48),
    )
}


def choose_engine(name: str, Y: Array, *, own_target: bool = False) -> Choice:
    """Return the engine called `name`; "auto" picks one for targets `Y` (n, n_targets).

    Parameters
    ----------
    name : str
        "auto" or a key of `ENGINES`.
    Y : array, (n, n_targets)
    own_target : bool
        Whether every target has a kernel of its own, which only smo solves.

    Raises
    ------
    InputError
        There is no such engine (the message lists them), or it cannot solve kernels of each target's own.
    UnavailableError
        The engine asked for cannot run here; the message says what to install.
    """
    if name != "auto" and name not in ENGINES:
        raise InputError(f"no SVR engine {name!r}; choose one of auto, {', '.join(ENGINES)}")
    if own_target and name not in ("auto", "smo"):
        raise InputError(
            f"engine {name!r} solves one kernel that all targets share; statistics of each target's own need 'smo'"
        )
    if name != "auto":
        ENGINES[name].require()
        return Choice(ENGINES[name], "asked for")
    rachford, pairs = ENGINES["douglas-rachford"], ENGINES["smo"]
    if own_target:
        return Choice(pairs, "auto: every target has a kernel of its own")
    if not isinstance(Y, np.ndarray):
        return Choice(rachford, "auto: the arrays are not numpy's")
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
    bound, tube = checked_bound(C, n_targets), checked_tube(epsilon, n_targets)
    limit = iteration_limit(max_iter, engine)
    if not tol > 0:
        raise InputError(f"tol must be positive, not {tol}")
    if sample_weight is None:
        solution = _solved(engine, K, Y, bound, tube, tol, limit, progress)
    else:
        weight = checked_weight(sample_weight, n)
        kept = np.flatnonzero(weight)
        box = np.atleast_1d(bound)[None, :] * weight[kept, None]
        inside = _take(_take(K, kept, 0), kept, 1)
        solution = _solved(engine, inside, _take(Y, kept, 0), box, tube, tol, limit, progress)
        solution = _scattered(solution, kept, n)
    warn_of_missed(solution.converged, solution.gap, tol, limit, target_names)
    return solution


class AnyGramTable(Protocol):
    """A kernel over a fixed set of rows, of which any rectangle can be had, as `rapids_pipeline.svr.gram.GramTable`."""

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
    solution = solve_duals(table.gram(training, training, gamma), _take(Y, training, 0), **how)
    dual_coef, intercept = (xp.astype(x, Y.dtype) for x in (solution.dual_coef, solution.intercept))
    predictions = [
        xp.astype(table.gram(rows, training, gamma), Y.dtype) @ dual_coef + intercept[None, :]
        for rows in groups
    ]
    return TableFit(predictions, solution, gamma)


def checked_bound(C: Array | float, n_targets: int) -> Float64 | float:
    """Return C as a float or (n_targets,); InputError unless positive and of that size."""
    bound = _per_target(C, n_targets, "C")
    if not np.all(np.asarray(bound) > 0) or not np.all(np.isfinite(bound)):
        raise InputError(f"C must be positive and finite for every target, not {C!r}")
    return bound


def checked_tube(epsilon: Array | float, n_targets: int) -> Float64 | float:
    """Return epsilon as a float or (n_targets,); InputError where it is negative or of another size."""
    tube = _per_target(epsilon, n_targets, "epsilon")
    if not np.all(np.asarray(tube) >= 0) or not np.all(np.isfinite(tube)):
        raise InputError(f"epsilon must be finite and not negative for every target, not {epsilon!r}")
    return tube


def checked_weight(sample_weight: Array | float, n: int) -> Float64:
    """Return sample weights as (n,) float64 on the host; a number weights all rows alike."""
    weight = np.asarray(to_host(sample_weight), dtype=np.float64)
    weight = np.full(n, float(weight)) if weight.ndim == 0 else weight
    if weight.shape != (n,):
        raise InputError(f"sample_weight must have one value for each of the {n} rows, not {weight.shape}")
    bad = np.flatnonzero(~(np.isfinite(weight) & (weight >= 0)))
    if len(bad):
        raise InputError(
            f"sample_weight is {weight[bad[0]]} at row {bad[0]}: it must be finite and not negative"
        )
    if not weight.any():
        raise InputError("sample_weight is zero at every row: at least one row must weigh something")
    return weight


def iteration_limit(max_iter: int | None, engine: Engine) -> int:
    """Return `max_iter`, or the engine's own limit."""
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
    if not moved:
        return solution
    names = ("dual_coef", "intercept", "n_iter", "gap", "converged")
    return DualSolution(*(xp.asarray(getattr(solution, name), device=device) for name in names))


def _per_target(value: Array | float, n_targets: int, name: str) -> Float64 | float:
    numbers = np.asarray(to_host(value), dtype=np.float64)
    if numbers.ndim == 0:
        return float(numbers)
    if numbers.shape != (n_targets,):
        raise InputError(
            f"{name} must be a number or one for each of {n_targets} targets, not {numbers.shape}"
        )
    return numbers


def _scattered(solution: DualSolution, kept: Indices, n: int) -> DualSolution:
    """Return the solution on all n rows, β = 0 at those that were left out."""
    xp = namespace(solution.dual_coef)
    place = np.full(n, len(kept))
    place[kept] = np.arange(len(kept))
    beta = solution.dual_coef
    nothing = xp.zeros((1, beta.shape[1]), dtype=beta.dtype, device=beta.device)
    return replace(solution, dual_coef=_take(xp.concat([beta, nothing]), place, 0))


def _take(x: Array, which: Indices, axis: int) -> Array:
    xp = namespace(x)
    return xp.take(x, xp.asarray(which, device=x.device), axis=axis)
