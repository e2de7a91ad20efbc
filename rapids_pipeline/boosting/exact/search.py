"""The search for the best split of one node: every column scanned in float32, what comes close judged in float64.

A node of few rows has few sets of rows: a float64 table of the scores of all of them takes the place of the scans.

Notation of `engine.py`: a node has m rows of weight W, T is their weighted sum of residuals, N = W + 2λ; without
weights W = m.
"""

from typing import Any, NamedTuple

import numpy as np

from rapids_pipeline.backend.arrays import Float32, Float64, aligned
from rapids_pipeline.boosting.exact.kernels import (
    LANES,
    ROW_BITS,
    compiled,
    compiled_reductions,
    scan_1,
    scan_2,
    scan_3,
    scan_4,
    weighs,
    weight_at,
)

ROW = np.uint32((1 << ROW_BITS) - 1)
CODE = np.uint32(ROW_BITS)
MASK_ROWS, SETS_A_COLUMN = 10, 4
"""Nodes of at most so many rows are searched by a table over all sets of rows, if they are few beside the columns."""
GROUP = 8
"""Columns that are scanned together where the outputs take several passes."""
SLACK = 2 * LANES
"""Entries that arrays over rows have more, since a scan works in whole blocks."""
TIE = 1.0 + 1e-12
"""A later split must be better by this factor, so that equal ones go to the first column and lowest threshold."""
WIDEST_ROUNDING = 1e-5
ROUNDING_A_ROW = 3e-8
LEAST_SHARE = 1e-12
"""Both sides of a split must hold more than this share of a node's weight; below it, rounding would decide."""
ROUNDING_OF_WEIGHTS = 10.0
"""By how much more splits that come close are judged with weights: rows of more weight round off more."""


class Work(NamedTuple):
    """What a tree is grown from and in."""

    residual: Any  # float32 (n, outputs, padded)
    h: Any  # float32, flat: (passes, n, 16 · vectors)
    start: Any  # float32, flat: (passes, 16 · vectors)
    factor: Any  # float32 (n + SLACK)
    zeros: Any  # float32 (n + SLACK)
    sums: Any  # float32, flat: (GROUP, n + SLACK)
    best: Any  # float32 (p)
    total: Any  # float64 (outputs, padded)
    spread: Any  # float32 (outputs, padded)
    held: Any  # float64 (MASK_ROWS + 1, outputs, padded)
    table: Any  # float64 (2^MASK_ROWS)
    set_weight: Any  # float64 (2^MASK_ROWS)
    set_size: Any  # int64 (2^MASK_ROWS)
    bit: Any  # uint64 (n)
    side: Any  # uint8 (n)
    rows: Any  # int32 (n)
    spare: Any  # int32 (n)
    orders: Any  # two of uint32, flat: (p, stride)
    active: Any  # int32 (max_depth + 1, p)
    row_weight: Any  # float64 (n), or None


class Rules(NamedTuple):
    """What a tree is grown by: `stride` is that of the orders, a pass over the outputs takes `vectors` registers."""

    reg_lambda: float
    learning_rate: float
    max_depth: int
    min_leaf: int
    least_gain: float
    vectors: int
    passes: int
    stride: int


class Node(NamedTuple):
    """A node: its rows are rows[low : high], and every column's order has its rows at the same places."""

    low: int
    high: int
    weight: float


