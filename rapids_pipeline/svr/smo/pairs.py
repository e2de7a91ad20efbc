r"""The iterations of SMO: one pair of coordinates at a time, or up to four for targets that share one Gram matrix.

One pair, LIBSVM's, for a target by itself: i = argmax u, u = f − up, and its partner by second order, l = f − down,

    j = argmax over l_j < u_i of (u_i − l_j)² / (K_ii + K_jj − 2K_ij),   f ← f − s (K_i − K_j)

Two passes over all rows are most of what a pair step costs, so several pairs share them:

    rows i       the row with the largest u of every quarter of the vector lanes; all whose u is within
                 `NEAR`·(U − L) of U
    partners j   for each i the row with the largest (u_i − l_j)²/D_ij that no other pair has
    steps        one after the other, each exact given those before it
    f            f + Σ_a s_a (D[i_a] − D[j_a]), one pass for all

with D_ij = (K_ii + K_jj)/2 − K_ij, half the squared distance in the kernel's feature space: u_i − l_j falls at rate
2D_ij, and since Σβ stays as it is, f = y − Kβ changes by Σ_a s_a (D[i_a] − D[j_a]) and a constant, which is taken off
again (s_a (K_ii − K_jj)/2 for each pair). The first pair is LIBSVM's, so the iterations converge where LIBSVM's do; the
others add what would have been picked a little later.

Source of the selection of the first pair: Fan, Chen and Lin, JMLR 6 (2005), 1889–1918.
"""

# ruff: noqa: ARG001 (`stamp`, which is never read, is part of what numba's cache looks up)

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike

from rapids_pipeline.backend.arrays import Float32, Float64, Floats, aligned
from rapids_pipeline.svr.smo.kernels import (
    AIM,
    FLOAT32_ROUNDING,
    STAMP,
    compiled,
    compiled_and_cached,
    fall_offset,
    inlined,
    largest,
    padded,
    rise_offset,
    settle,
    step_pair,
    take_off,
)
from rapids_pipeline.svr.smo.vectors import (
    BLOCKED,
    LANES,
    PAIRS,
    advance_0,
    advance_1,
    advance_2,
    advance_3,
    advance_4,
    first_row,
    free_partner,
    partners_1,
    partners_2,
    partners_3,
    partners_4,
    second_row,
)

NEAR = 0.2
"""Rows whose u is within this share of U − L below U may be moved in the same iteration."""
QUARTER = LANES // 4
DISTANCE_BLOCK = 512


# --- one pair, on rows of K ---------------------------------------------------------------------------------


class Work(NamedTuple):
    """What the iterations of one target read and write; arrays over rows are padded by rows that never move."""

    f: Any
    up: Any
    down: Any
    half_diagonal: Any
    K: Any


def table_of(K: Float64, dtype: DTypeLike) -> Floats:
    """Return a Gram matrix padded, in float32 or float64, for the threads to share."""
    table = aligned((len(K), padded(len(K))), dtype)
    table[:, : len(K)] = K
    return table


def work_on(table: Floats, half_diagonal: Float64) -> Work:
    """Return the work arrays of one thread in the type of a table."""
    length, dtype = table.shape[1], table.dtype
    half = aligned((length,), dtype, 0.5)
    half[: len(table)] = half_diagonal
    f, up, down = (aligned((length,), dtype, fill) for fill in (0.0, BLOCKED, -BLOCKED))
    return Work(f, up, down, half, table)


@compiled
def _descend_alone(work: Work, beta: Any, cap: Any, epsilon: float, tol: float, most: int) -> int:
    """Iterate until U − L ≤ tol or `most` iterations; f, β and the offsets change in place."""
    f, up, down, half, K = work.f, work.up, work.down, work.half_diagonal, work.K
    width, length, kind = K.shape[1], f.size, f.dtype.type
    flat = kind(max((5e-7 if f.itemsize == 4 else 5e-13) * largest(half[: beta.size]), 1e-30))
    i, top = first_row(f, up, K, 0, 0, length, kind(0.0))
    for iteration in range(most):
        j, bottom = second_row(f, down, half, K, i * width, length, top, half[i], flat)
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
        i, top = first_row(f, up, K, i * width, j * width, length, kind(step))
    return most


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
def _residual(work: Work, y: Any, beta: Any, product: Any) -> None:
    """f ← y − Kβ; `product` is overwritten."""
    product[:] = 0.0
    for j in range(y.size):
        weight, row = beta[j], work.K[j]
        if weight != 0.0:
            for i in range(product.size):
                product[i] += weight * row[i]
    for i in range(y.size):
        work.f[i] = y[i] - product[i]


