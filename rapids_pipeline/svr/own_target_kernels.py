"""Compiled loops of `own_target`: SMO on Gram matrices of each target's own.

Where a training row's statistics come from the rows outside its fold, hardly two rows have the same level, so tables
of levels save nothing. The iterations then work on rows of K_t, made when first asked for:

    K_t[i, j] = exp(−γ_t (D[i, j] + ‖S_t1(i) − S_t1(j)‖²)) · B_t[b_i, b_j]

with D what all targets share of the first side and B_t the factor of the second, whose levels are few. Rows of K are
float32, evaluated in float32 (error below 4e-7; libsvm's are float32, too); U − L and the intercept come from
f = y − Kβ in float64.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from rapids_pipeline.svr.own_target_vectors import LN2, UNROLLED, gaussian_row, vector_stamp
from rapids_pipeline.svr.smo_kernels import offsets
from rapids_pipeline.svr.smo_steps import (
    AIM,
    FLOAT32_ROUNDING,
    compiled,
    compiled_and_cached,
    fall_offset,
    rise_offset,
    step_pair,
)
from rapids_pipeline.svr.smo_vectors import first_row, second_row

__all__ = ["UNROLLED", "Memory", "Rows", "Solved", "solve_chunk"]

ROUNDS = 3
"""Runs of float32 iterations, each from f in float64, before a target is left to `smo.solve_factored`."""
SLACK = 2.0
"""A target is done where U − L in float64 is within this times what the iterations aimed at."""


class Rows(NamedTuple):
    """What all targets share: each row's level on either side (n,) uint32, and squared distances in float32.

    `distances` (distinct, padded n) are those from each distinct vector of the first side's shared features to all
    rows, `features` (n,) uint32 says which of them a row has; `squared_2` (L2, padded L2) are those of the second
    side's levels.
    """

    distances: Any
    features: Any
    level_1: Any
    level_2: Any
    squared_2: Any


class Memory(NamedTuple):
    """Work arrays of one thread: vectors over padded rows, rows of K and the second side's factor.

    Row i of K is in K[place[i]], or not made where that is negative; `count` (1,) are made. One after the other in
    memory they are written twice as fast as in the order of the rows.

    `statistics_1` (S1 padded, padded n) are those of the rows, `statistics_2` (S2 padded, padded L2) of the levels,
    times √(γ/ln 2); `factor_2` (L2, padded n) is B expanded to the rows, `line_2` one row of B, and `own_1` and
    `own_2` hold the statistics of one row and of one level.
    """

    f: Any
    up: Any
    down: Any
    half_diagonal: Any
    K: Any
    place: Any
    count: Any
    statistics_1: Any
    statistics_2: Any
    factor_2: Any
    made_2: Any
    line_2: Any
    own_1: Any
    own_2: Any
    exact_f: Any
    exact_up: Any
    exact_down: Any
    cap: Any


class Solved(NamedTuple):
    """Results of a chunk of targets, one entry or row each."""

    dual_coef: Any
    intercept: Any
    n_iter: Any
    gap: Any


@compiled
def _make_row(rows: Rows, memory: Memory, scale: Any, i: int) -> None:
    """Write row i of K, and before it the row of the second side's factor that it needs."""
    level, n = rows.level_2[i], rows.level_2.size
    if not memory.made_2[level]:
        line = memory.line_2
        own = memory.own_2
        for s in range(own.size):
            own[s] = memory.statistics_2[s, level]
        gaussian_row(line, rows.squared_2[level], memory.statistics_2, own, scale, None)
        target = memory.factor_2[level]
        for j in range(n):
            target[j] = line[rows.level_2[j]]
        memory.made_2[level] = True
    own = memory.own_1
    for s in range(own.size):
        own[s] = memory.statistics_1[s, i]
    squared, place = rows.distances[rows.features[i]], memory.count[0]
    gaussian_row(memory.K[place], squared, memory.statistics_1, own, scale, memory.factor_2[level])
    memory.place[i] = place
    memory.count[0] = place + 1


@compiled
def _descend(
    rows: Rows, memory: Memory, scale: Any, beta: Any, epsilon: float, tol: float, max_iter: int
) -> int:
    """Iterate as `smo_kernels` does, on rows of K, until U − L ≤ tol or max_iter; return the iterations made."""
    f, up, down, half, K = memory.f, memory.up, memory.down, memory.half_diagonal, memory.K
    width, length, cap, place = K.shape[1], f.size, memory.cap, memory.place
    kind = f.dtype.type
    flat = kind(5e-7 * 0.5)
    i, top = first_row(f, up, K, 0, 0, None, 0, 0, length, kind(0.0))
    for iteration in range(max_iter):
        if place[i] < 0:
            _make_row(rows, memory, scale, i)
        row_i = place[i]
        j, bottom = second_row(f, down, half, K, row_i * width, None, 0, length, top, half[i], flat)
        if np.float64(top) - np.float64(bottom) <= tol:
            return iteration
        if place[j] < 0:
            _make_row(rows, memory, scale, j)
        row_j = place[j]
        half_curvature = max(half[i] + half[j] - K[row_i, j], flat)
        slope = np.float64(f[i] - up[i]) - np.float64(f[j] - down[j])
        beta[i], beta[j], step = step_pair(
            slope, 2.0 * np.float64(half_curvature), beta[i], beta[j], cap[i], cap[j], epsilon
        )
        for row in (i, j):
            up[row] = rise_offset(beta[row], cap[row], epsilon)
            down[row] = fall_offset(beta[row], cap[row], epsilon)
        i, top = first_row(f, up, K, row_i * width, row_j * width, None, 0, 0, length, kind(step))
    return max_iter


