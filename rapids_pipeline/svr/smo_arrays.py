"""The work arrays of one thread of the SMO solver, padded and aligned as the vector passes want them."""

from math import ceil
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from rapids_pipeline.svr.smo_problem import FactoredKernel, Floats, Indices

ALIGNMENT = 64
PADDING = 64
"""Arrays over rows are padded to a multiple of this: 4 accumulators of 16 float32 (see `smo_vectors`)."""
BLOCKED = 1e30
"""Offset of a row that cannot move in a direction: no violation is ever found there."""


def aligned(shape: tuple[int, ...], dtype: DTypeLike, fill: float = 0.0) -> NDArray[Any]:
    """Return a filled array that starts on a cache line, as the vector passes like it."""
    count = int(np.prod(shape)) * np.dtype(dtype).itemsize
    memory = np.empty(count + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    array = memory[start : start + count].view(dtype).reshape(shape)
    array[...] = fill
    return array


def padded(n: int, to: int) -> int:
    """Return the least multiple of `to` that is not below n."""
    return ceil(n / to) * to


def _vectors(n: int, dtype: DTypeLike, half_diagonal: Floats | float) -> tuple[Any, ...]:
    """Return f, up, down and half the diagonal of K, padded by rows that never move."""
    length = padded(n, PADDING)
    half = aligned((length,), dtype, 0.5)
    half[:n] = half_diagonal
    return (
        aligned((length,), dtype),
        aligned((length,), dtype, BLOCKED),
        aligned((length,), dtype, -BLOCKED),
        half,
    )


def factored_work(kernels: Any, kernel: FactoredKernel, rows: Indices) -> tuple[Any, Any]:
    """Return the float32 and the float64 work arrays of one thread; they share the float64 tables."""
    n = rows.shape[1]
    length = padded(n, PADDING)
    sides: list[list[Any]] = [[], []]
    for groups, grouping in zip(rows, (kernel.first, kernel.second), strict=True):
        levels = grouping.squared_distances.shape[0]
        width = padded(levels, 8)
        squared, table = aligned((levels, width), np.float64), aligned((levels, width), np.float64)
        squared[:, :levels] = grouping.squared_distances
        np.fill_diagonal(squared, 0.0)
        statistics = aligned((grouping.statistics.shape[2], width), np.float64)
        filled = np.zeros(levels, bool)
        for work, dtype in zip(sides, (np.float32, np.float64), strict=True):
            expanded = aligned((levels, length), dtype)
            ready = np.zeros(levels, bool)
            line = aligned((width,), dtype)
            work.append(
                kernels.Side(groups.copy(), squared, statistics, table, filled, expanded, ready, line)
            )
    fast = kernels.Work(*_vectors(n, np.float32, 0.5), *sides[0])
    exact = kernels.Work(*_vectors(n, np.float64, 0.5), *sides[1])
    return fast, exact


def dense_tables(K: Floats) -> tuple[Floats, Floats]:
    """Return K padded, in float32 and float64, for all threads to read."""
    n = K.shape[0]
    fast, exact = (aligned((n, padded(n, PADDING)), dtype) for dtype in (np.float32, np.float64))
    fast[:, :n], exact[:, :n] = K, K
    return fast, exact


def dense_work(kernels: Any, fast: Floats, exact: Floats) -> tuple[Any, Any]:
    """Return work arrays where the first table is K itself, row by row, and the second is 1."""
    n, length = fast.shape
    groups, zeros = np.arange(n, dtype=np.uint32), np.zeros(n, dtype=np.uint32)
    none, small, true = np.zeros((1, 8)), np.zeros((0, 8)), np.ones(n, bool)
    works = []
    for table in (fast, exact):
        ones = aligned((1, length), table.dtype, 1.0)
        first = kernels.Side(groups, none, small, exact, true, table, true, ones[0])
        second = kernels.Side(
            zeros, none, small, np.ones((1, 8)), np.ones(1, bool), ones, np.ones(1, bool), ones[0]
        )
        half = 0.5 * np.diagonal(exact)
        works.append(kernels.Work(*_vectors(n, table.dtype, half), first, second))
    return works[0], works[1]
