"""Compiled loops of SVRs on each target's own statistics: SMO on rows of K_t made when first asked for, predictions.

Where a training row's statistics come from the rows outside its fold, hardly two rows have the same level, so tables
of levels save nothing. The iterations (`rapids_pipeline.svr.smo.pairs`) then work on rows of 1 − K_t, half the squared
distances in the feature space of the kernel:

    K_t[i, j] = exp(−γ_t (D[i, j] + ‖S_t1(i) − S_t1(j)‖²)) · B_t[b_i, b_j]

with D what all targets share of the first side and B_t the factor of the second, whose levels are few. Rows are
float32, evaluated in float32 (error below 4e-7; libsvm's are float32, too); U − L and the intercept come from
f = y − Kβ = y + (1 − K)β in float64, since Σβ = 0. Predictions for rows of other levels are summed in float64 from
both factors,

    Σ_j K(x_r, x_j) β_j = Σ_b B[b, b_r] Σ_{j of level b} A[a_j, a_r] β_j

A row is written by LLVM vectors; with scale = γ/ln 2 and statistics times √scale, e^−γ(…) is a power of 2:

    out[j] = 2^−(scale·squared[j] + ‖statistics[:, j] − own‖²)      and 1 − K is 1 − factor[j]·out[j]
"""

# ruff: noqa: ARG001 (numba gives an intrinsic arguments of which only the types matter here; `stamp` is for its cache)

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from rapids_pipeline.svr.smo.kernels import (
    AIM,
    FLOAT32_ROUNDING,
    STAMP,
    compiled,
    compiled_and_cached,
    inlined,
    largest,
)
from rapids_pipeline.svr.smo.pairs import PairWork, descend_on, offsets
from rapids_pipeline.svr.smo.vectors import ACCUMULATORS, Lanes

ROUNDS = 3
"""Runs of float32 iterations, each from f in float64, before a target is left to `smo.pairs.solve_alone`."""
SLACK = 2.0
"""A target is done where U − L in float64 is within this times what the iterations aimed at."""
UNROLLED = 6
"""Statistics are padded by zeros to a multiple of this."""
LN2 = math.log(2.0)
LEAST = -100.0
"""Exponent of 2 below which the power is 0."""
POWER_32 = (0.00132647273, 0.0096715127, 0.0555073374, 0.240222421, 0.693146978, 1.0)
"""2^r for |r| ≤ 1/2, highest power first: relative error below 1e-7 beside rounding (fitted)"""
POWER_64 = tuple(LN2**k / math.factorial(k) for k in range(11, -1, -1))
"""The same by Taylor's polynomial: below 1e-14."""


# --- a row of a factor --------------------------------------------------------------------------------------


