"""Weights of rows in the compiled loops, free of cost where there are none.

The loops are compiled for `row_weight = None` and, at the first fit with weights, once more for an array. Without
weights `weighs` is the constant False and `weight_at` the constant 1.0, so the compiler drops all that has to do with
weights, and the loops are those of plain counts.
"""

# ruff: noqa: ARG001 (numba picks a function by the types of its arguments)

from typing import Any

import numpy as np
from numba import types
from numba.extending import overload

LEAST_SHARE = 1e-12
"""Both sides of a split must hold more than this share of a node's weight; below it, rounding would decide."""


def weighs(row_weight: Any) -> bool:
    """Say whether there are weights; known when the loops are compiled."""
    return row_weight is not None


def weight_at(row_weight: Any, row: Any) -> float:
    """Return a row's weight, 1.0 without weights."""
    return 1.0 if row_weight is None else float(row_weight[row])


def weight_of(row_weight: Any, rows: Any) -> float:
    """Return the weight of some rows: how many they are without weights."""
    return float(len(rows) if row_weight is None else np.sum(row_weight[rows]))


@overload(weighs)  # type: ignore[untyped-decorator]
def _weighs(row_weight: Any) -> Any:
    known = not isinstance(row_weight, types.NoneType)

    def constant(row_weight: Any) -> bool:
        return known

    return constant


@overload(weight_at)  # type: ignore[untyped-decorator]
def _weight_at(row_weight: Any, row: Any) -> Any:
    def one(row_weight: Any, row: Any) -> float:
        return 1.0

    def looked_up(row_weight: Any, row: Any) -> Any:
        return row_weight[row]

    return one if isinstance(row_weight, types.NoneType) else looked_up


@overload(weight_of)  # type: ignore[untyped-decorator]
def _weight_of(row_weight: Any, rows: Any) -> Any:
    def counted(row_weight: Any, rows: Any) -> float:
        return float(rows.size)

    def summed(row_weight: Any, rows: Any) -> float:
        total = 0.0
        for row in rows:
            total += row_weight[row]
        return total

    return counted if isinstance(row_weight, types.NoneType) else summed
