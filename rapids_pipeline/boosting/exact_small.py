"""The search for the best split of a node of few rows: a float64 table of the scores of all sets of its rows.

Notation of `exact_search.py`.
"""

from typing import Any

import numpy as np

from rapids_pipeline.boosting.compilation import compiled, compiled_reductions
from rapids_pipeline.boosting.exact_search import CODE, MASK_ROWS, ROW, TIE, Node, Rules, Work
from rapids_pipeline.boosting.row_weights import LEAST_SHARE, weighs, weight_at

SETS_A_COLUMN = 4


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
    table[0] = products[m, m]
    for rows in range(1, 1 << m):
        i = 0
        while not (rows >> i) & 1:
            i += 1
        cross = products[m, i]
        for j in range(i + 1, m):
            if (rows >> j) & 1:
                cross += products[i, j]
        table[rows] = table[rows & (rows - 1)] + 2.0 * cross + products[i, i]
    if weighs(work.row_weight):
        largest: float = _table_of_weights(work, rules, node)
    else:
        largest = _table_of_counts(work, rules, node)
    return largest


@compiled
def _table_of_counts(work: Work, rules: Rules, node: Node) -> float:
    """Multiply every |H|² of the table by N / ((n_L + λ)(n_R + λ)); return the largest score."""
    m, lam, largest = node.high - node.low, rules.reg_lambda, 0.0
    table, N = work.table, m + 2.0 * lam
    for rows in range(1 << m):
        count = 0
        for i in range(m):
            count += (rows >> i) & 1
        if count < rules.min_leaf or m - count < rules.min_leaf:
            table[rows] = 0.0
        else:
            table[rows] *= N / ((count + lam) * (m - count + lam))
            largest = max(largest, table[rows])
    return largest


@compiled
def _table_of_weights(work: Work, rules: Rules, node: Node) -> float:
    """Multiply every |H|² of the table by N / ((W_L + λ)(W_R + λ)); return the largest score."""
    m, lam, largest = node.high - node.low, rules.reg_lambda, 0.0
    table, N, least = work.table, node.weight + 2.0 * lam, LEAST_SHARE * node.weight
    work.set_weight[0] = 0.0
    for rows in range(1 << m):
        count = 0
        for i in range(m - 1, -1, -1):
            if (rows >> i) & 1:
                own = weight_at(work.row_weight, work.rows[node.low + i])
                work.set_weight[rows] = work.set_weight[rows & (rows - 1)] + own
                count += 1
        left, right = work.set_weight[rows], node.weight - work.set_weight[rows]
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