def allocated(residual: Float32, row_weight: Float64 | None, p: int, rules: Rules) -> Work:
    """Return the work arrays of a fit on `p` columns, those of vectors aligned to 64 bytes."""
    n, width = residual.shape
    return Work(
        residual=residual,
        h=aligned((n * width,), np.float32),
        start=aligned((width,), np.float32),
        factor=np.zeros(n + SLACK, np.float32),
        zeros=np.zeros(n + SLACK, np.float32),
        sums=np.zeros(GROUP * (n + SLACK), np.float32),
        best=np.zeros(p, np.float32),
        total=np.zeros(width),
        spread=np.zeros(width, np.float32),
        held=np.zeros((MASK_ROWS + 1, width)),
        table=np.zeros(1 << MASK_ROWS),
        set_weight=np.zeros(1 << MASK_ROWS),
        set_size=np.zeros(1 << MASK_ROWS, np.int64),
        bit=np.zeros(n, np.uint64),
        side=np.zeros(n, np.uint8),
        rows=np.zeros(n, np.int32),
        spare=np.zeros(n, np.int32),
        orders=(np.zeros(p * rules.stride, np.uint32), np.zeros(p * rules.stride, np.uint32)),
        active=np.zeros((rules.max_depth + 1, p), np.int32),
        row_weight=row_weight,
    )


@compiled
def add_rows(residual: Any, row_weight: Any, rows: Any, total: Any) -> None:
    """Write the weighted sum of some rows, float64."""
    total[:] = 0.0
    for row in rows:
        here, weight = residual[row], weight_at(row_weight, row)
        for k in range(total.size):
            total[k] += weight * here[k]


@compiled
def prepare(work: Work, rules: Rules, node: Node) -> float:
    """Write T, h_i = w_i (r_i − T/N), H_0 = −λT/N and, of plain counts, the factors of scores; return |T|²."""
    lam = rules.reg_lambda
    N, width = node.weight + 2.0 * lam, rules.vectors * LANES
    n = work.residual.shape[0]
    add_rows(work.residual, work.row_weight, work.rows[node.low : node.high], work.total)
    square, mean = 0.0, work.spread
    for k in range(mean.size):
        square += work.total[k] * work.total[k]
        mean[k] = np.float32(work.total[k] / N)
        work.start[k] = np.float32(-lam * work.total[k] / N)
    for part in range(rules.passes):
        first = part * width
        middle = mean[first : first + width]
        for row in work.rows[node.low : node.high]:
            place = (part * n + row) * width
            here, residual = work.h[place : place + width], work.residual[row, first : first + width]
            weight = np.float32(weight_at(work.row_weight, row))
            for k in range(middle.size):
                here[k] = weight * (residual[k] - middle[k])
    if not weighs(work.row_weight):
        _factors_of_counts(work, rules, node)
    return square


@compiled
def _factors_of_counts(work: Work, rules: Rules, node: Node) -> None:
    """Write N / ((n_L + λ)(n_R + λ)) after every step, the same for all columns; 0 where a leaf is too small."""
    m, lam = node.high - node.low, rules.reg_lambda
    N = m + 2.0 * lam
    for j in range(m + SLACK):
        left, right = j + 1, m - j - 1
        allowed = left >= rules.min_leaf and right >= rules.min_leaf
        work.factor[j] = np.float32(N / ((left + lam) * (right + lam))) if allowed else np.float32(0.0)


@compiled
def _factors_of_weights(work: Work, rules: Rules, order: Any, at: int, node: Node) -> None:
    """Write N / ((W_L + λ)(W_R + λ)) after every step of the column whose order is at `at`."""
    m, lam, left = node.high - node.low, rules.reg_lambda, 0.0
    N, least = node.weight + 2.0 * lam, LEAST_SHARE * node.weight
    work.factor[max(0, m - rules.min_leaf) : m + SLACK] = 0.0
    for j in range(m - rules.min_leaf):
        left += weight_at(work.row_weight, order[at + j] & ROW)
        right = node.weight - left
        allowed = j + 1 >= rules.min_leaf and left > least and right > least
        work.factor[j] = np.float32(N / ((left + lam) * (right + lam))) if allowed else np.float32(0.0)


