"""Compiled loops of the SMO solver, from one target up to a chunk of targets."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from rapids_pipeline.svr.smo_arrays import BLOCKED
from rapids_pipeline.svr.smo_factors import Side, Work, expand, residual
from rapids_pipeline.svr.smo_steps import (
    AIM,
    FLOAT32_ROUNDING,
    compiled,
    compiled_and_cached,
    fall_offset,
    rise_offset,
    settle,
    source_stamp,
    step_pair,
)
from rapids_pipeline.svr.smo_vectors import first_row, second_row

__all__ = ["Outcome", "Side", "Work", "make_feasible", "offsets", "solve_chunk"]


class Outcome(NamedTuple):
    """Results of a chunk of targets, one entry or row each."""

    dual_coef: Any
    intercept: Any
    n_iter: Any
    gap: Any
    predicted: Any


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
            expand(work.side_1, gamma, a_i)
        if not ready_2[b_i]:
            expand(work.side_2, gamma, b_i)
        j, bottom = second_row(
            f, down, half, left, a_i * width, right, b_i * width, length, top, half[i], flat
        )
        gap = np.float64(top) - np.float64(bottom)
        if gap <= tol:
            return iteration, gap
        a_j, b_j = groups_1[j], groups_2[j]
        if not ready_1[a_j]:
            expand(work.side_1, gamma, a_j)
        if not ready_2[b_j]:
            expand(work.side_2, gamma, b_j)
        half_curvature = half[i] + half[j] - left[a_i, j] * right[b_i, j]
        slope = np.float64(f[i] - up[i]) - np.float64(f[j] - down[j])
        beta[i], beta[j], step = step_pair(
            slope, 2.0 * np.float64(max(half_curvature, flat)), beta[i], beta[j], cap[i], cap[j], epsilon
        )
        for row in (i, j):
            up[row] = rise_offset(beta[row], cap[row], epsilon)
            down[row] = fall_offset(beta[row], cap[row], epsilon)
        i, top = first_row(
            f, up, left, a_i * width, a_j * width, right, b_i * width, b_j * width, length, kind(step)
        )
    return max_iter, gap


@compiled
def offsets(f: Any, up: Any, down: Any, beta: Any, cap: Any, epsilon: float) -> tuple[float, float, float]:
    """Write up and down; return U, L and the intercept that f and β give."""
    top, bottom, total, count = -2.0 * BLOCKED, 2.0 * BLOCKED, 0.0, 0
    for i in range(beta.size):
        beta[i] = settle(beta[i], cap[i])
        rise, fall = rise_offset(beta[i], cap[i], epsilon), fall_offset(beta[i], cap[i], epsilon)
        up[i], down[i] = rise, fall
        top, bottom = max(top, f[i] - rise), min(bottom, f[i] - fall)
        if beta[i] != 0.0 and abs(beta[i]) < cap[i]:
            total += f[i] - rise
            count += 1
    return top, bottom, total / count if count > 0 else (top + bottom) / 2.0


@compiled
def take_off(beta: Any, excess: float) -> None:
    """Move coordinates with the sign of `excess` towards 0, one after the other, until Σβ is less by that."""
    for i in range(beta.size):
        if beta[i] * excess > 0.0:
            part = beta[i] if abs(beta[i]) < abs(excess) else excess
            beta[i] -= part
            excess -= part


@compiled
def make_feasible(beta: Any, cap: Any) -> None:
    """Clip β to its box, then move it towards 0 on the heavier side until it sums to 0."""
    for i in range(beta.size):
        beta[i] = min(max(beta[i], -cap[i]), cap[i])
    excess = beta.sum()
    if abs(excess) <= 1e-12 * np.abs(beta).sum():
        return  # rounding; a coordinate at its bound stays there
    take_off(beta, excess)


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
    residual(exact, gamma, y, beta, tests, predicted, column)
    top, bottom, intercept = offsets(exact.f, exact.up, exact.down, beta, cap, epsilon)
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
        residual(exact, gamma, y, beta, tests, predicted, column)
        top, bottom, intercept = offsets(exact.f, exact.up, exact.down, beta, cap, epsilon)
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
            make_feasible(beta, cap)
            made, gap, intercept = _solve_one(
                y, beta, cap, epsilons[t], gammas[t], tol, max_iter, fast, exact, tests, predicted, column
            )
            outcome.intercept[t], outcome.n_iter[t], outcome.gap[t] = intercept + centre, made, gap
            predicted += intercept + centre

        _ = stamp

    return compiled_and_cached(solve_chunk)


solve_chunk = _solve_chunk_from(source_stamp())
