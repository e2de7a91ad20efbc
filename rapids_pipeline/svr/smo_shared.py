"""SMO where all targets share one Gram matrix: what they have in common is done by matrix products.

    start   one step of Douglas–Rachford (`rapids_pipeline.svr.douglas_rachford`), float32, many targets at once, from
            v = `SHARE`·y/ρ, which needs no product
    F       y − βK of all targets of a chunk, one product
    pairs   up to four pairs at a time in float32 (`rapids_pipeline.svr.smo_pairs`), target by target, until
            U − L ≤ 0.3 tol
    check   F again from the new β: in float32 where its rounding is far below tol, otherwise in float64

Targets that the check finds above 0.6 tol go on by themselves (`smo_kernels.solve_chunk`), checked in float64.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import lapack

from rapids_pipeline.svr.douglas_rachford import FLOAT32_ROUNDING as PRODUCT_ROUNDING
from rapids_pipeline.svr.douglas_rachford import RELAXATION
from rapids_pipeline.svr.smo_arrays import dense_tables
from rapids_pipeline.svr.smo_problem import Floats

RHO = 0.25
"""ρ of the start, relative to the mean eigenvalue of K on the space 1ᵀβ = 0."""
SHARE = 0.6
"""v at the start, relative to y/ρ."""
ROWS_PER_TARGET = 2
"""The start needs an inverse of n³ operations: made where there is at least one target for so many rows."""
SLACK = 2.0
"""A target is done where U − L of the check is within this times what the iterations aimed at."""


@dataclass(frozen=True)
class WarmStart:
    """The operator R of Douglas–Rachford in float32, and ρ."""

    R: NDArray[np.float32]
    rho: float

    @classmethod
    def build(cls, K: Floats, n_targets: int) -> "WarmStart | None":
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
    fast, exact : array, (n, padded n), float32 and float64
        K padded, for the targets that go on by themselves.
    distances : array, (n, padded n), float32
        See `smo_pairs.distance_table`.
    magnitude : float
        Largest |K_ij|.
    start : WarmStart or None
    """

    K: Floats
    fast: NDArray[np.float32]
    exact: Floats
    distances: NDArray[np.float32]
    magnitude: float
    start: WarmStart | None

    @classmethod
    def of(cls, K: Floats, start: WarmStart | None) -> "SharedGram":
        """Make the tables of a finite symmetric matrix."""
        from rapids_pipeline.svr.smo_pairs import distance_table  # imports numba

        K = np.asarray(K, np.float64)
        fast, exact = dense_tables(K)
        magnitude = max(float(K.max(initial=0.0)), -float(K.min(initial=0.0)))
        return cls(K, fast, exact, distance_table(K), magnitude, start)

    @property
    def rounded(self) -> NDArray[np.float32]:
        """K in float32."""
        return self.fast[:, : len(self.K)]


def solve_part(
    gram: SharedGram,
    Y: Floats,
    box: Floats,
    epsilon: Floats,
    how: tuple[float, int],
    outcome: Any,
    started: bool,
) -> NDArray[np.intp]:
    """Solve a chunk of targets, `Y` (rows, targets), in place of outcome's arrays.

    `box` is (1 or targets, rows) and `how` holds tol and max_iter. Where `started`, outcome.dual_coef is where to
    begin; otherwise it is the start's to write. Returns the targets that are not done.
    """
    from rapids_pipeline.svr import smo_shared_kernels as kernels  # imports numba
    from rapids_pipeline.svr.smo_pairs import pair_work
    from rapids_pipeline.svr.smo_steps import AIM, FLOAT32_ROUNDING

    tol, max_iter = how
    aim = AIM * tol
    beta, K = outcome.dual_coef, gram.rounded
    rows = np.empty(Y.shape[::-1], np.float32)
    centre, largest = np.empty(len(rows)), np.empty(len(rows))
    kernels.gather_chunk(Y, rows, centre, largest)
    if gram.start is not None and not started and max_iter > 0:
        _start(kernels, gram.start, rows, box, epsilon, beta)
    rounded = np.empty_like(rows)
    kernels.balance_chunk(box, beta, rounded)
    goal = np.maximum(0.95 * aim, FLOAT32_ROUNDING * largest)
    limit = min(max_iter, 20 * len(Y) + 1000)
    work = pair_work(gram.distances, 0.5 * np.diagonal(gram.K))
    kernels.descend_chunk(rows, rounded @ K, box, epsilon, goal, limit, work, beta, rounded, outcome.n_iter)
    if (largest.max() + float(box.max()) * gram.magnitude) * PRODUCT_ROUNDING < tol:
        kernels.judge_chunk(rows, rounded @ K, box, epsilon, beta, outcome.gap, outcome.intercept)
    else:
        precise = np.array(Y.T, np.float64, order="C") - centre[:, None]
        kernels.judge_chunk(precise, beta @ gram.K, box, epsilon, beta, outcome.gap, outcome.intercept)
    outcome.intercept[:] += centre
    return np.flatnonzero((outcome.gap > SLACK * aim) & (outcome.n_iter < max_iter))


def _start(
    kernels: Any, start: WarmStart, rows: NDArray[np.float32], box: Floats, epsilon: Floats, beta: Floats
) -> None:
    """β ← where one step of Douglas–Rachford leads, not feasible yet."""
    cap, widths = box.astype(np.float32), (epsilon / start.rho).astype(np.float32)
    rho, share = np.float32(start.rho), np.float32(SHARE)
    point = np.empty_like(rows)
    kernels.reflect_chunk(rows, cap, widths, rho, share, point)
    kernels.start_chunk(rows, point @ start.R, cap, widths, rho, share, np.float32(RELAXATION), beta)
