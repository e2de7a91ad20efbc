"""The kernel of SMO as a product of two factors: tables made when first asked for, and residuals from them."""

from typing import Any, NamedTuple

import numpy as np

from rapids_pipeline.svr.smo_steps import compiled
from rapids_pipeline.svr.smo_vectors import power_of_two


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


@compiled
def fill(side: Side, gamma: float, level: int) -> None:
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
def expand(side: Side, gamma: float, level: int) -> None:
    """expanded[level, i] ← table[level, groups[i]] for every row i."""
    if not side.filled[level]:
        fill(side, gamma, level)
    source, line, target, groups = side.table[level], side.line, side.expanded[level], side.groups
    for b in range(line.size):
        line[b] = source[b]
    for i in range(groups.size):
        target[i] = line[groups[i]]
    side.ready[level] = True


@compiled
def residual(work: Work, gamma: float, y: Any, beta: Any, tests: Any, predicted: Any, column: Any) -> None:
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
                    fill(one, gamma, level)
                empty = False
                source = one.table[level]
                for a in range(column.size):
                    column[a] += weight * source[a]
            j += 1
        if empty:
            continue
        if not two.filled[group]:
            fill(two, gamma, group)
        factor = two.table[group]
        for i in range(n):
            f[i] -= factor[two.groups[i]] * column[one.groups[i]]
        for i in range(predicted.size):
            predicted[i] += factor[tests[1, i]] * column[tests[0, i]]