def _row_pass(final: bool) -> Callable[..., Any]:
    """Return the intrinsic that adds `UNROLLED` statistics to a row of exponents; the final one takes the power."""

    @intrinsic  # type: ignore[untyped-decorator]
    def row_pass(
        typing: Any, out: Any, out_at: Any, start: Any, start_at: Any, scale: Any, statistics: Any, at: Any,
        own: Any, own_at: Any, own_stride: Any, factor: Any, factor_at: Any, length: Any,
    ) -> Any:  # fmt: skip
        """out[j] ← x = scale·start[j] + Σ_s (statistics[at + s·length + j] − own[own_at + s·own_stride])².

        The final pass writes 2^−x, or 1 − factor[j]·2^−x where there is a factor. 2^x = 2^k·2^r with k = round(x):
        numba makes short vectors of the conversion to k, these are long.
        """
        where = types.int64
        signature = types.void(
            out, where, start, where, scale, statistics, where, own, where, where, factor, where, where
        )

        def build(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            lanes, length = Lanes(context, builder, out.dtype), args[12]
            out_at, start_at = (lanes.pointer(sig.args[k], args[k], args[k + 1]) for k in (0, 2))
            factor_at = None if factor == types.none else lanes.pointer(sig.args[10], args[10], args[11])
            scale, tables, values = lanes.splat(args[4]), [], []
            for s in range(UNROLLED):
                place = ir.Constant(length.type, s)
                first = builder.add(args[6], builder.mul(length, place))
                tables.append(lanes.pointer(sig.args[5], args[5], first))
                mine = builder.add(args[8], builder.mul(args[9], place))
                values.append(lanes.splat(builder.load(lanes.pointer(sig.args[7], args[7], mine))))

            def body(position: Any, carried: list[Any]) -> list[Any]:
                for part in range(ACCUMULATORS):
                    here = builder.add(position, ir.Constant(position.type, part * lanes.width))
                    total = lanes.mul(lanes.load(start_at, here), scale)
                    for table, value in zip(tables, values, strict=True):
                        difference = lanes.sub(lanes.load(table, here), value)
                        total = lanes.add(total, lanes.mul(difference, difference))
                    if final:
                        total = _power_of_two(lanes, lanes.sub(lanes.constant(0.0), total))
                        if factor_at is not None:
                            product = lanes.mul(lanes.load(factor_at, here), total)
                            total = lanes.larger(lanes.sub(lanes.constant(1.0), product), lanes.constant(0.0))
                    lanes.store(total, out_at, here)
                return carried

            lanes.loop(length, [], body)
            return context.get_dummy_value()

        return signature, build

    return row_pass  # type: ignore[no-any-return]


_add_statistics, _gaussian = _row_pass(final=False), _row_pass(final=True)


def _power_of_two(lanes: Any, x: Any) -> Any:
    """Return 2^x for x ≤ 0, lane by lane, 0 below 2^−100."""
    builder, constant = lanes.builder, lanes.constant
    bits, mantissa, polynomial = (32, 23, POWER_32) if lanes.bytes == 4 else (64, 52, POWER_64)
    whole = ir.VectorType(ir.IntType(bits), lanes.width)
    inside = lanes.larger(x, constant(LEAST))
    k = builder.fptosi(lanes.sub(inside, constant(0.5)), lanes.indices)
    r = lanes.sub(inside, builder.sitofp(k, lanes.vector))
    p = constant(polynomial[0])
    for coefficient in polynomial[1:]:
        p = lanes.add(lanes.mul(p, r), constant(coefficient))
    k = k if bits == 32 else builder.sext(k, whole)
    exponent = builder.shl(k, ir.Constant(whole, [mantissa] * lanes.width))
    value = builder.bitcast(builder.add(builder.bitcast(p, whole), exponent), lanes.vector)
    return builder.select(builder.fcmp_ordered(">", x, constant(LEAST)), value, constant(0.0))


@inlined
def gaussian_row(
    out: Any, out_at: int, squared: Any, squared_at: int, scale: Any, statistics: Any, own: Any, own_at: int,
    own_stride: int, factor: Any, factor_at: int,
) -> None:  # fmt: skip
    """out[j] ← 2^−(scale·squared[j] + ‖statistics[:, j] − own‖²), or 1 − factor[j]·that with a factor, not below 0.

    `statistics` is (S padded, padded columns); `…_at` is where a row begins in the memory of an array, and the numbers
    of `own` are `own_stride` apart. All are of one floating type. Places instead of views of rows: a view would count
    references to its array, which threads share.
    """
    width, last, one = statistics.shape[1], statistics.shape[0] - UNROLLED, out.dtype.type(1.0)
    if last == 0:
        _gaussian(
            out, out_at, squared, squared_at, scale, statistics, 0, own, own_at, own_stride,
            factor, factor_at, width,
        )  # fmt: skip
    else:
        _add_statistics(
            out, out_at, squared, squared_at, scale, statistics, 0, own, own_at, own_stride, None, 0, width
        )
        for s in range(UNROLLED, last, UNROLLED):
            at, mine = s * width, own_at + s * own_stride
            _add_statistics(
                out, out_at, out, out_at, one, statistics, at, own, mine, own_stride, None, 0, width
            )
        at, mine = last * width, own_at + last * own_stride
        _gaussian(
            out, out_at, out, out_at, one, statistics, at, own, mine, own_stride, factor, factor_at, width
        )


# --- SMO on rows of 1 − K ---------------------------------------------------------------------------------------


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
    """Work arrays of one thread: `work` of the iterations in float32, f in float64, and the second side's factor.

    `count` (1,) rows of 1 − K are made. One after the other in memory they are written twice as fast as in the order of
    the rows.

    `statistics_1` (S1 padded, padded n) are those of the rows, `statistics_2` (S2 padded, padded L2) of the levels,
    times √(γ/ln 2); `factor_2` (L2, padded n) is B expanded to the rows, and `line_2` one row of B.
    """

    work: PairWork
    count: Any
    statistics_1: Any
    statistics_2: Any
    factor_2: Any
    made_2: Any
    line_2: Any
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


@inlined
def _make_row(source: Any, i: int) -> None:
    """Write row i of 1 − K, and before it the row of the second side's factor that it needs."""
    rows, memory, scale = source
    work, own_1, own_2, line = memory.work, memory.statistics_1, memory.statistics_2, memory.line_2
    level, levels, width = np.int64(rows.level_2[i]), own_2.shape[1], own_1.shape[1]
    if not memory.made_2[level]:
        gaussian_row(line, 0, rows.squared_2, level * levels, scale, own_2, own_2, level, levels, None, 0)
        for j in range(rows.level_2.size):
            memory.factor_2[level, j] = line[rows.level_2[j]]
        memory.made_2[level] = True
    place, squared_at = memory.count[0], np.int64(rows.features[i]) * width
    gaussian_row(
        work.table, place * width, rows.distances, squared_at, scale, own_1, own_1, i, width,
        memory.factor_2, level * width,
    )  # fmt: skip
    work.place[i] = place
    memory.count[0] = place + 1


_descend = descend_on(_make_row)


@compiled
def _residual(f: Any, y: Any, beta: Any, work: PairWork) -> None:
    """f ← y + Dβ, which is y − Kβ, four rows of D at a time: their sum in float32, as D is, the rest in float64.

    Rows where β = 0 need not be made.
    """
    n, width, none, count = y.size, work.f.size, np.float32(0.0), 0
    for i in range(n):
        f[i] = y[i]
    one = two = three = four = work.table[:n]
    a = b = c = d = none
    for j in range(n):
        if beta[j] != 0.0:  # the last four
            start = work.place[j] * width
            one, two, three, four = two, three, four, work.table[start : start + n]
            a, b, c, d = b, c, d, np.float32(beta[j])
            count += 1
        if count == 4 or (j == n - 1 and count > 0):
            for i in range(n):
                f[i] += a * one[i] + b * two[i] + c * three[i] + d * four[i]
            a = b = c = d = none
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
    memory.work.place[:] = -1
    memory.count[0] = 0
    memory.made_2[:] = False


@compiled
def _solve_one(
    rows: Rows, memory: Memory, y: Any, beta: Any, epsilon: float, gamma: float, tol: float, max_iter: int
) -> tuple[int, float, float]:
    """Solve a centred target from β = 0; return the iterations, U − L in float64 and the intercept."""
    aim = AIM * tol
    f, up, down, cap, work = memory.exact_f, memory.exact_up, memory.exact_down, memory.cap, memory.work
    source, goal = (rows, memory, np.float32(gamma / LN2)), max(0.95 * aim, FLOAT32_ROUNDING * largest(y))
    for i in range(y.size):
        f[i] = y[i]
    top, bottom, intercept = offsets(f, up, down, beta, cap, epsilon)
    done = 0
    for _ in range(ROUNDS):
        if top - bottom <= SLACK * aim or done >= max_iter:
            break
        for i in range(y.size):
            work.f[i], work.up[i], work.down[i] = f[i], up[i], down[i]
        limit = min(max_iter - done, 20 * y.size + 1000)
        done += _descend(work, source, beta, cap, epsilon, goal, limit)
        _residual(f, y, beta, work)
        top, bottom, intercept = offsets(f, up, down, beta, cap, epsilon)
    return done, top - bottom, intercept


@compiled_and_cached
def solve_chunk(
    Y: Any, caps: Any, epsilon: float, gammas: Any, statistics_1: Any, statistics_2: Any, rows: Rows, tol: float,
    max_iter: int, memory: Memory, solved: Solved, stamp: int = STAMP,
) -> None:  # fmt: skip
    """Solve targets Y (targets, n) float64, overwritten, from zeros in solved.dual_coef, (targets, n).

    |β| ≤ caps, (targets, n), or (1, n) where all have the same.
    """
    for t in range(Y.shape[0]):
        y = Y[t]
        memory.cap[:] = caps[t if caps.shape[0] > 1 else 0]
        centre = y.mean()
        y -= centre
        _load(rows, memory, statistics_1[t], statistics_2[t], gammas[t])
        made, gap, intercept = _solve_one(
            rows, memory, y, solved.dual_coef[t], epsilon, gammas[t], tol, max_iter
        )
        solved.n_iter[t], solved.gap[t], solved.intercept[t] = made, gap, intercept + centre


# --- predictions --------------------------------------------------------------------------------------------


class Support(NamedTuple):
    """Levels (2, n) uint32 of the training rows, sorted by that of the second side, and of others (2, m) uint32."""

    levels: Any
    others: Any


class Factor(NamedTuple):
    """One factor of a target's kernel between training levels and others, its rows made when first asked for.

    `trained` (levels, S padded) and `other` (S padded, padded others) are statistics times √(γ/ln 2). All arrays but
    `shared` and `made` are float32 or all float64.
    """

    trained: Any
    other: Any
    shared: Any
    squared: Any
    table: Any
    made: Any


@inlined
def _make_line(factor: Factor, scale: float, level: int) -> None:
    """Make a factor's row of a training level where it is not made yet."""
    width, kind = factor.table.shape[1], factor.table.dtype.type
    if not factor.made[level]:
        squared_at, own_at = np.int64(factor.shared[level]) * width, level * factor.trained.shape[1]
        gaussian_row(
            factor.table, level * width, factor.squared, squared_at, kind(scale), factor.other,
            factor.trained, own_at, 1, None, 0,
        )  # fmt: skip
        factor.made[level] = True


@compiled
def _load_factor(factor: Factor, trained: Any, other: Any, scale: float) -> None:
    """Take over a target's statistics, (S, levels) and (S, others)."""
    root = np.sqrt(scale)
    for s in range(trained.shape[0]):
        for level in range(trained.shape[1]):
            factor.trained[level, s] = root * trained[s, level]
        for level in range(other.shape[1]):
            factor.other[s, level] = root * other[s, level]
    factor.made[:] = False


@compiled
def _predict_one(
    support: Support, beta: Any, scale: float, one: Factor, two: Factor, column: Any, total: Any
) -> None:
    """total[r] ← Σ_j A[a_j, a_r] B[b_j, b_r] β_j in float64, one level of the second side after the other."""
    total[:] = 0.0
    j, n = 0, beta.size
    while j < n:
        group, empty = np.int64(support.levels[1, j]), True
        column[:] = 0.0
        while j < n and support.levels[1, j] == group:
            if beta[j] != 0.0:
                level, weight, empty = np.int64(support.levels[0, j]), beta[j], False
                _make_line(one, scale, level)
                for a in range(column.size):
                    column[a] += weight * one.table[level, a]
            j += 1
        if not empty:
            _make_line(two, scale, group)
            for r in range(total.size):
                total[r] += two.table[group, support.others[1, r]] * column[support.others[0, r]]


@compiled_and_cached
def predict_chunk(
    support: Support, one: Factor, two: Factor, dual_coef: Any, gammas: Any, trained_1: Any, trained_2: Any,
    other_1: Any, other_2: Any, predicted: Any, stamp: int = STAMP,
) -> None:  # fmt: skip
    """predicted (targets, m) ← K β; dual_coef is (targets, n), statistics are (targets, S, levels) float32."""
    column = np.empty(one.table.shape[1])
    for t in range(predicted.shape[0]):
        scale = gammas[t] / LN2
        _load_factor(one, trained_1[t], other_1[t], scale)
        _load_factor(two, trained_2[t], other_2[t], scale)
        _predict_one(support, dual_coef[t], scale, one, two, column, predicted[t])
