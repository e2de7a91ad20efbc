"""Compiled loops of the SMO solver, from one pair step up to a chunk of targets.

The formulas of the pair step are plain Python so that the CPU and the CUDA compiler share them.
"""

import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numba import njit

from rapids_pipeline.svr.smo_arrays import BLOCKED
from rapids_pipeline.svr.smo_vectors import first_row, power_of_two, second_row

FLOAT32_ROUNDING = 5e-6
"""U − L below this times max |y| is not asked of float32."""
AIM = 0.3
"""Iterations go on to this share of tol (5 % more of them), since predictions may differ by about U − L."""
SOURCES = ("smo_arrays.py", "smo_kernels.py", "smo_vectors.py")
OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": {"contract", "nsz"}}


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile with numba; it becomes part of the one function that is cached on disk, `solve_chunk`."""
    return njit(**OPTIONS)(function)  # type: ignore[no-any-return]


def compiled_and_cached(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile with numba, cached beside this file or in the user's cache folder, where one can be written."""
    try:
        return njit(cache=True, **OPTIONS)(function)  # type: ignore[no-any-return]
    except RuntimeError:  # numba: "cannot cache function ...: no locator available"
        return compiled(function)


def up_offset(beta: float, cap: float, epsilon: float) -> float:
    """Return what f loses before β may rise: ε from 0 upwards, −ε below 0, out of reach at the cap."""
    if beta >= cap:
        return BLOCKED
    return epsilon if beta >= 0.0 else -epsilon


def down_offset(beta: float, cap: float, epsilon: float) -> float:
    """Return the offset of f for a falling β: ε above 0, −ε from 0 downwards, out of reach at −cap."""
    if beta <= -cap:
        return -BLOCKED
    return epsilon if beta > 0.0 else -epsilon


def pair_step(
    slope: float, curvature: float, beta_i: float, beta_j: float, cap_i: float, cap_j: float, epsilon: float
) -> tuple[float, float, float]:
    """Minimise the dual along β_i + s, β_j − s, s ≥ 0, exactly.

    The dual falls at rate ``slope − curvature·s`` and the rate drops by 2ε where β_i or β_j passes 0, so the
    minimiser is found segment by segment (at most two zeros, then the box).

    Returns
    -------
    tuple
        New β_i, new β_j (exactly 0 or ±cap where they stop there) and the step s.
    """
    moved = 0.0
    for _ in range(3):
        room_i = -beta_i if beta_i < 0.0 else cap_i - beta_i
        room_j = beta_j if beta_j > 0.0 else cap_j + beta_j
        step = slope / curvature
        if step < room_i and step < room_j:
            return min(beta_i + step, cap_i), max(beta_j - step, -cap_j), moved + step
        step = min(room_i, room_j)
        i_ends, j_ends = room_i <= step, room_j <= step
        wall = (i_ends and beta_i >= 0.0) or (j_ends and beta_j <= 0.0)
        slope -= curvature * step + 2.0 * epsilon * (i_ends + j_ends)
        moved += step
        if i_ends:
            beta_i = 0.0 if beta_i < 0.0 else cap_i
        else:
            beta_i += step
        if j_ends:
            beta_j = 0.0 if beta_j > 0.0 else -cap_j
        else:
            beta_j -= step
        if wall or slope <= 0.0:
            break
    return beta_i, beta_j, moved


_up_offset = compiled(up_offset)
_down_offset = compiled(down_offset)
_pair_step = compiled(pair_step)


class Side(NamedTuple):
    """One factor of the kernel: K_ij = side 1 [groups_i, groups_j] · side 2 [groups_i, groups_j].

    Rows of `table` (levels × levels, float64) and of `expanded` (levels × rows, the working type) are made
    when first asked for; `filled` and `ready` say which there are. `line` holds one table row in the working
    type, so that the gather converts nothing. Groups are unsigned: numba then has no negative index to mind.
    """

    groups: Any
    squared: Any
    statistics: Any
    table: Any
    filled: Any
    expanded: Any
    ready: Any
    line: Any


