r"""SMO that moves up to four pairs of coordinates an iteration, for targets that share one Gram matrix.

Two passes over all rows are most of what a pair step costs, so several pairs share them:

    rows i       the row with the largest u = f − up of every quarter of the vector lanes; all whose u is within
                 `NEAR`·(U − L) of U
    partners j   for each i the row with the largest (u_i − l_j)²/D_ij that no other pair has, l = f − down
    steps        one after the other, each exact given those before it
    f            f + Σ_a s_a (D[i_a] − D[j_a]), one pass for all

with D_ij = (K_ii + K_jj)/2 − K_ij, half the squared distance in the kernel's feature space: u_i − l_j falls at rate
2D_ij, and since Σβ stays as it is, f = y − Kβ changes by Σ_a s_a (D[i_a] − D[j_a]) and a constant, which is taken off
again (s_a (K_ii − K_jj)/2 for each pair). The first pair is LIBSVM's, the largest u and its partner by second order, so
the iterations converge where LIBSVM's do; the others add what would have been picked a little later.

Source of the selection of the first pair: Fan, Chen and Lin, JMLR 6 (2005), 1889–1918.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rapids_pipeline.svr.smo_arrays import BLOCKED, PADDING, aligned, padded
from rapids_pipeline.svr.smo_pair_vectors import (
    LANES,
    PAIRS,
    advance_0,
    advance_1,
    advance_2,
    advance_3,
    advance_4,
    free_partner,
    partners_1,
    partners_2,
    partners_3,
    partners_4,
)
from rapids_pipeline.svr.smo_problem import Floats
from rapids_pipeline.svr.smo_steps import compiled, fall_offset, inlined, rise_offset, step_pair

NEAR = 0.2
"""Rows whose u is within this share of U − L below U may be moved in the same iteration."""
QUARTER = LANES // 4
DISTANCE_BLOCK = 512


class PairWork(NamedTuple):
    """What the iterations of one target read and write; arrays over rows are padded by rows that never move."""

    f: Any
    up: Any
    down: Any
    table: Any
    half: Any
    tops: Any
    top_rows: Any
    keys: Any
    taken: Any
    rows: Any
    row_starts: Any
    row_tops: Any
    step_starts: Any
    steps: Any
    sizes: Any


def distance_table(K: Floats) -> NDArray[np.float32]:
    """Return D (n, padded n) in float32, from float64 and never below 0; the padding holds 1."""
    n, half = len(K), 0.5 * np.diagonal(K)
    table = aligned((n, padded(n, PADDING)), np.float32, 1.0)
    for start in range(0, n, DISTANCE_BLOCK):
        part = slice(start, min(start + DISTANCE_BLOCK, n))
        table[part, :n] = np.maximum(half[part, None] + half[None, :] - K[part], 0.0)
    np.fill_diagonal(table[:, :n], 0.0)
    return table


def pair_work(table: NDArray[np.float32], half: Floats) -> PairWork:
    """Return the work arrays of one thread; the table is shared."""
    length = table.shape[1]
    return PairWork(
        f=aligned((length,), np.float32),
        up=aligned((length,), np.float32, BLOCKED),
        down=aligned((length,), np.float32, -BLOCKED),
        table=table,
        half=np.ascontiguousarray(half, dtype=np.float64),
        tops=aligned((LANES,), np.float32),
        top_rows=aligned((LANES,), np.int32),
        keys=aligned((PAIRS * LANES,), np.int32),
        taken=np.zeros(length, np.uint8),
        rows=np.zeros((PAIRS, 2), np.int64),
        row_starts=np.zeros(PAIRS, np.int64),
        row_tops=np.zeros(PAIRS, np.float32),
        step_starts=np.zeros(2 * PAIRS, np.int64),
        steps=np.zeros(2 * PAIRS, np.float32),
        sizes=np.zeros(PAIRS),
    )


@compiled
def row_mask(rows: int) -> Any:
    """Return the bits of a key that hold its row: 2**k − 1, the least that is not below `rows` − 1."""
    bits = np.int32(1)
    while bits < rows:
        bits = np.int32(2 * bits)
    return np.int32(bits - 1)


@inlined
def _risers(
    tops: Any, top_rows: Any, rows: Any, row_starts: Any, row_tops: Any, width: int, gap: float, most: int
) -> int:
    """Write the rows to raise, the one with the largest u first, with their u and table starts; return how many."""
    best = 0
    for quarter in range(QUARTER, LANES, QUARTER):
        if tops[quarter] > tops[best]:
            best = quarter
    least = max(np.float64(tops[best]) - NEAR * gap, -0.5 * BLOCKED)
    count = 0
    for turn in range(PAIRS):
        quarter = (best + QUARTER * turn) % LANES
        if count < most and tops[quarter] > least:
            row = np.int64(top_rows[quarter])
            rows[count, 0], row_tops[count], row_starts[count] = row, tops[quarter], row * width
            count += 1
    return count


@inlined
def _survey(
    f: Any, down: Any, table: Any, row_starts: Any, row_tops: Any, row_bits: Any, keys: Any, count: int
) -> Any:
    """Write the keys of all partners of the first `count` rows to raise, lane by lane; return L."""
    if count == 1:
        bottom = partners_1(f, down, table, row_starts, row_tops, row_bits, f.size, keys)
    elif count == 2:
        bottom = partners_2(f, down, table, row_starts, row_tops, row_bits, f.size, keys)
    elif count == 3:
        bottom = partners_3(f, down, table, row_starts, row_tops, row_bits, f.size, keys)
    else:
        bottom = partners_4(f, down, table, row_starts, row_tops, row_bits, f.size, keys)
    return bottom


@inlined
def _pair_up(keys: Any, row_bits: Any, taken: Any, rows: Any, count: int) -> None:
    """Write a partner, or −1, for each of the first `count` rows, no row twice."""
    rows[0, 1] = free_partner(keys, 0, row_bits, taken)  # the best there is, though another pair may raise it
    for c in range(count):
        taken[rows[c, 0]] = 1
    for c in range(count):
        if c > 0:
            rows[c, 1] = free_partner(keys, c * LANES, row_bits, taken)
        if rows[c, 1] >= 0:
            taken[rows[c, 1]] = 1
    for c in range(count):
        taken[rows[c, 0]] = 0
        if rows[c, 1] >= 0:
            taken[rows[c, 1]] = 0


@inlined
def _change_of_slope(table: Any, starts: Any, sizes: Any, moved: int, i: int, j: int) -> float:
    """What the first `moved` steps have changed of f_i − f_j; `table` is one row."""
    change = 0.0
    for a in range(moved):
        of_i, of_j = starts[2 * a], starts[2 * a + 1]
        at_i = np.float64(table[of_i + i] - table[of_j + i])
        change += sizes[a] * (at_i - np.float64(table[of_i + j] - table[of_j + j]))
    return change


@inlined
def _step(
    slope: float, curvature: float, beta_i: float, beta_j: float, cap_i: float, cap_j: float, epsilon: float
) -> tuple[float, float, float]:
    """`smo_steps.pair_step`, which most steps do not need: they end before any zero or bound."""
    room_i = -beta_i if beta_i < 0.0 else cap_i - beta_i
    room_j = beta_j if beta_j > 0.0 else cap_j + beta_j
    step = slope / curvature
    if step < min(room_i, room_j):
        return beta_i + step, beta_j - step, step
    return step_pair(slope, curvature, beta_i, beta_j, cap_i, cap_j, epsilon)  # type: ignore[no-any-return]


@inlined
def _advance(
    f: Any, up: Any, table: Any, starts: Any, steps: Any, shift: Any, tops: Any, top_rows: Any, moved: int
) -> None:
    """Bring f up to date with the steps just made, and find the next rows to raise."""
    if moved == 1:
        advance_1(f, up, table, starts, steps, shift, f.size, tops, top_rows)
    elif moved == 2:
        advance_2(f, up, table, starts, steps, shift, f.size, tops, top_rows)
    elif moved == 3:
        advance_3(f, up, table, starts, steps, shift, f.size, tops, top_rows)
    else:
        advance_4(f, up, table, starts, steps, shift, f.size, tops, top_rows)


@compiled
def descend(work: PairWork, beta: Any, cap: Any, epsilon: float, tol: float, max_iter: int) -> int:
    """Move pairs until U − L ≤ tol, `max_iter` pairs have moved or none can; return how many did."""
    f, up, down, table, half = work.f, work.up, work.down, work.table.ravel(), work.half
    tops, top_rows, keys, taken = work.tops, work.top_rows, work.keys, work.taken
    rows, row_starts, row_tops = work.rows, work.row_starts, work.row_tops
    starts, steps, sizes = work.step_starts, work.steps, work.sizes
    width, kind = work.table.shape[1], f.dtype.type
    flat = max(5e-7 * half.max(), 1e-30)
    row_bits = row_mask(f.size)
    advance_0(f, up, table, starts, steps, kind(0.0), f.size, tops, top_rows)
    done, gap = 0, np.inf
    while done < max_iter:
        count = _risers(tops, top_rows, rows, row_starts, row_tops, width, gap, max_iter - done)
        if count == 0:
            break
        bottom = _survey(f, down, table, row_starts, row_tops, row_bits, keys, count)
        gap = np.float64(row_tops[0]) - np.float64(bottom)
        if gap <= tol:
            break
        _pair_up(keys, row_bits, taken, rows, count)
        moved, shift = 0, 0.0
        for c in range(count):
            i, j = rows[c, 0], rows[c, 1]
            if j < 0:
                continue
            slope = np.float64(f[i] - up[i]) - np.float64(f[j] - down[j])
            slope += _change_of_slope(table, starts, sizes, moved, i, j)
            if not slope > 0.0:
                continue
            curvature = 2.0 * max(np.float64(table[i * width + j]), flat)
            b_i, b_j, step = _step(slope, curvature, beta[i], beta[j], cap[i], cap[j], epsilon)
            beta[i], beta[j] = b_i, b_j
            up[i], down[i] = rise_offset(b_i, cap[i], epsilon), fall_offset(b_i, cap[i], epsilon)
            up[j], down[j] = rise_offset(b_j, cap[j], epsilon), fall_offset(b_j, cap[j], epsilon)
            sizes[moved], steps[2 * moved], steps[2 * moved + 1] = step, step, -step
            starts[2 * moved], starts[2 * moved + 1] = i * width, j * width
            shift += step * (half[i] - half[j])
            moved += 1
        if moved == 0:
            break
        _advance(f, up, table, starts, steps, kind(shift), tops, top_rows, moved)
        done += moved
    return done
