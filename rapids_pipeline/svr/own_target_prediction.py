"""Compiled loops of `own_target`: predictions for rows of other levels, from the factors of each target's kernel.

    Σ_j K(x_r, x_j) β_j = Σ_b B[b, b_r] Σ_{j of level b} A[a_j, a_r] β_j

summed in float64; A and B are evaluated in float32 or float64.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from rapids_pipeline.svr.own_target_vectors import LN2, gaussian_row, vector_stamp
from rapids_pipeline.svr.smo_steps import compiled, compiled_and_cached


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
def _row_of(factor: Factor, scale: float, level: int) -> Any:
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
                source, weight, empty = _row_of(one, scale, support.levels[0, j]), beta[j], False
                for a in range(column.size):
                    column[a] += weight * source[a]
            j += 1
        if not empty:
            factor = _row_of(two, scale, group)
            for r in range(total.size):
                total[r] += factor[support.others[1, r]] * column[support.others[0, r]]


def _predict_chunk_from(stamp: int) -> Callable[..., Any]:
    """Return `predict_chunk`, which captures `stamp`, as `smo_kernels.solve_chunk` does."""

    def predict_chunk(
        support: Support, one: Factor, two: Factor, dual_coef: Any, gammas: Any,
        trained_1: Any, trained_2: Any, other_1: Any, other_2: Any, predicted: Any,
    ) -> None:  # fmt: skip
        """predicted (targets, m) ← K β; dual_coef is (targets, n), statistics are (targets, S, levels) float32."""
        column = np.empty(one.table.shape[1])
        for t in range(predicted.shape[0]):
            scale = gammas[t] / LN2
            _load_factor(one, trained_1[t], other_1[t], scale)
            _load_factor(two, trained_2[t], other_2[t], scale)
            _predict_one(support, dual_coef[t], scale, one, two, column, predicted[t])
        _ = stamp

    return compiled_and_cached(predict_chunk)


predict_chunk = _predict_chunk_from(vector_stamp())