class Work(NamedTuple):
    """What the iterations of one target read and write, in float32 or in float64."""

    f: Any
    up: Any
    down: Any
    half_diagonal: Any
    side_1: Side
    side_2: Side


class Outcome(NamedTuple):
    """Results of a chunk of targets, one entry or row each."""

    dual_coef: Any
    intercept: Any
    n_iter: Any
    gap: Any
    predicted: Any


@compiled
def _fill(side: Side, gamma: float, level: int) -> None:
    """table[level, b] ← exp(−γ(squared[level, b] + Σ_s (statistics[s, level] − statistics[s, b])²)).

    e^x = 2^k·e^r with k = round(x/ln 2), |r| ≤ ln(2)/2, and e^r from its Taylor polynomial of degree 11
    (relative error below 1e-14), since the library's exp is not a vector instruction. Below e^−69 = 1e-30
    the value is 0.
    """
    out = side.table[level]
    width = out.size
    for b in range(width):
        out[b] = side.squared[level, b]
    for s in range(side.statistics.shape[0]):
        own = side.statistics[s, level]
        for b in range(width):
            difference = side.statistics[s, b] - own
            out[b] += difference * difference
    for b in range(width):
        x = -gamma * out[b]
        inside = x if x > -69.0 else -69.0
        k = np.int64(np.int32(inside * 1.4426950408889634 - 0.5))
        r = inside + np.float64(k) * -0.693147180369123816490
        r = r + np.float64(k) * -1.90821492927058770002e-10
        p = r * (1.0 / 39916800.0) + 1.0 / 3628800.0
        p = p * r + 1.0 / 362880.0
        p = p * r + 1.0 / 40320.0
        p = p * r + 1.0 / 5040.0
        p = p * r + 1.0 / 720.0
        p = p * r + 1.0 / 120.0
        p = p * r + 1.0 / 24.0
        p = p * r + 1.0 / 6.0
        p = p * r + 0.5
        p = p * r + 1.0
        p = p * r + 1.0
        out[b] = p * power_of_two(k) if x > -69.0 else 0.0
    side.filled[level] = True


@compiled
def _expand(side: Side, gamma: float, level: int) -> None:
    """expanded[level, i] ← table[level, groups[i]] for every row i."""
    if not side.filled[level]:
        _fill(side, gamma, level)
    source, line, target, groups = side.table[level], side.line, side.expanded[level], side.groups
    for b in range(line.size):
        line[b] = source[b]
    for i in range(groups.size):
        target[i] = line[groups[i]]
    side.ready[level] = True


@compiled
def _descend(
    work: Work, gamma: float, beta: Any, cap: Any, epsilon: float, tol: float, max_iter: int
) -> tuple[int, float]:
    """Iterate until U − L ≤ tol or max_iter; f, β and the offsets are updated in place."""
    f, up, down, half = work.f, work.up, work.down, work.half_diagonal
    left, right = work.side_1.expanded, work.side_2.expanded
    groups_1, groups_2 = work.side_1.groups, work.side_2.groups
    ready_1, ready_2 = work.side_1.ready, work.side_2.ready
    width, length = left.shape[1], f.size
    kind = f.dtype.type
    flat = kind(max((5e-7 if f.itemsize == 4 else 5e-13) * half[: groups_1.size].max(), 1e-30))
    i, top = first_row(f, up, left, 0, 0, right, 0, 0, length, kind(0.0))
    gap = np.inf
    for iteration in range(max_iter):
        a_i, b_i = groups_1[i], groups_2[i]
        if not ready_1[a_i]:
            _expand(work.side_1, gamma, a_i)
        if not ready_2[b_i]:
            _expand(work.side_2, gamma, b_i)
        j, bottom = second_row(
            f, down, half, left, a_i * width, right, b_i * width, length, top, half[i], flat
        )
        gap = np.float64(top) - np.float64(bottom)
        if gap <= tol:
            return iteration, gap
        a_j, b_j = groups_1[j], groups_2[j]
        if not ready_1[a_j]:
            _expand(work.side_1, gamma, a_j)
        if not ready_2[b_j]:
            _expand(work.side_2, gamma, b_j)
        half_curvature = half[i] + half[j] - left[a_i, j] * right[b_i, j]
        slope = np.float64(f[i] - up[i]) - np.float64(f[j] - down[j])
        beta[i], beta[j], step = _pair_step(
            slope, 2.0 * np.float64(max(half_curvature, flat)), beta[i], beta[j], cap[i], cap[j], epsilon
        )
        for row in (i, j):
            up[row] = _up_offset(beta[row], cap[row], epsilon)
            down[row] = _down_offset(beta[row], cap[row], epsilon)
        i, top = first_row(
            f, up, left, a_i * width, a_j * width, right, b_i * width, b_j * width, length, kind(step)
        )
    return max_iter, gap


