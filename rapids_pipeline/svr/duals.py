"""From parameters as users give them to a solved dual: boxes and tubes of every target, an engine, a warning."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rapids_pipeline.backend.arrays import Array, is_on_cuda, namespace, to_host
from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.backend.progress import Progress
from rapids_pipeline.svr.engines import Engine, choose_engine
from rapids_pipeline.svr.smo import SmoOptions, SmoResult, solve_factored
from rapids_pipeline.svr.solution import DualSolution
from rapids_pipeline.svr.target_features import LearntTargetFeatures

Floats = NDArray[np.float64]
NAMED_TARGETS = 10


class NotConvergedWarning(UserWarning):
    """Some targets missed the tolerance within max_iter; the message names them."""


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
        inside = namespace(K).take(_rows(K, kept), _positions(kept, K), axis=1)
        solution = _solved(engine, inside, _rows(Y, kept), box, tube, tol, limit, progress)
        solution = _scattered(solution, kept, n)
    warn_of_missed(solution.converged, solution.gap, tol, limit, target_names)
    return solution


def solve_target_specific(
    learnt: LearntTargetFeatures,
    Y: Array,
    *,
    C: Array | float,
    epsilon: Array | float,
    tol: float,
    max_iter: int | None,
    engine_name: str,
    test_levels: Array | None = None,
    sample_weight: Array | None = None,
    target_names: Sequence[str] | None = None,
    progress: Progress | None = None,
) -> SmoResult:
    """Solve every target on its own kernel, on the host or, where `Y` lives on a GPU, by the CUDA kernel.

    As `solve_duals`, but for `learnt` in the place of K, `test_levels` (m, 2) of rows to predict at once, and
    a result on the host.
    """
    engine = choose_engine(engine_name, Y, target_specific=True).engine
    n, n_targets = Y.shape
    options = SmoOptions(
        C=checked_bound(C, n_targets),
        epsilon=checked_tube(epsilon, n_targets),
        sample_weight=None if sample_weight is None else checked_weight(sample_weight, n),
        tol=tol,
        max_iter=iteration_limit(max_iter, engine),
    )
    tests = None if test_levels is None else learnt.positions(test_levels)
    solve: Callable[..., SmoResult] = solve_factored
    if is_on_cuda(Y):
        from rapids_pipeline.svr.smo_cuda import solve_factored_cuda

        solve = solve_factored_cuda
    result = solve(learnt.kernel, learnt.training, to_host(Y), options, test_rows=tests, progress=progress)
    warn_of_missed(result.converged, result.gap, tol, options.max_iter, target_names)
    return result


def _solved(
    engine: Engine,
    K: Array,
    Y: Array,
    C: Floats | float,
    epsilon: Floats | float,
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


def checked_bound(C: Array | float, n_targets: int) -> Floats | float:
    """Return C as a float or (n_targets,); InputError unless positive and of that size."""
    bound = _per_target(C, n_targets, "C")
    if not np.all(np.asarray(bound) > 0) or not np.all(np.isfinite(bound)):
        raise InputError(f"C must be positive and finite for every target, not {C!r}")
    return bound


def checked_tube(epsilon: Array | float, n_targets: int) -> Floats | float:
    """Return epsilon as a float or (n_targets,); InputError where it is negative or of another size."""
    tube = _per_target(epsilon, n_targets, "epsilon")
    if not np.all(np.asarray(tube) >= 0) or not np.all(np.isfinite(tube)):
        raise InputError(f"epsilon must be finite and not negative for every target, not {epsilon!r}")
    return tube


def checked_weight(sample_weight: Array | float, n: int) -> Floats:
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


def _per_target(value: Array | float, n_targets: int, name: str) -> Floats | float:
    numbers = np.asarray(to_host(value), dtype=np.float64)
    if numbers.ndim == 0:
        return float(numbers)
    if numbers.shape != (n_targets,):
        raise InputError(
            f"{name} must be a number or one for each of {n_targets} targets, not {numbers.shape}"
        )
    return numbers


def _scattered(solution: DualSolution, kept: NDArray[np.intp], n: int) -> DualSolution:
    """Return the solution on all n rows, β = 0 at those that were left out."""
    xp = namespace(solution.dual_coef)
    place = np.full(n, len(kept))
    place[kept] = np.arange(len(kept))
    beta = solution.dual_coef
    nothing = xp.zeros((1, beta.shape[1]), dtype=beta.dtype, device=beta.device)
    return replace(solution, dual_coef=_rows(xp.concat([beta, nothing]), place))


def _rows(x: Array, which: NDArray[np.intp]) -> Array:
    return namespace(x).take(x, _positions(which, x), axis=0)


def _positions(which: NDArray[np.intp], like: Array) -> Any:
    return namespace(like).asarray(which, device=like.device)
