"""Statistics of every target in every group of rows: mean, spread, order statistics, first row, number of rows.

The work is done on blocks of targets that fit the processor's cache, and on all groups of one size together, so
that groups of a few rows (compounds) cost as little a row as groups of many (cell types).
"""

import re
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rapids_pipeline.backend.errors import InputError

Floats = NDArray[np.floating[Any]]
Codes = NDArray[np.integer[Any]]

PLAIN_STATISTICS = ("mean", "std", "min", "max", "median", "first", "count")
BLOCK_SIZE = 2**18
"""Numbers in a block of targets: a megabyte of float32."""
MIN_WIDTH = 16
"""Targets in a block at least: a cache line of float32."""
SMALL_GROUP = 8
"""Groups of at most so many rows are sorted by comparing whole rows, the others target by target."""


def checked_statistics(names: str | Iterable[str]) -> tuple[str, ...]:
    """Return statistics' names, each known and named once.

    Raises
    ------
    InputError
        There is no such statistic (the message lists those there are), one is named twice, or none is named.
    """
    checked = (names,) if isinstance(names, str) else tuple(names)
    for name in checked:
        if name not in PLAIN_STATISTICS and _quantile_share(name) is None:
            raise InputError(
                f"no statistic {name!r}; choose among {', '.join(PLAIN_STATISTICS)}, quantile_q with q from 0 to 1 "
                "(such as quantile_0.4)"
            )
    if not checked or len(set(checked)) < len(checked):
        raise InputError(f"name every statistic once, and at least one: {', '.join(checked) or 'none named'}")
    return checked