@compiled
def _residual(work: Work, gamma: float, y: Any, beta: Any, tests: Any, predicted: Any, column: Any) -> None:
    """work.f ← y − Kβ and predicted ← K_test β in float64, one group of side 2 after the other.

    Rows are sorted by that group, so column[a] = Σ_{j in group} A[g_j, a] β_j is one sum of table rows.
    """
    one, two, n = work.side_1, work.side_2, y.size
    f = work.f
    f[:n] = y
    predicted[:] = 0.0
    j = 0
    while j < n:
        group = two.groups[j]
        column[:] = 0.0
        empty = True
        while j < n and two.groups[j] == group:
            weight, level = beta[j], one.groups[j]
            if weight != 0.0:
                if not one.filled[level]:
                    _fill(one, gamma, level)
                empty = False
                source = one.table[level]
                for a in range(column.size):
                    column[a] += weight * source[a]
            j += 1
        if empty:
            continue
        if not two.filled[group]:
            _fill(two, gamma, group)
        factor = two.table[group]
        for i in range(n):
            f[i] -= factor[two.groups[i]] * column[one.groups[i]]
        for i in range(predicted.size):
            predicted[i] += factor[tests[1, i]] * column[tests[0, i]]


@compiled
def _offsets(work: Work, beta: Any, cap: Any, epsilon: float) -> tuple[float, float, float]:
    """Write up and down; return U, L and the intercept that f and β give."""
    top, bottom, total, count = -2.0 * BLOCKED, 2.0 * BLOCKED, 0.0, 0
    for i in range(beta.size):
        rise, fall = _up_offset(beta[i], cap[i], epsilon), _down_offset(beta[i], cap[i], epsilon)
        work.up[i], work.down[i] = rise, fall
        top, bottom = max(top, work.f[i] - rise), min(bottom, work.f[i] - fall)
        if beta[i] != 0.0 and abs(beta[i]) < cap[i]:
            total += work.f[i] - rise
            count += 1
    return top, bottom, total / count if count > 0 else (top + bottom) / 2.0


@compiled
def _make_feasible(beta: Any, cap: Any) -> None:
    """Clip β to its box, then move it towards 0 on the heavier side until it sums to 0."""
    for i in range(beta.size):
        beta[i] = min(max(beta[i], -cap[i]), cap[i])
    excess = beta.sum()
    if abs(excess) <= 1e-12 * np.abs(beta).sum():
        return  # rounding; a coordinate at its bound stays there
    for i in range(beta.size):
        if beta[i] * excess > 0.0:
            part = beta[i] if abs(beta[i]) < abs(excess) else excess
            beta[i] -= part
            excess -= part


