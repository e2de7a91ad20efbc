"""The formulas of one pair step of SMO, and how the solver's loops are compiled.

The formulas are plain Python so that the CPU and the CUDA compiler share them.
"""

import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from numba import njit

from rapids_pipeline.svr.smo_arrays import BLOCKED

FLOAT32_ROUNDING = 5e-6
"""U − L below this times max |y| is not asked of float32."""
AIM = 0.3
"""Iterations go on to this share of tol (5 % more of them), since predictions may differ by about U − L."""
SETTLED = 1e-11
"""Share of C that counts as rounding."""
PARTS = ("arrays", "factors", "kernels", "pair_vectors", "pairs", "shared_kernels", "steps", "vectors")
SOURCES = tuple(f"smo_{part}.py" for part in PARTS)
OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": {"contract", "nsz"}}


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile with numba; it becomes part of the functions that are cached on disk."""
    return njit(**OPTIONS)(function)  # type: ignore[no-any-return]


def inlined(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile into every caller: no call, and no counting of references to the many arrays of a work tuple."""
    return njit(inline="always", **OPTIONS)(function)  # type: ignore[no-any-return]


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


def settled(beta: float, cap: float) -> float:
    """Return β, or exactly 0 or ±cap where only rounding keeps it from there.

    Sums of steps end an ulp beside a bound; such a β would count as free, and where none is free the intercept
    is the middle of an interval, not one end of it.
    """
    if abs(beta) <= SETTLED * cap:
        return 0.0
    if abs(beta) >= (1.0 - SETTLED) * cap:
        return cap if beta > 0.0 else -cap
    return beta


rise_offset = compiled(up_offset)
fall_offset = compiled(down_offset)
step_pair = compiled(pair_step)
settle = compiled(settled)


def source_stamp() -> int:
    """Return a checksum of everything the solver is compiled from (0 where the sources are not there)."""
    try:
        return zlib.crc32(b"".join((Path(__file__).parent / name).read_bytes() for name in SOURCES))
    except OSError:
        return 0
