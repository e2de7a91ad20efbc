r"""Sequential minimal optimisation for thousands of SVRs that share one Gram matrix.

The dual (`rapids_pipeline.svr.dual`), which is LIBSVM's in n variables instead of 2n, moves two coordinates at a time,
β_i + s and β_j − s, chosen by second order (`rapids_pipeline.svr.smo.pairs`), s exact, past zeros, until U − L ≤ tol.
What targets have in common is done by matrix products, a chunk of them at a time:

    start   one step of Douglas–Rachford (`rapids_pipeline.svr.douglas_rachford`), float32, many targets at once, from
            v = `SHARE`·y/ρ, which needs no product
    F       y − βK of all targets of a chunk, one product
    pairs   up to four pairs at a time in float32 (`rapids_pipeline.svr.smo.pairs`), target by target, until
            U − L ≤ 0.3 tol
    check   F again from the new β: in float32 where its rounding is far below tol, otherwise in float64

Targets that the check finds above 0.6 tol go on by themselves, one pair at a time, checked in float64.

Sources: Fan, Chen and Lin, JMLR 6 (2005), 1889–1918 (second-order selection, "WSS 2"); Chang and Lin, LIBSVM,
ACM TIST 2 (2011), section 4 (stopping, intercept).
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np
from scipy.linalg import lapack

from rapids_pipeline.backend.arrays import Float32, Float64, Floats, Indices
from rapids_pipeline.backend.devices import processor_count
from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.backend.progress import Progress
from rapids_pipeline.svr.douglas_rachford import FLOAT32_ROUNDING as PRODUCT_ROUNDING
from rapids_pipeline.svr.douglas_rachford import RELAXATION
from rapids_pipeline.svr.dual import DualSolution
from rapids_pipeline.svr.smo import kernels, pairs

CHUNK = 256
LEFT_PARTS = 64
"""Parts of the targets that go on by themselves, for the threads to take."""
RHO = 0.25
"""ρ of the start, relative to the mean eigenvalue of K on the space 1ᵀβ = 0."""
SHARE = 0.6
"""v at the start, relative to y/ρ."""
ROWS_PER_TARGET = 2
"""The start needs an inverse of n³ operations: made where there is at least one target for so many rows."""
SLACK = 2.0
"""A target is done where U − L of the check is within this times what the iterations aimed at."""


def solve(
    K: Float64,
    Y: Floats,
    *,
    C: Float64 | float = 1.0,
    epsilon: Float64 | float = 0.1,
    tol: float = 1e-3,
    max_iter: int = 1_000_000,
    n_threads: int | None = None,
    progress: Progress | None = None,
) -> DualSolution:
    """Solve every target's SVR on one Gram matrix `K` (n, n).

    Parameters
    ----------
    Y : array, (n, n_targets)
    C : float or array, (1 or n, 1 or n_targets)
        Bound on |β_i|, in the unit of the target.
    epsilon : float or array, (1, 1 or n_targets)
    tol : float
        Bound on U − L, in the unit of the target.
    max_iter : int
        Iterations of one target after which it counts as not converged.
    n_threads : int, optional
        By default every processor this process may use.
    progress : Progress, optional
        Advances once a chunk of targets.

    Returns
    -------
    DualSolution
        β and b are float64, `dual_coef` a transposed view; gap and b are from f = y − Kβ computed in float64, or in
        float32 where its rounding is far below tol.

    Raises
    ------
    InputError
        Shapes or values that cannot be used.
    """
    if K.ndim != 2 or K.shape[0] != K.shape[1] or Y.ndim != 2 or Y.shape[0] != K.shape[0] or not len(K):
        raise InputError(f"K must be square and Y (rows, targets), not {K.shape} and {Y.shape}")
    if not (np.isfinite(K).all() and np.isfinite(Y).all()):
        raise InputError("K or Y has values that are not finite")
    n, targets = Y.shape
    box = np.atleast_2d(np.asarray(C, np.float64)).T
    box = np.ascontiguousarray(np.broadcast_to(box, (box.shape[0], n)))
    tube = np.array(np.broadcast_to(np.ravel(epsilon), (targets,)), np.float64)
    gram = SharedGram.of(K, WarmStart.build(K, targets))
    beta = np.empty((targets, n))  # holds anything yet: a large np.empty gets huge pages, zeros do not
    intercept, n_iter, gap = np.zeros(targets), np.zeros(targets, np.int64), np.zeros(targets)

    def part(which: slice) -> Indices:
        own = box[which] if len(box) > 1 else box
        outcome: list[Any] = [x[which] for x in (beta, intercept, n_iter, gap)]
        found = solve_part(gram, Y[:, which], own, tube[which], tol, max_iter, *outcome)
        return np.asarray(found + which.start)

    left = np.concatenate(in_chunks(part, targets, CHUNK, n_threads, progress))
    half = 0.5 * np.diagonal(gram.K)
    tables = [pairs.table_of(gram.K, dtype) for dtype in (np.float32, np.float64)] if len(left) else []

    def finish(which: slice) -> None:
        works = [pairs.work_on(table, half) for table in tables]
        for t in left[which]:
            y, cap = np.array(Y[:, t], np.float64), box[t if len(box) > 1 else 0]
            made, gap[t], intercept[t] = pairs.solve_alone(
                y, beta[t], cap, tube[t], tol, max_iter - n_iter[t], *works
            )
            n_iter[t] += made

    in_chunks(finish, len(left), ceil(len(left) / LEFT_PARTS), n_threads)
    return DualSolution(beta.T, intercept, n_iter.astype(np.int32), gap, gap <= tol)


@dataclass(frozen=True)
class WarmStart:
    """The operator R of Douglas–Rachford in float32, and ρ."""

    R: Float32
    rho: float

    @classmethod
    def build(cls, K: Float64, n_targets: int) -> "WarmStart | None":
        """Invert once for all targets; None where that does not pay or K + ρI is close to singular."""
        n = K.shape[0]
        scale = float(np.trace(K)) / n - float(K.mean())
        if n_targets * ROWS_PER_TARGET < n or not scale > 1e-9 * float(np.abs(K).max()):
            return None
        rho = RHO * scale
        shifted = K.astype(np.float32)
        shifted[np.diag_indices(n)] += np.float32(rho)
        factor, failed = lapack.spotrf(shifted, lower=1, overwrite_a=1)
        inverse, singular = lapack.spotri(factor, lower=1, overwrite_c=1) if not failed else (factor, 1)
        if failed or singular:
            return None
        inverse = np.tril(inverse) + np.tril(inverse, -1).T
        ones = inverse.sum(axis=1, dtype=np.float64)
        weights = (ones / np.sqrt(ones.sum())).astype(np.float32) if ones.sum() > 0 else np.full(n, np.nan)
        R = np.float32(rho) * (inverse - np.outer(weights, weights))
        return cls(R, rho) if np.isfinite(R).all() else None


@dataclass(frozen=True)
class SharedGram:
    """A Gram matrix in all the forms that the solver reads; shared by all threads.

    Attributes
    ----------
    K : array, (n, n), float64
    rounded : array, (n, n), float32
    distances : array, (n, padded n), float32
        See `pairs.distance_table`.
    magnitude : float
        Largest |K_ij|.
    start : WarmStart or None
    """

    K: Float64
    rounded: Float32
    distances: Float32
    magnitude: float
    start: WarmStart | None

    @classmethod
    def of(cls, K: Float64, start: WarmStart | None) -> "SharedGram":
        """Make the tables of a finite symmetric matrix."""
        K = np.asarray(K, np.float64)
        magnitude = max(float(K.max()), -float(K.min()))
        return cls(K, K.astype(np.float32), pairs.distance_table(K), magnitude, start)


def solve_part(
    gram: SharedGram,
    Y: Floats,
    box: Float64,
    epsilon: Float64,
    tol: float,
    max_iter: int,
    beta: Float64,
    intercept: Float64,
    n_iter: Any,
    gap: Float64,
) -> Indices:
    """Solve a chunk of targets, `Y` (n, targets), together; return those that are not done.

    `box` is (1 or targets, n). β (targets, n), b, iterations and U − L (targets,) are written.
    """
    aim, K = kernels.AIM * tol, gram.rounded
    beta[:] = 0.0
    rows = np.empty(Y.shape[::-1], np.float32)
    centre, largest = np.empty(len(rows)), np.empty(len(rows))
    kernels.gather_chunk(Y, rows, centre, largest)
    if gram.start is not None and max_iter > 0:
        _start(gram.start, rows, box, epsilon, beta)
    rounded = np.empty_like(rows)
    kernels.balance_chunk(box, beta, rounded)
    goal = np.maximum(0.95 * aim, kernels.FLOAT32_ROUNDING * largest)
    limit = min(max_iter, 20 * len(Y) + 1000)
    work = pairs.pair_work(gram.distances, 0.5 * np.diagonal(gram.K))
    pairs.descend_chunk(rows, rounded @ K, box, epsilon, goal, limit, work, beta, rounded, n_iter)
    if (largest.max() + float(box.max()) * gram.magnitude) * PRODUCT_ROUNDING < tol:
        kernels.judge_chunk(rows, rounded @ K, box, epsilon, beta, gap, intercept)
    else:
        precise = np.array(Y.T, np.float64, order="C") - centre[:, None]
        kernels.judge_chunk(precise, beta @ gram.K, box, epsilon, beta, gap, intercept)
    intercept[:] += centre
    return np.flatnonzero((gap > SLACK * aim) & (n_iter < max_iter))


def _start(start: WarmStart, rows: Float32, box: Float64, epsilon: Float64, beta: Float64) -> None:
    """β ← where one step of Douglas–Rachford leads, not feasible yet."""
    cap, widths = box.astype(np.float32), (epsilon / start.rho).astype(np.float32)
    rho, share = np.float32(start.rho), np.float32(SHARE)
    point = np.empty_like(rows)
    kernels.reflect_chunk(rows, cap, widths, rho, share, point)
    kernels.start_chunk(rows, point @ start.R, cap, widths, rho, share, np.float32(RELAXATION), beta)


def in_chunks(
    work: Callable[[slice], Any],
    n_targets: int,
    width: int,
    n_threads: int | None = None,
    progress: Progress | None = None,
) -> list[Any]:
    """Run `work` on chunks of targets in threads (the loops hold no GIL); return what it returned, in order."""
    parts = [slice(start, min(start + width, n_targets)) for start in range(0, n_targets, max(width, 1))]
    threads = min(n_threads or processor_count(), len(parts))
    progress = progress or Progress()
    progress.start(len(parts))
    if threads <= 1:
        results = []
        for part in parts:
            results.append(work(part))
            progress.advance()
        return results
    with ThreadPoolExecutor(threads) as pool:
        futures = [pool.submit(work, part) for part in parts]
        try:
            for future in as_completed(futures):
                future.result()
                progress.advance()
        finally:
            pool.shutdown(cancel_futures=True)
    return [future.result() for future in futures]