@compiled
def _solve_one(
    y: Any,
    beta: Any,
    cap: Any,
    epsilon: float,
    gamma: float,
    tol: float,
    max_iter: int,
    fast: Work,
    exact: Work,
    tests: Any,
    predicted: Any,
    column: Any,
) -> tuple[int, float, float]:
    """Solve one target from the feasible β: float32 first, float64 where the check in float64 asks for it.

    Returns the iterations, U − L (of f = y − Kβ computed afresh in float64) and the intercept.
    """
    n, done, use_fast = y.size, 0, True
    rounding = FLOAT32_ROUNDING * np.abs(y).max()
    _residual(exact, gamma, y, beta, tests, predicted, column)
    top, bottom, intercept = _offsets(exact, beta, cap, epsilon)
    gap = top - bottom
    aim = AIM * tol
    while gap > aim and done < max_iter:
        block = min(max_iter - done, 20 * n + 1000)
        if use_fast:
            for i in range(n):
                fast.f[i], fast.up[i], fast.down[i] = exact.f[i], exact.up[i], exact.down[i]
            made, _ = _descend(fast, gamma, beta, cap, epsilon, max(0.95 * aim, rounding), block)
        else:
            made, _ = _descend(exact, gamma, beta, cap, epsilon, 0.99 * aim, block)
        done += made
        _residual(exact, gamma, y, beta, tests, predicted, column)
        top, bottom, intercept = _offsets(exact, beta, cap, epsilon)
        previous, gap = gap, top - bottom
        if use_fast:
            use_fast = made == block and gap < 0.9 * previous
        elif made == 0:
            break
    return done, gap, intercept


@compiled
def _forget(side: Side) -> None:
    side.filled[:] = False
    side.ready[:] = False


def _source_stamp() -> int:
    """Return a checksum of everything `solve_chunk` is compiled from (0 where the sources are not there)."""
    try:
        return zlib.crc32(b"".join((Path(__file__).parent / name).read_bytes() for name in SOURCES))
    except OSError:
        return 0


def _solve_chunk_from(stamp: int) -> Callable[..., Any]:
    """Return `solve_chunk`, which captures `stamp`: numba's cache asks for equal captured values.

    By itself the cache looks at the file of the cached function only, and would go on using a `smo_vectors`
    that has since been changed.
    """

    def solve_chunk(
        Y: Any,
        box: Any,
        epsilons: Any,
        gammas: Any,
        statistics_1: Any,
        statistics_2: Any,
        tests: Any,
        gaussian: bool,
        tol: float,
        max_iter: int,
        fast: Work,
        exact: Work,
        outcome: Outcome,
    ) -> None:
        """Solve the targets Y (targets, rows), overwritten, from outcome.dual_coef, and fill the outcome.

        `box` is (1 or targets, 1 or rows); statistics are (targets, levels, statistics). Where `gaussian` is
        false the tables and their expansions stay as they were given.
        """
        cap, column = np.empty(Y.shape[1]), np.empty(exact.side_1.table.shape[1])
        for t in range(Y.shape[0]):
            if gaussian:
                exact.side_1.statistics[:, : statistics_1.shape[1]] = statistics_1[t].T
                exact.side_2.statistics[:, : statistics_2.shape[1]] = statistics_2[t].T
                _forget(fast.side_1)
                _forget(fast.side_2)
                _forget(exact.side_1)
                _forget(exact.side_2)
            for i in range(cap.size):
                cap[i] = box[t % box.shape[0], i % box.shape[1]]
            y, beta, predicted = Y[t], outcome.dual_coef[t], outcome.predicted[t]
            centre = y.mean()  # a constant changes nothing but b, and float32 resolves small numbers better
            y -= centre
            _make_feasible(beta, cap)
            made, gap, intercept = _solve_one(
                y, beta, cap, epsilons[t], gammas[t], tol, max_iter, fast, exact, tests, predicted, column
            )
            outcome.intercept[t], outcome.n_iter[t], outcome.gap[t] = intercept + centre, made, gap
            predicted += intercept + centre

        _ = stamp

    return compiled_and_cached(solve_chunk)


solve_chunk = _solve_chunk_from(_source_stamp())
