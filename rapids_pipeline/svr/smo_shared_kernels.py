"""Compiled loops of SMO for a chunk of targets that share one Gram matrix (see `smo_shared`).

All arrays are (targets, rows), and `box` is (1 or targets, rows). Loops over rows hold no branch, so that they become
vector instructions.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit

from rapids_pipeline.svr.smo_arrays import BLOCKED
from rapids_pipeline.svr.smo_kernels import take_off
from rapids_pipeline.svr.smo_pairs import PairWork, descend
from rapids_pipeline.svr.smo_steps import (
    OPTIONS,
    compiled,
    compiled_and_cached,
    fall_offset,
    rise_offset,
    settle,
    source_stamp,
)

TILE = 8
"""Targets that are transposed together."""
AT_BOUND = 1e-6
"""A start within this share of C of its bound is put there, whatever float32 made of it."""


def summing(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a loop that adds up or takes a maximum: in whatever order vector instructions do it."""
    fast = {"contract", "nsz", "nnan", "reassoc"}
    return njit(**{**OPTIONS, "fastmath": fast})(function)  # type: ignore[no-any-return]


@summing
def _mean(values: Any) -> float:
    """Return the mean, that of a constant exactly."""
    total = 0.0
    for i in range(values.size):
        total += values[i] - values[0]
    return values[0] + total / values.size  # type: ignore[no-any-return]


@summing
def _subtracted(values: Any, constant: float, out: Any) -> float:
    """out ← values − constant; return the largest absolute value."""
    largest = 0.0
    for i in range(values.size):
        rest = values[i] - constant
        out[i] = rest
        largest = abs(rest) if abs(rest) > largest else largest
    return largest


@compiled
def _shrunk(v: Any, width: Any, cap: Any) -> Any:
    """clip(soft(v, width), −cap, cap)."""
    inside = v if v < width else width
    z = v - (inside if inside > -width else -width)
    z = z if z < cap else cap
    return z if z > -cap else -cap


@summing
def _excess(beta: Any, cap: Any) -> tuple[float, float, float]:
    """Σβ, Σ|β| and how many coordinates are free (neither 0 nor at a bound)."""
    total, size, free = 0.0, 0.0, 0.0
    for i in range(beta.size):
        total += beta[i]
        size += abs(beta[i])
        free += 1.0 if (beta[i] != 0.0) & (abs(beta[i]) < cap[i]) else 0.0
    return total, size, free


@compiled
def _clip_to_box(beta: Any, cap: Any) -> None:
    for i in range(beta.size):
        near, b = (1.0 - AT_BOUND) * cap[i], beta[i]
        b = cap[i] if b > near else b
        beta[i] = -cap[i] if b < -near else b


@compiled
def _spread(beta: Any, cap: Any, share: float) -> None:
    """Move every free coordinate by −share, but not past 0 or its bound."""
    for i in range(beta.size):
        b = beta[i]
        low, high = (0.0 if b > 0.0 else -cap[i]), (cap[i] if b > 0.0 else 0.0)
        moved = b - share
        moved = moved if moved > low else low
        moved = moved if moved < high else high
        beta[i] = moved if (b != 0.0) & (abs(b) < cap[i]) else b


@compiled
def balance(beta: Any, cap: Any) -> None:
    """Put β into its box and make Σβ = 0: equal steps of the free coordinates, then what is left one by one."""
    _clip_to_box(beta, cap)
    excess, size, free = _excess(beta, cap)
    for _ in range(2):
        if free > 0.0 and abs(excess) > 1e-12 * size:
            _spread(beta, cap, excess / free)
            excess, size, free = _excess(beta, cap)
    if abs(excess) <= 1e-12 * size:
        return  # rounding; a coordinate at its bound stays there
    take_off(beta, excess)


@summing
def _judge(y: Any, product: Any, beta: Any, cap: Any, epsilon: float) -> tuple[float, float, float, float]:
    """U, L, Σ(f − ε·sign β) over the free coordinates and how many these are, for f = y − product."""
    top, bottom, total, count = -2.0 * BLOCKED, 2.0 * BLOCKED, 0.0, 0.0
    for i in range(beta.size):
        f = np.float64(y[i]) - np.float64(product[i])
        rise = f - rise_offset(beta[i], cap[i], epsilon)
        fall = f - fall_offset(beta[i], cap[i], epsilon)
        top = rise if rise > top else top
        bottom = fall if fall < bottom else bottom
        free = (beta[i] != 0.0) & (abs(beta[i]) < cap[i])
        total += rise if free else 0.0
        count += 1.0 if free else 0.0
    return top, bottom, total, count


