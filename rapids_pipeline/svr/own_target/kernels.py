"""Compiled loops of SVRs on each target's own statistics: SMO on rows of K_t made when first asked for, predictions.

Where a training row's statistics come from the rows outside its fold, hardly two rows have the same level, so tables
of levels save nothing. The iterations then work on rows of K_t,

    K_t[i, j] = exp(−γ_t (D[i, j] + ‖S_t1(i) − S_t1(j)‖²)) · B_t[b_i, b_j]

with D what all targets share of the first side and B_t the factor of the second, whose levels are few. Rows of K are
float32, evaluated in float32 (error below 4e-7; libsvm's are float32, too); U − L and the intercept come from
f = y − Kβ in float64. Predictions for rows of other levels are summed in float64 from both factors,

    Σ_j K(x_r, x_j) β_j = Σ_b B[b, b_r] Σ_{j of level b} A[a_j, a_r] β_j

A row of a factor is written by LLVM vectors; with scale = γ/ln 2 and statistics times √scale, e^−γ(…) is a power of 2:

    out[j] = factor[j]·2^−(scale·squared[j] + ‖statistics[:, j] − own‖²)
"""

# ruff: noqa: ARG001 (numba gives an intrinsic arguments of which only the types matter here; `stamp` is for its cache)

import math
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from rapids_pipeline.svr.smo.kernels import AIM, FLOAT32_ROUNDING, STAMP, compiled, compiled_and_cached
from rapids_pipeline.svr.smo.pairs import Work, descend_on, offsets
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


@intrinsic  # type: ignore[untyped-decorator]
def _gaussian(
    typing: Any, out: Any, start: Any, scale: Any, statistics: Any, at: Any, own: Any, own_at: Any, factor: Any
) -> Any:  # fmt: skip
    """out[j] ← factor[j]·2^−(scale·start[j] + Σ_s (statistics[s, j] − own[own_at + s])²), in the type of `out`.

    Over `UNROLLED` statistics; `at` is where the first begins in the memory of `statistics`, `factor` may be None.
    2^x = 2^k·2^r with k = round(x). numba makes short vectors of the conversion to k, these are long.
    """
    where = types.int64
    signature = types.void(out, start, scale, statistics, where, own, where, factor)

    def build(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        lanes = Lanes(context, builder, out.dtype)
        length = context.make_array(sig.args[0])(context, builder, args[0]).nitems
        out_at, start_at = (lanes.pointer(sig.args[k], args[k]) for k in (0, 1))
        factor_at = None if factor == types.none else lanes.pointer(sig.args[7], args[7])
        owns, scale = lanes.pointer(sig.args[5], args[5], args[6]), lanes.splat(args[2])
        tables, values = [], []
        for s in range(UNROLLED):
            place = ir.Constant(length.type, s)
            offset = builder.add(args[4], builder.mul(length, place))
            tables.append(lanes.pointer(sig.args[3], args[3], offset))
            values.append(lanes.splat(builder.load(builder.gep(owns, [place]))))

        def body(position: Any, carried: list[Any]) -> list[Any]:
            for part in range(ACCUMULATORS):
                here = builder.add(position, ir.Constant(position.type, part * lanes.width))
                total = lanes.mul(lanes.load(start_at, here), scale)
                for table, value in zip(tables, values, strict=True):
                    difference = lanes.sub(lanes.load(table, here), value)
                    total = lanes.add(total, lanes.mul(difference, difference))
                power = _power_of_two(lanes, lanes.sub(lanes.constant(0.0), total))
                power = power if factor_at is None else lanes.mul(lanes.load(factor_at, here), power)
                lanes.store(power, out_at, here)
            return carried

        lanes.loop(length, [], body)
        return context.get_dummy_value()

    return signature, build


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


@compiled
def gaussian_row(out: Any, squared: Any, statistics: Any, own: Any, scale: Any, factor: Any) -> None:
    """out[j] ← factor[j]·2^−(scale·squared[j] + ‖statistics[:, j] − own‖²); `factor` may be None.

    `statistics` is (S padded, padded columns), `own` (S padded,), all of one floating type.
    """
    width, last = out.size, statistics.shape[0] - UNROLLED
    if last == 0:
        _gaussian(out, squared, scale, statistics, 0, own, 0, factor)
        return
    for j in range(width):
        out[j] = scale * squared[j]
    for s in range(last):
        values, value = statistics[s], own[s]
        for j in range(width):
            difference = values[j] - value
            out[j] += difference * difference
    _gaussian(out, out, out.dtype.type(1.0), statistics, last * width, own, last, factor)


# --- SMO on rows of K ---------------------------------------------------------------------------------------


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

    `count` (1,) rows of K are made. One after the other in memory they are written twice as fast as in the order of
    the rows.

    `statistics_1` (S1 padded, padded n) are those of the rows, `statistics_2` (S2 padded, padded L2) of the levels,
    times √(γ/ln 2); `factor_2` (L2, padded n) is B expanded to the rows, `line_2` one row of B, and `own_1` and
    `own_2` hold the statistics of one row and of one level.
    """

    work: Work
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
def _make_row(source: Any, i: int) -> None:
    """Write row i of K, and before it the row of the second side's factor that it needs."""
    rows, memory, scale = source
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
    gaussian_row(memory.work.K[place], squared, memory.statistics_1, own, scale, memory.factor_2[level])
    memory.work.place[i] = place
    memory.count[0] = place + 1


_descend = descend_on(_make_row)


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
    memory.work.place[:] = -1
    memory.count[0] = 0
    memory.made_2[:] = False


@compiled
def _solve_one(
    rows: Rows, memory: Memory, y: Any, beta: Any, epsilon: float, gamma: float, tol: float, max_iter: int
) -> tuple[int, float, float]:
    """Solve a centred target from β = 0; return the iterations, U − L in float64 and the intercept."""
    aim = AIM * tol
    goal = max(0.95 * aim, FLOAT32_ROUNDING * np.abs(y).max())
    f, up, down, cap, work = memory.exact_f, memory.exact_up, memory.exact_down, memory.cap, memory.work
    source = (rows, memory, np.float32(gamma / LN2))
    f[:] = y
    top, bottom, intercept = offsets(f, up, down, beta, cap, epsilon)
    done = 0
    for _ in range(ROUNDS):
        if top - bottom <= SLACK * aim or done >= max_iter:
            break
        for i in range(y.size):
            work.f[i], work.up[i], work.down[i] = f[i], up[i], down[i]
        limit = min(max_iter - done, 20 * y.size + 1000)
        done += _descend(work, source, beta, cap, epsilon, goal, limit)
        _residual(f, y, beta, work.K, work.place)
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


@compiled
def _line_of(factor: Factor, scale: float, level: int) -> Any:
    """Return a factor's row of a training level, made now where it is not made yet."""
    if not factor.made[level]:
        squared = factor.squared[factor.shared[level]]
        kind = factor.table.dtype.type
        gaussian_row(factor.table[level], squared, factor.other, factor.trained[level], kind(scale), None)
        factor.made[level] = True
    return factor.table[level]


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
        group, empty = support.levels[1, j], True
        column[:] = 0.0
        while j < n and support.levels[1, j] == group:
            if beta[j] != 0.0:
                source, weight, empty = _line_of(one, scale, support.levels[0, j]), beta[j], False
                for a in range(column.size):
                    column[a] += weight * source[a]
            j += 1
        if not empty:
            factor = _line_of(two, scale, group)
            for r in range(total.size):
                total[r] += factor[support.others[1, r]] * column[support.others[0, r]]


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