def _scan_columns_of(scan: Any) -> Any:
    @compiled
    def scan_columns(
        work: Work, rules: Rules, order: Any, node: Node, columns: Any, part: int, first: int
    ) -> None:
        steps, width = node.high - node.low - rules.min_leaf, rules.vectors * LANES
        h_at, start_at = part * work.residual.shape[0] * width, part * width
        slots = 0 if rules.passes == 1 else work.factor.size
        before, before_slots = (work.zeros, 0) if part == 0 else (work.sums, slots)
        h, start, factor, sums = work.h, work.start, work.factor, work.sums
        for i in range(columns.size):
            at, b, s = columns[i] * rules.stride + node.low, i * before_slots, i * slots
            if weighs(work.row_weight) and part == rules.passes - 1:  # only then are scores of all outputs
                _factors_of_weights(work, rules, order, at, node)
            best = scan(h, h_at, start, start_at, order, at, steps, factor, before, b, sums, s)
            work.best[first + i] = best

    return scan_columns


_scan_columns_1, _scan_columns_2, _scan_columns_3, _scan_columns_4 = (
    _scan_columns_of(scan) for scan in (scan_1, scan_2, scan_3, scan_4)
)


@compiled
def scan_group(work: Work, rules: Rules, order: Any, node: Node, columns: Any, first: int) -> None:
    """Scan a few columns for all outputs, pass by pass: `best` from `first` on, and `sums`, hold what came out."""
    for part in range(rules.passes):
        if rules.vectors == 1:
            _scan_columns_1(work, rules, order, node, columns, part, first)
        elif rules.vectors == 2:
            _scan_columns_2(work, rules, order, node, columns, part, first)
        elif rules.vectors == 3:
            _scan_columns_3(work, rules, order, node, columns, part, first)
        else:
            _scan_columns_4(work, rules, order, node, columns, part, first)


@compiled
def scan_all(work: Work, rules: Rules, order: Any, node: Node, columns: Any) -> Any:
    """Scan the columns; `best` holds the best score of each, and the largest of all is returned."""
    if columns.size == 0:
        return np.float32(0.0)
    size = columns.size if rules.passes == 1 else GROUP
    for first in range(0, columns.size, size):
        scan_group(work, rules, order, node, columns[first : first + size], first)
    return work.best[: columns.size].max()


@compiled_reductions
def score_of(total: Any, held: Any, share: float) -> float:
    """Return |G_L − share · T|² (float64)."""
    square = 0.0
    for k in range(total.size):
        h = held[k] - share * total[k]
        square += h * h
    return square


@compiled
def judge(
    work: Work, rules: Rules, order: Any, node: Node, columns: Any, i: int, floor: float, best: float
) -> tuple[float, int]:
    """Judge in float64 the splits of column i whose float32 score reaches `floor`; (score, rows left), 0 for none."""
    scan_group(work, rules, order, node, columns[i : i + 1], i)
    m, lam, found, weight = node.high - node.low, rules.reg_lambda, 0, 0.0
    N, at, G = node.weight + 2.0 * lam, columns[i] * rules.stride + node.low, work.held[0]
    G[:] = 0.0
    for j in range(m - rules.min_leaf):
        row = order[at + j] & ROW
        here, own = work.residual[row], weight_at(work.row_weight, row)
        weight += own
        for k in range(G.size):
            G[k] += own * here[k]
        if work.sums[j] * work.factor[j] < floor or order[at + j] >> CODE == order[at + j + 1] >> CODE:
            continue
        left, right = weight + lam, node.weight - weight + lam
        if work.factor[j] > 0.0:
            score = score_of(work.total, G, left / N) * N / (left * right)
            if score > best * TIE:
                best, found = score, j + 1
    return best, found


@compiled
def best_split(work: Work, rules: Rules, order: Any, node: Node, columns: Any) -> tuple[int, int, float]:
    """Return (column, rows left, score) of the best split of a node; no rows left where there is none."""
    top = scan_all(work, rules, order, node, columns)
    m, feature, left, best = node.high - node.low, -1, 0, 0.0
    if not top > 0.0:
        return feature, left, best
    wider = ROUNDING_OF_WEIGHTS if weighs(work.row_weight) else 1.0
    floor = top * (1.0 - wider * (WIDEST_ROUNDING + ROUNDING_A_ROW * m))
    for i in range(columns.size):
        if work.best[i] >= floor:
            score, here = judge(work, rules, order, node, columns, i, floor, best)
            if here > 0:
                feature, left, best = columns[i], here, score
    return feature, left, best