@compiled_and_cached
def solve_alone(
    y: Any, beta: Any, cap: Any, epsilon: float, tol: float, max_iter: int, fast: Work, exact: Work,
    stamp: int = STAMP,
) -> tuple[int, float, float]:  # fmt: skip
    """Solve one target y, overwritten, from β: in float32 first, in float64 where the check there asks for it.

    Returns the iterations, U − L (of f = y − Kβ computed afresh in float64) and the intercept.
    """
    n, done, use_fast, product = y.size, 0, True, np.empty(exact.f.size)
    centre = y.mean()  # a constant changes nothing but b, and float32 resolves small numbers better
    y -= centre
    excess = beta.sum()
    if abs(excess) > 1e-12 * np.abs(beta).sum():  # less is rounding; a coordinate at its bound stays there
        take_off(beta, excess)
    rounding, aim = FLOAT32_ROUNDING * largest(y), AIM * tol
    _residual(exact, y, beta, product)
    top, bottom, intercept = offsets(exact.f, exact.up, exact.down, beta, cap, epsilon)
    gap = top - bottom
    while gap > aim and done < max_iter:
        block = min(max_iter - done, 20 * n + 1000)
        if use_fast:
            for i in range(n):
                fast.f[i], fast.up[i], fast.down[i] = exact.f[i], exact.up[i], exact.down[i]
            made = _descend_alone(fast, beta, cap, epsilon, max(0.95 * aim, rounding), block)
        else:
            made = _descend_alone(exact, beta, cap, epsilon, 0.99 * aim, block)
        done += made
        _residual(exact, y, beta, product)
        top, bottom, intercept = offsets(exact.f, exact.up, exact.down, beta, cap, epsilon)
        previous, gap = gap, top - bottom
        if use_fast:
            use_fast = made == block and gap < 0.9 * previous
        elif made == 0:
            break
    return done, gap, intercept + centre


# --- up to four pairs, on half squared distances -------------------------------------------------------------


class PairWork(NamedTuple):
    """What the iterations of one target read and write; arrays over rows are padded by rows that never move.

    Row i of D is row place[i] of the flat table, or not made yet where that is negative.
    """

    f: Any
    up: Any
    down: Any
    table: Any
    place: Any
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


def distance_table(K: Float64) -> Float32:
    """Return D (n, padded n) in float32, from float64 and never below 0; the padding holds 1."""
    n, half = len(K), 0.5 * np.diagonal(K)
    table = aligned((n, padded(n)), np.float32, 1.0)
    for start in range(0, n, DISTANCE_BLOCK):
        part = slice(start, min(start + DISTANCE_BLOCK, n))
        table[part, :n] = np.maximum(half[part, None] + half[None, :] - K[part], 0.0)
    np.fill_diagonal(table[:, :n], 0.0)
    return table