def group_statistics(
    Y: Floats, codes: Codes, n_levels: int, statistics: Iterable[str]
) -> NDArray[np.float32]:
    """Return statistics of every target over the rows of every level.

    With y_1 … y_k a target's values in the k rows of a level, in the order given, and y_(1) ≤ … ≤ y_(k) sorted:

        mean = Σ y_i / k                   std = √(Σ (y_i − mean)² / k), 0 for k = 1
        min = y_(1)   max = y_(k)          first = y_1       count = k
        quantile_q = y_(j) + (p − j)(y_(j+1) − y_(j)),  p = 1 + q(k − 1), j = ⌊p⌋       median = quantile_0.5

    Parameters
    ----------
    Y : array of floats, (n, n_targets)
        Finite values (not checked).
    codes : array of int, (n,)
        Level of each row, below n_levels; rows with a negative one are left out.
    n_levels : int
    statistics : iterable of str
        Names from `PLAIN_STATISTICS`, or quantile_q with q from 0 to 1, such as quantile_0.4.

    Returns
    -------
    array of float32, (n_levels, n_statistics, n_targets)
        NaN where a level has no rows, but for a count of 0. Computed in float64, each target for itself.

    Raises
    ------
    InputError
        Unknown statistics; not one code a row, or one that is no level.

    Notes
    -----
    Quantiles interpolate linearly as in pandas and numpy; `std` is numpy's (pandas': ddof=0).
    """
    names, codes = checked_statistics(statistics), np.asarray(codes)
    if codes.shape != Y.shape[:1] or Y.ndim != 2 or (len(codes) and codes.max() >= n_levels):
        raise InputError(
            f"codes of shape {codes.shape}, Y of shape {Y.shape}: need one code below {n_levels} a row"
        )
    counts = np.bincount(codes[codes >= 0], minlength=n_levels)
    tables = np.empty((n_levels, len(names), Y.shape[1]), dtype=np.float32)
    tables[counts == 0] = np.asarray([0.0 if name == "count" else np.nan for name in names])[:, None]
    sizes, rows = _rows_by_size(codes, counts)
    width = max(MIN_WIDTH, BLOCK_SIZE // max(len(rows), 1))
    for begin in range(0, Y.shape[1], width):
        targets = slice(begin, begin + width)
        block, at = Y[rows, targets], 0
        for size, levels in sizes:
            members = block[at : at + size * len(levels)].reshape(len(levels), size, -1)
            at += size * len(levels)
            for position, values in enumerate(_statistics_of(members, names)):
                tables[levels, position, targets] = values
    return tables


def sums_of_others(targets: NDArray[np.float64], codes: Codes) -> NDArray[np.float64]:
    """Return for each row of (n, n_targets) the sum over the other rows of its group.

    It is the sum of the rows before it plus that of the rows after it, so its own values are in no intermediate
    result; subtracting them from the group's total would leave traces of them in the last bits.
    """
    order = np.argsort(codes, kind="stable")
    others = np.empty_like(targets)
    for members in np.split(order, np.flatnonzero(np.diff(codes[order])) + 1):
        block = targets[members]
        before = np.zeros_like(block)
        after = np.zeros_like(block)
        np.cumsum(block[:-1], axis=0, out=before[1:])
        after[:-1] = np.cumsum(block[:0:-1], axis=0)[::-1]
        others[members] = before + after
    return others


def _rows_by_size(codes: Codes, counts: Codes) -> tuple[list[tuple[int, Codes]], Codes]:
    """Return (size, levels of that size) for each size, and the rows in that order, level by level."""
    sizes: list[tuple[int, Codes]] = [
        (int(size), np.flatnonzero(counts == size)) for size in np.unique(counts[counts > 0])
    ]
    kept = np.flatnonzero(codes >= 0)
    return sizes, kept[np.lexsort((codes[kept], counts[codes[kept]]))]


def _statistics_of(members: Floats, names: tuple[str, ...]) -> list[Floats | float]:
    """Return each statistic over axis 1 of (n_groups, size, width); `members` may be sorted in place."""
    found: dict[str, Floats | float] = {"count": float(members.shape[1])}
    if "first" in names:
        found["first"] = members[:, 0].copy()
    if "mean" in names or "std" in names:
        found["mean"] = mean = _sum(members) / members.shape[1]
        if "std" in names:
            found["std"] = np.sqrt(_sum((members - mean[:, None]) ** 2) / members.shape[1])
    if "min" in names:
        found["min"] = members.min(axis=1)
    if "max" in names:
        found["max"] = members.max(axis=1)
    shares = {name: share for name in names if (share := _quantile_share(name)) is not None}
    if shares:
        _sort(members)
    return [_quantile(members, shares[name]) if name in shares else found[name] for name in names]


def _sum(members: Floats) -> NDArray[np.float64]:
    """Return the float64 sum over axis 1, added row by row: the same whatever the number of targets."""
    total = members[:, 0].astype(np.float64)
    for row in range(1, members.shape[1]):
        total += members[:, row]
    return total


def _sort(members: Floats) -> None:
    """Sort (n_groups, size, width) in place along axis 1; few rows by odd–even transposition."""
    size = members.shape[1]
    if size > SMALL_GROUP:
        members.sort(axis=1)
        return
    for turn in range(size):
        for row in range(turn % 2, size - 1, 2):
            lower = np.minimum(members[:, row], members[:, row + 1])
            np.maximum(members[:, row], members[:, row + 1], out=members[:, row + 1])
            members[:, row] = lower


def _quantile(ordered: Floats, share: float) -> Floats:
    """Return a quantile along the sorted axis 1, interpolated linearly in float64."""
    place = share * (ordered.shape[1] - 1)
    low = int(place)
    if place == low:
        return ordered[:, low]
    lower = ordered[:, low].astype(np.float64)
    return np.asarray(lower + (place - low) * (ordered[:, low + 1] - lower))


def _quantile_share(name: str) -> float | None:
    """Return q of "quantile_q", 0.5 of "median", None of any other name."""
    if name == "median":
        return 0.5
    written = re.fullmatch(r"quantile_(\d*\.?\d+)", name)
    return float(written[1]) if written and float(written[1]) <= 1 else None
