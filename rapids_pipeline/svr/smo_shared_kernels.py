"""Compiled loops of SMO for a chunk of targets that share one Gram matrix (see `smo_shared`)."""

from collections.abc import Callable
from typing import Any

import numpy as np

from rapids_pipeline.svr.smo_arrays import BLOCKED
from rapids_pipeline.svr.smo_factors import Work
from rapids_pipeline.svr.smo_kernels import make_feasible
from rapids_pipeline.svr.smo_steps import (
    compiled,
    compiled_and_cached,
    fall_offset,
    rise_offset,
    settle,
    source_stamp,
    step_pair,
)
from rapids_pipeline.svr.smo_vectors import first_row, second_row


@compiled
def _descend(work: Work, beta: Any, cap: Any, epsilon: float, tol: float, max_iter: int) -> int:
    """`smo_kernels._descend` where the first factor is K itself, row by row, and there is no second."""
    f, up, down, half, K = work.f, work.up, work.down, work.half_diagonal, work.side_1.expanded
    width, length = K.shape[1], f.size
    kind = f.dtype.type
    flat = kind(max(5e-7 * half[: K.shape[0]].max(), 1e-30))
    i, top = first_row(f, up, K, 0, 0, None, 0, 0, length, kind(0.0))
    for iteration in range(max_iter):
        j, bottom = second_row(f, down, half, K, i * width, None, 0, length, top, half[i], flat)
        if np.float64(top) - np.float64(bottom) <= tol:
            return iteration
        half_curvature = max(half[i] + half[j] - K[i, j], flat)
        slope = np.float64(f[i] - up[i]) - np.float64(f[j] - down[j])
        beta[i], beta[j], step = step_pair(
            slope, 2.0 * np.float64(half_curvature), beta[i], beta[j], cap[i], cap[j], epsilon
        )
        for row in (i, j):
            up[row] = rise_offset(beta[row], cap[row], epsilon)
            down[row] = fall_offset(beta[row], cap[row], epsilon)
        i, top = first_row(f, up, K, i * width, j * width, None, 0, 0, length, kind(step))
    return max_iter


@compiled
def _spread_excess(beta: Any, cap: Any) -> None:
    """Make Σβ = 0 by equal steps of the free coordinates, none past 0 or its bound; what is left, one by one."""
    for _ in range(2):
        excess, free = 0.0, 0
        for i in range(beta.size):
            excess += beta[i]
            free += beta[i] != 0.0 and abs(beta[i]) < cap[i]
        if free == 0 or abs(excess) <= 1e-12:
            break
        share = excess / free
        for i in range(beta.size):
            if beta[i] != 0.0 and abs(beta[i]) < cap[i]:
                low, high = (0.0, cap[i]) if beta[i] > 0.0 else (-cap[i], 0.0)
                beta[i] = min(max(beta[i] - share, low), high)
    make_feasible(beta, cap)


def _shared_kernels_from(stamp: int) -> tuple[Callable[..., Any], Callable[..., Any], Callable[..., Any]]:
    """Return the three loops of `smo_shared`; all arrays are (targets, rows) and `box` (1 or targets, 1 or rows)."""

    def make_chunk_feasible(beta: Any, box: Any) -> None:
        """Move β of every target into its box and to Σβ = 0, in place."""
        cap = np.empty(beta.shape[1])
        for t in range(beta.shape[0]):
            for i in range(cap.size):
                cap[i] = box[t % box.shape[0], i % box.shape[1]]
                if abs(beta[t, i]) > (1.0 - 1e-6) * cap[i]:  # at its bound, whatever float32 made of it
                    beta[t, i] = cap[i] if beta[t, i] > 0.0 else -cap[i]
            _spread_excess(beta[t], cap)
        _ = stamp

    def judge_chunk(F: Any, box: Any, epsilons: Any, beta: Any, gap: Any, intercept: Any) -> None:
        """gap ← U − L and intercept ← b of every target, from F = Y − βK in float64."""
        for t in range(F.shape[0]):
            top, bottom, total, count = -2.0 * BLOCKED, 2.0 * BLOCKED, 0.0, 0
            for i in range(F.shape[1]):
                cap = box[t % box.shape[0], i % box.shape[1]]
                beta[t, i] = settle(beta[t, i], cap)
                rise = rise_offset(beta[t, i], cap, epsilons[t])
                fall = fall_offset(beta[t, i], cap, epsilons[t])
                top, bottom = max(top, F[t, i] - rise), min(bottom, F[t, i] - fall)
                if beta[t, i] != 0.0 and abs(beta[t, i]) < cap:
                    total += F[t, i] - rise
                    count += 1
            gap[t] = top - bottom
            intercept[t] = total / count if count > 0 else (top + bottom) / 2.0
        _ = stamp

    def descend_chunk(
        F: Any, box: Any, epsilons: Any, goals: Any, max_iter: int, work: Work, beta: Any, n_iter: Any
    ) -> None:
        """Iterate every target from β and F until U − L ≤ its goal; β and n_iter are written."""
        cap = np.empty(F.shape[1])
        for t in range(F.shape[0]):
            for i in range(cap.size):
                cap[i] = box[t % box.shape[0], i % box.shape[1]]
                work.f[i] = F[t, i]
                work.up[i] = rise_offset(beta[t, i], cap[i], epsilons[t])
                work.down[i] = fall_offset(beta[t, i], cap[i], epsilons[t])
            n_iter[t] = _descend(work, beta[t], cap, epsilons[t], goals[t], max_iter)
        _ = stamp

    return (
        compiled_and_cached(make_chunk_feasible),
        compiled_and_cached(judge_chunk),
        compiled_and_cached(descend_chunk),
    )


make_chunk_feasible, judge_chunk, descend_chunk = _shared_kernels_from(source_stamp())