def _start_kernels_from(stamp: int) -> tuple[Callable[..., Any], ...]:
    """Return the loops that lead to a feasible β; they capture `stamp` for numba's cache (see `smo_kernels`)."""

    def gather_chunk(Y: Any, rows: Any, centre: Any, largest: Any) -> None:
        """rows ← Y (rows, targets) transposed, less each target's mean, in float32; largest ← max |rows|.

        A constant changes nothing but b, and float32 resolves small numbers better.
        """
        tile = np.empty((TILE, rows.shape[1]))
        for first in range(0, rows.shape[0], TILE):
            count = min(TILE, rows.shape[0] - first)
            for i in range(rows.shape[1]):
                for t in range(count):
                    tile[t, i] = Y[i, first + t]
            for t in range(count):
                centre[first + t] = _mean(tile[t])
                largest[first + t] = _subtracted(tile[t], centre[first + t], rows[first + t])
        _ = stamp

    def reflect_chunk(Y: Any, box: Any, widths: Any, rho: Any, share: Any, out: Any) -> None:
        """out ← 2Z − v + y/ρ for v = share·y/ρ and Z = clip(soft(v, ε/ρ), −C, C), all float32."""
        for t in range(Y.shape[0]):
            cap, y, line, width = box[t if box.shape[0] > 1 else 0], Y[t], out[t], widths[t]
            for i in range(y.size):
                step = y[i] / rho
                v = share * step
                Z = _shrunk(v, width, cap[i])
                line[i] = Z + Z - v + step
        _ = stamp

    def start_chunk(
        Y: Any, G: Any, box: Any, widths: Any, rho: Any, share: Any, relaxation: Any, beta: Any
    ) -> None:
        """β ← clip(soft(v + relaxation·(G − Z)), −C, C), v and Z as in `reflect_chunk`."""
        for t in range(Y.shape[0]):
            cap, y, line, width, to = box[t if box.shape[0] > 1 else 0], Y[t], G[t], widths[t], beta[t]
            for i in range(y.size):
                v = share * (y[i] / rho)
                Z = _shrunk(v, width, cap[i])
                to[i] = _shrunk(v + relaxation * (line[i] - Z), width, cap[i])
        _ = stamp

    def balance_chunk(box: Any, beta: Any, rounded: Any) -> None:
        """Make β of every target feasible, in place; rounded ← β in float32."""
        for t in range(beta.shape[0]):
            balance(beta[t], box[t if box.shape[0] > 1 else 0])
            for i in range(beta.shape[1]):
                rounded[t, i] = beta[t, i]
        _ = stamp

    loops = (gather_chunk, reflect_chunk, start_chunk, balance_chunk)
    return tuple(compiled_and_cached(loop) for loop in loops)


def _solution_kernels_from(stamp: int) -> tuple[Callable[..., Any], ...]:
    """Return the loops that iterate and judge; they capture `stamp`, too."""

    def descend_chunk(
        Y: Any, product: Any, box: Any, epsilons: Any, goals: Any, max_iter: int, work: PairWork, beta: Any,
        rounded: Any, n_iter: Any,
    ) -> None:  # fmt: skip
        """Iterate every target from β, with product = βK, until U − L ≤ its goal; β, rounded and n_iter are written."""
        f, up, down = work.f, work.up, work.down
        for t in range(Y.shape[0]):
            cap, b, epsilon = box[t if box.shape[0] > 1 else 0], beta[t], epsilons[t]
            for i in range(cap.size):
                f[i] = Y[t, i] - product[t, i]
                up[i] = rise_offset(b[i], cap[i], epsilon)
                down[i] = fall_offset(b[i], cap[i], epsilon)
            n_iter[t] = descend(work, b, cap, epsilon, goals[t], max_iter)
            for i in range(cap.size):
                b[i] = settle(b[i], cap[i])
                rounded[t, i] = b[i]
        _ = stamp

    def judge_chunk(
        Y: Any, product: Any, box: Any, epsilons: Any, beta: Any, gap: Any, intercept: Any
    ) -> None:
        """gap ← U − L and intercept ← b of every target, from f = Y − product, product = βK."""
        for t in range(Y.shape[0]):
            cap = box[t if box.shape[0] > 1 else 0]
            top, bottom, total, count = _judge(Y[t], product[t], beta[t], cap, epsilons[t])
            gap[t] = top - bottom
            intercept[t] = total / count if count > 0.0 else (top + bottom) / 2.0
        _ = stamp

    return compiled_and_cached(descend_chunk), compiled_and_cached(judge_chunk)


gather_chunk, reflect_chunk, start_chunk, balance_chunk = _start_kernels_from(source_stamp())
descend_chunk, judge_chunk = _solution_kernels_from(source_stamp())