def pair_work(table: Float32, half: Float64) -> PairWork:
    """Return the work arrays of one thread; the table is shared."""
    length = table.shape[1]
    return PairWork(
        f=aligned((length,), np.float32),
        up=aligned((length,), np.float32, BLOCKED),
        down=aligned((length,), np.float32, -BLOCKED),
        table=table.reshape(-1),
        place=np.arange(len(table)),
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
def _risers(tops: Any, top_rows: Any, rows: Any, row_tops: Any, gap: float, most: int) -> int:
    """Write the rows to raise, the one with the largest u first, with their u; return how many."""
    best = 0
    for quarter in range(QUARTER, LANES, QUARTER):
        if tops[quarter] > tops[best]:
            best = quarter
    least = max(np.float64(tops[best]) - NEAR * gap, -0.5 * BLOCKED)
    count = 0
    for turn in range(PAIRS):
        quarter = (best + QUARTER * turn) % LANES
        if count < most and tops[quarter] > least:
            rows[count, 0], row_tops[count] = np.int64(top_rows[quarter]), tops[quarter]
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
def _slope(
    f: Any, up: Any, down: Any, table: Any, starts: Any, sizes: Any, moved: int, i: int, j: int
) -> float:
    """u_i − l_j of f after the first `moved` steps, which are not in f yet."""
    slope = np.float64(f[i] - up[i]) - np.float64(f[j] - down[j])
    for a in range(moved):
        of_i, of_j = starts[2 * a], starts[2 * a + 1]
        at_i = np.float64(table[of_i + i] - table[of_j + i])
        slope += sizes[a] * (at_i - np.float64(table[of_i + j] - table[of_j + j]))
    return slope


@inlined
def _step(
    slope: float, curvature: float, beta_i: float, beta_j: float, cap_i: float, cap_j: float, epsilon: float
) -> tuple[float, float, float]:
    """`step_pair`, which most steps do not need: they end before any zero or bound."""
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


def descend_on(make_row: Callable[..., None]) -> Callable[..., int]:
    """Return the loop over rows of D of which `make_row(source, i)` makes those that are not made yet."""

    @compiled
    def descend(
        work: PairWork, source: Any, beta: Any, cap: Any, epsilon: float, tol: float, max_iter: int
    ) -> int:
        """Move pairs until U − L ≤ tol, `max_iter` pairs have moved or none can; return how many did."""
        f, up, down, table, place, half = work.f, work.up, work.down, work.table, work.place, work.half
        tops, top_rows, keys, taken = work.tops, work.top_rows, work.keys, work.taken
        rows, row_starts, row_tops = work.rows, work.row_starts, work.row_tops
        starts, steps, sizes = work.step_starts, work.steps, work.sizes
        width, kind, row_bits = f.size, f.dtype.type, row_mask(f.size)
        flat, done, gap = max(5e-7 * largest(half), 1e-30), 0, np.inf
        advance_0(f, up, table, starts, steps, kind(0.0), f.size, tops, top_rows)
        while done < max_iter:
            count = _risers(tops, top_rows, rows, row_tops, gap, max_iter - done)
            if count == 0:
                break
            for c in range(count):
                if place[rows[c, 0]] < 0:
                    make_row(source, rows[c, 0])
                row_starts[c] = place[rows[c, 0]] * width
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
                slope = _slope(f, up, down, table, starts, sizes, moved, i, j)
                if not slope > 0.0:
                    continue
                curvature = 2.0 * max(np.float64(table[row_starts[c] + j]), flat)
                b_i, b_j, step = _step(slope, curvature, beta[i], beta[j], cap[i], cap[j], epsilon)
                beta[i], beta[j] = b_i, b_j
                up[i], down[i] = rise_offset(b_i, cap[i], epsilon), fall_offset(b_i, cap[i], epsilon)
                up[j], down[j] = rise_offset(b_j, cap[j], epsilon), fall_offset(b_j, cap[j], epsilon)
                sizes[moved], steps[2 * moved], steps[2 * moved + 1] = step, step, -step
                if place[j] < 0:
                    make_row(source, j)
                starts[2 * moved], starts[2 * moved + 1] = row_starts[c], place[j] * width
                shift += step * (half[i] - half[j])
                moved += 1
            if moved == 0:
                break
            _advance(f, up, table, starts, steps, kind(shift), tops, top_rows, moved)
            done += moved
        return done

    return descend


@inlined
def _nothing(source: Any, i: int) -> None:
    pass


descend = descend_on(_nothing)


@compiled_and_cached
def descend_chunk(
    Y: Any, product: Any, box: Any, epsilons: Any, goals: Any, max_iter: int, work: PairWork, beta: Any,
    rounded: Any, n_iter: Any, stamp: int = STAMP,
) -> None:  # fmt: skip
    """Iterate every target from β, with product = βK, until U − L ≤ its goal; β, rounded and n_iter are written."""
    f, up, down = work.f, work.up, work.down
    for t in range(Y.shape[0]):
        cap, b, epsilon = box[t if box.shape[0] > 1 else 0], beta[t], epsilons[t]
        for i in range(cap.size):
            f[i] = Y[t, i] - product[t, i]
            up[i] = rise_offset(b[i], cap[i], epsilon)
            down[i] = fall_offset(b[i], cap[i], epsilon)
        n_iter[t] = descend(work, 0, b, cap, epsilon, goals[t], max_iter)
        for i in range(cap.size):
            b[i] = settle(b[i], cap[i])
            rounded[t, i] = b[i]
