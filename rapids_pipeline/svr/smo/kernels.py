"""Compiled loops of SMO: the formulas of one pair step, and passes over chunks of targets.

Arrays of a chunk are (targets, rows), and `box` is (1 or targets, rows). Loops over rows of the passes hold no branch,
so that they become vector instructions.
"""

# ruff: noqa: ARG001 (`stamp`, which is never read, is part of what numba's cache looks up)

import zlib
from collections.abc import Callable
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
from numba import njit

from rapids_pipeline.svr.smo.vectors import BLOCKED

FLOAT32_ROUNDING = 5e-6
"""U − L below this times max |y| is not asked of float32."""
AIM = 0.3
"""Iterations go on to this share of tol (5 % more of them), since predictions may differ by about U − L."""
SETTLED = 1e-11
"""Share of C that counts as rounding."""
AT_BOUND = 1e-6
"""A start within this share of C of its bound is put there, whatever float32 made of it."""
PADDING = 64
"""Arrays over rows are padded to a multiple of this: 4 accumulators of 16 float32 (see `vectors`)."""
TILE = 8
"""Targets that are transposed together."""
OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": {"contract", "nsz"}}


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile with numba; it becomes part of the functions that are cached on disk, and can make no arrays.

    `_nrt` is off: numba would count references to every array of a work tuple in every call, by atomic additions to
    places that the threads share, and that takes as long as the work on a row.
    """
    return njit(_nrt=False, **OPTIONS)(function)  # type: ignore[no-any-return]


def inlined(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile into every caller: no call, and no counting of references to the many arrays of a work tuple."""
    return njit(inline="always", **OPTIONS)(function)  # type: ignore[no-any-return]


def summing(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a loop that adds up or takes a maximum: in whatever order vector instructions do it."""
    fast = {"contract", "nsz", "nnan", "reassoc"}
    return njit(**{**OPTIONS, "fastmath": fast})(function)  # type: ignore[no-any-return]


def compiled_and_cached(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile with numba, cached beside this file or in the user's cache folder, where one can be written.

    By itself numba's cache looks at the file of the cached function only, and would go on using `vectors` that have
    since been changed. It also asks for equal default arguments: give one the value `STAMP`.
    """
    try:
        return njit(cache=True, **OPTIONS)(function)  # type: ignore[no-any-return]
    except RuntimeError:  # numba: "cannot cache function ...: no locator available"
        return compiled(function)


def source_stamp() -> int:
    """Return a checksum of everything the solver is compiled from (0 where the sources are not there)."""
    try:
        return zlib.crc32(b"".join(file.read_bytes() for file in sorted(Path(__file__).parent.glob("*.py"))))
    except OSError:
        return 0


STAMP = source_stamp()


def padded(n: int, to: int = PADDING) -> int:
    """Return the least multiple of `to` that is not below n."""
    return ceil(n / to) * to


# --- one pair step ------------------------------------------------------------------------------------------


@compiled
def rise_offset(beta: float, cap: float, epsilon: float) -> float:
    """Return what f loses before β may rise: ε from 0 upwards, −ε below 0, out of reach at the cap."""
    if beta >= cap:
        return BLOCKED
    return epsilon if beta >= 0.0 else -epsilon


@compiled
def fall_offset(beta: float, cap: float, epsilon: float) -> float:
    """Return the offset of f for a falling β: ε above 0, −ε from 0 downwards, out of reach at −cap."""
    if beta <= -cap:
        return -BLOCKED
    return epsilon if beta > 0.0 else -epsilon


@compiled
def step_pair(
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


@compiled
def largest(values: Any) -> float:
    """Return max |values|."""
    found = 0.0
    for value in values:
        found = max(found, abs(value))
    return found


@compiled
def settle(beta: float, cap: float) -> float:
    """Return β, or exactly 0 or ±cap where only rounding keeps it from there.

    Sums of steps end an ulp beside a bound; such a β would count as free, and where none is free the intercept
    is the middle of an interval, not one end of it.
    """
    if abs(beta) <= SETTLED * cap:
        return 0.0
    if abs(beta) >= (1.0 - SETTLED) * cap:
        return cap if beta > 0.0 else -cap
    return beta


@compiled
def take_off(beta: Any, excess: float) -> None:
    """Move coordinates with the sign of `excess` towards 0, one after the other, until Σβ is less by that."""
    for i in range(beta.size):
        if beta[i] * excess > 0.0:
            part = beta[i] if abs(beta[i]) < abs(excess) else excess
            beta[i] -= part
            excess -= part


# --- passes over a chunk of targets -------------------------------------------------------------------------


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


@compiled_and_cached
def gather_chunk(Y: Any, rows: Any, centre: Any, largest: Any, stamp: int = STAMP) -> None:
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


@compiled
def _shrunk(v: Any, width: Any, cap: Any) -> Any:
    """clip(soft(v, width), −cap, cap)."""
    inside = v if v < width else width
    z = v - (inside if inside > -width else -width)
    z = z if z < cap else cap
    return z if z > -cap else -cap


@compiled_and_cached
def reflect_chunk(Y: Any, box: Any, widths: Any, rho: Any, share: Any, out: Any, stamp: int = STAMP) -> None:
    """out ← 2Z − v + y/ρ for v = share·y/ρ and Z = clip(soft(v, ε/ρ), −C, C), all float32."""
    for t in range(Y.shape[0]):
        cap, y, line, width = box[t if box.shape[0] > 1 else 0], Y[t], out[t], widths[t]
        for i in range(y.size):
            step = y[i] / rho
            v = share * step
            Z = _shrunk(v, width, cap[i])
            line[i] = Z + Z - v + step


@compiled_and_cached
def start_chunk(
    Y: Any, G: Any, box: Any, widths: Any, rho: Any, share: Any, relaxation: Any, beta: Any,
    stamp: int = STAMP,
) -> None:  # fmt: skip
    """β ← clip(soft(v + relaxation·(G − Z)), −C, C), v and Z as in `reflect_chunk`."""
    for t in range(Y.shape[0]):
        cap, y, line, width, to = box[t if box.shape[0] > 1 else 0], Y[t], G[t], widths[t], beta[t]
        for i in range(y.size):
            v = share * (y[i] / rho)
            Z = _shrunk(v, width, cap[i])
            to[i] = _shrunk(v + relaxation * (line[i] - Z), width, cap[i])


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
    if abs(excess) > 1e-12 * size:  # less is rounding; a coordinate at its bound stays there
        take_off(beta, excess)


@compiled_and_cached
def balance_chunk(box: Any, beta: Any, rounded: Any, stamp: int = STAMP) -> None:
    """Make β of every target feasible, in place; rounded ← β in float32."""
    for t in range(beta.shape[0]):
        balance(beta[t], box[t if box.shape[0] > 1 else 0])
        for i in range(beta.shape[1]):
            rounded[t, i] = beta[t, i]


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


@compiled_and_cached
def judge_chunk(
    Y: Any, product: Any, box: Any, epsilons: Any, beta: Any, gap: Any, intercept: Any, stamp: int = STAMP
) -> None:
    """gap ← U − L and intercept ← b of every target, from f = Y − product, product = βK."""
    for t in range(Y.shape[0]):
        cap = box[t if box.shape[0] > 1 else 0]
        top, bottom, total, count = _judge(Y[t], product[t], beta[t], cap, epsilons[t])
        gap[t] = top - bottom
        intercept[t] = total / count if count > 0.0 else (top + bottom) / 2.0