@compiled
def _residual(f: Any, y: Any, beta: Any, K: Any, place: Any) -> None:
    """f ← y − Kβ, four rows of K at a time: their sum in float32, as K is, the rest in float64.

    Rows where β = 0 need not be made.
    """
    n, held, weights, count = y.size, np.zeros(4, np.int64), np.zeros(4, np.float32), 0
    f[:n] = y
    for j in range(n):
        if beta[j] != 0.0:
            held[count], weights[count] = place[j], beta[j]
            count += 1
        if count == 4 or (j == n - 1 and count > 0):
            for unused in range(count, 4):
                held[unused], weights[unused] = held[0], 0.0
            one, two, three, four = K[held[0]], K[held[1]], K[held[2]], K[held[3]]
            a, b, c, d = weights[0], weights[1], weights[2], weights[3]
            for i in range(n):
                f[i] -= a * one[i] + b * two[i] + c * three[i] + d * four[i]
            count = 0


@compiled
def _load(rows: Rows, memory: Memory, statistics_1: Any, statistics_2: Any, gamma: float) -> None:
    """Take over a target's statistics (S, levels), times √(γ/ln 2), and forget the rows of the target before."""
    root = np.float32(np.sqrt(gamma / LN2))
    for s in range(statistics_1.shape[0]):
        source, target = statistics_1[s], memory.statistics_1[s]
        for i in range(rows.level_1.size):
            target[i] = root * source[rows.level_1[i]]
    for s in range(statistics_2.shape[0]):
        for level in range(statistics_2.shape[1]):
            memory.statistics_2[s, level] = root * statistics_2[s, level]
    memory.place[:] = -1
    memory.count[0] = 0
    memory.made_2[:] = False


@compiled
def _solve_one(
    rows: Rows, memory: Memory, y: Any, beta: Any, epsilon: float, gamma: float, tol: float, max_iter: int
) -> tuple[int, float, float]:
    """Solve a centred target from β = 0; return the iterations, U − L in float64 and the intercept."""
    aim = AIM * tol
    goal = max(0.95 * aim, FLOAT32_ROUNDING * np.abs(y).max())
    f, up, down, cap = memory.exact_f, memory.exact_up, memory.exact_down, memory.cap
    f[:] = y
    top, bottom, intercept = offsets(f, up, down, beta, cap, epsilon)
    done = 0
    for _ in range(ROUNDS):
        if top - bottom <= SLACK * aim or done >= max_iter:
            break
        for i in range(y.size):
            memory.f[i], memory.up[i], memory.down[i] = f[i], up[i], down[i]
        limit = min(max_iter - done, 20 * y.size + 1000)
        done += _descend(rows, memory, np.float32(gamma / LN2), beta, epsilon, goal, limit)
        _residual(f, y, beta, memory.K, memory.place)
        top, bottom, intercept = offsets(f, up, down, beta, cap, epsilon)
    return done, top - bottom, intercept


def _solve_chunk_from(stamp: int) -> Callable[..., Any]:
    """Return `solve_chunk`, which captures `stamp`, as `smo_kernels.solve_chunk` does."""

    def solve_chunk(
        Y: Any, C: float, epsilon: float, gammas: Any, statistics_1: Any, statistics_2: Any,
        rows: Rows, tol: float, max_iter: int, memory: Memory, solved: Solved,
    ) -> None:  # fmt: skip
        """Solve targets Y (targets, n) float64, overwritten, from zeros in solved.dual_coef, (targets, n)."""
        memory.cap[:] = C
        for t in range(Y.shape[0]):
            y = Y[t]
            centre = y.mean()
            y -= centre
            _load(rows, memory, statistics_1[t], statistics_2[t], gammas[t])
            made, gap, intercept = _solve_one(
                rows, memory, y, solved.dual_coef[t], epsilon, gammas[t], tol, max_iter
            )
            solved.n_iter[t], solved.gap[t], solved.intercept[t] = made, gap, intercept + centre
        _ = stamp

    return compiled_and_cached(solve_chunk)


solve_chunk = _solve_chunk_from(vector_stamp())