# --- nodes of few rows ------------------------------------------------------------------------------------------------


@compiled_reductions
def product(a: Any, b: Any) -> float:
    """Return a · b (float64)."""
    found = 0.0
    for k in range(a.size):
        found += a[k] * b[k]
    return found


@compiled
def is_small(rows: int, columns: int) -> bool:
    """Say whether a table over all sets of rows costs less than the scans."""
    return rows <= MASK_ROWS and (1 << rows) <= SETS_A_COLUMN * columns


@compiled
def tabulate(work: Work, rules: Rules, node: Node) -> float:
    """Write the score of every set of a small node's rows as the left side; return the largest.

    |H|² of a set is that of the set without its first row i, plus 2 h_i · (H_0 + Σ h of the others) + |h_i|².
    """
    m, lam = node.high - node.low, rules.reg_lambda
    N, outputs = node.weight + 2.0 * lam, work.total.size
    products = np.zeros((MASK_ROWS + 1, MASK_ROWS + 1))
    for i in range(m + 1):
        row = work.rows[node.low + min(i, m - 1)]
        weight = weight_at(work.row_weight, row)
        for k in range(outputs):
            if i < m:
                work.held[i, k] = weight * (work.residual[row, k] - work.total[k] / N)
            else:
                work.held[i, k] = -lam * work.total[k] / N
        for j in range(i + 1):
            products[i, j] = products[j, i] = product(work.held[i], work.held[j])
    table = work.table
    table[0], work.set_weight[0], work.set_size[0] = products[m, m], 0.0, 0
    for rows in range(1, 1 << m):
        i, rest = 0, rows & (rows - 1)
        while not (rows >> i) & 1:
            i += 1
        cross = products[m, i]
        for j in range(i + 1, m):
            if (rows >> j) & 1:
                cross += products[i, j]
        table[rows] = table[rest] + 2.0 * cross + products[i, i]
        work.set_weight[rows] = work.set_weight[rest] + weight_at(work.row_weight, work.rows[node.low + i])
        work.set_size[rows] = work.set_size[rest] + 1
    return _scored(work, rules, node)  # type: ignore[no-any-return]


@compiled
def _scored(work: Work, rules: Rules, node: Node) -> float:
    """Multiply every |H|² of the table by N / ((W_L + λ)(W_R + λ)); return the largest score."""
    m, lam, table, largest = node.high - node.low, rules.reg_lambda, work.table, 0.0
    N, least = node.weight + 2.0 * lam, LEAST_SHARE * node.weight
    for rows in range(1, 1 << m):
        count, left = work.set_size[rows], work.set_weight[rows]
        right = node.weight - left
        if min(count, m - count) < rules.min_leaf or not (left > least and right > least):
            table[rows] = 0.0
        else:
            table[rows] *= N / ((left + lam) * (right + lam))
            largest = max(largest, table[rows])
    return largest


@compiled
def best_small_split(
    work: Work, rules: Rules, order: Any, node: Node, columns: Any
) -> tuple[int, int, float]:
    """`best_split` of a node with few rows: one look into the table a step."""
    m, feature, found, best = node.high - node.low, -1, 0, 0.0
    largest = tabulate(work, rules, node)
    for i in range(m):
        work.bit[work.rows[node.low + i]] = 1 << i
    for column in columns:
        at, rows = column * rules.stride + node.low, np.uint64(0)
        here = order[at : at + m]
        entry = here[0]
        for j in range(m - rules.min_leaf):
            following = here[j + 1]
            rows |= work.bit[entry & ROW]
            if entry >> CODE != following >> CODE and work.table[rows] > best * TIE:
                feature, found, best = column, j + 1, work.table[rows]
            entry = following
        if best * TIE >= largest:
            break
    return feature, found, best
