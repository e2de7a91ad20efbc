"""Statistics of every target in every group of rows: mean, spread, order statistics, first row, number of rows.

Rows of groups and targets are checked and numbered (`GroupedTargets`), statistics are taken of every group
(`group_statistics`), and groups without rows are filled in (`group_tables`). The work is done on blocks of targets that
fit the processor's cache, and on all groups of one size together, so that groups of a few rows (compounds) cost as
little a row as groups of many (cell types).
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from features.rows import numbered
from rapids_pipeline.backend.arrays import Float32, Float64, Floats, Indices, Labels, Mask
from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.backend.state import State, StateReader

if TYPE_CHECKING:
    import pandas as pd

PLAIN_STATISTICS = ("mean", "std", "min", "max", "median", "first", "count")
BLOCK_SIZE = 2**18
"""Numbers in a block of targets: a megabyte of float32."""
MIN_WIDTH = 16
"""Targets in a block at least: a cache line of float32."""
SMALL_GROUP = 8
"""Groups of at most so many rows are sorted by comparing whole rows, the others target by target."""


@dataclass(frozen=True, eq=False)
class GroupedTargets:
    """Targets of n rows and the groups that the rows are in.

    Attributes
    ----------
    column : str
        Name of the column of labels; "group" where they have none.
    levels : pandas.Index
        The distinct labels, sorted.
    codes : ndarray of int, (n,)
        Place of each row's label among the levels.
    Y : ndarray of floats, (n, n_targets)
    """

    column: str
    levels: "pd.Index"
    codes: Indices
    Y: Floats

    @classmethod
    def read(cls, groups: Any, Y: Any) -> "GroupedTargets":
        """Check and number the labels of groups, (n,), and check their targets, (n,) or (n, n_targets).

        Raises
        ------
        InputError
            Not one label a row of Y, or none; a label is missing, or a target is no finite number (the row is named).
        """
        values, labels = _read_targets(Y), read_labels(groups)
        if not len(values) or len(labels) != len(values):
            raise InputError(f"need one group a row of Y: {labels.shape} groups, Y of shape {values.shape}")
        return cls(_column_of(groups), *numbered(labels), values)


def read_labels(groups: Any) -> Labels:
    """Return the labels of groups, (n,), of an array-like or a series (InputError: one is missing)."""
    import pandas as pd

    labels = np.asarray(groups, dtype=object)
    if labels.ndim == 2 and labels.shape[1] == 1:  # as a ColumnTransformer hands a list of one column over
        labels = labels[:, 0]
    if labels.ndim != 1:
        raise InputError(f"groups must be one label a row, (n,), not {labels.shape}")
    missing = np.flatnonzero(pd.isna(labels))
    if len(missing):
        column = _column_of(groups)
        raise InputError(f"row {missing[0]} (from 0) has no group: its label in column {column} is missing")
    return labels


def _column_of(groups: Any) -> str:
    columns = getattr(groups, "columns", None)
    return str(
        columns[0] if columns is not None and len(columns) else getattr(groups, "name", None) or "group"
    )


@dataclass(frozen=True, eq=False)
class GroupTable:
    """Statistics of every target in every level of one column of groups.

    Attributes
    ----------
    column : str
    levels : pandas.Index
        All labels of the training rows, sorted.
    values : ndarray of float32, (n_levels + 1, n_statistics, n_targets)
        Smoothed statistics. The last level stands for every label that is none of `levels`; it and levels
        without rows hold the global statistics (and a count of 0).
    """

    column: str
    levels: "pd.Index"
    values: Float32

    def state(self) -> State:
        """Return the table as plain data; InputError where labels are no strings."""
        levels = self.levels.tolist()
        if not all(isinstance(level, str) for level in levels):
            raise InputError(f"an encoder of column {self.column} cannot be saved: its labels are no strings")
        return {"column": self.column, "levels": [str(level) for level in levels], "values": self.values}

    @classmethod
    def from_state(cls, reader: StateReader, n_statistics: int) -> "GroupTable":
        """Make what `state` described."""
        import pandas as pd

        column, levels = reader.text("column"), reader.levels("levels")
        if not levels:
            raise reader.fault("levels are empty")
        values = reader.array("values", np.float32, (len(levels) + 1, n_statistics, None))
        return cls(column, pd.Index(levels), values)


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
    Y: Floats, codes: NDArray[np.integer[Any]], n_levels: int, statistics: Iterable[str]
) -> Float32:
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
    lines = (
        BLOCK_SIZE // (MIN_WIDTH * max(len(rows), 1)) | 1
    )  # odd: rows a power of 2 apart share a place in the cache
    width = MIN_WIDTH * lines
    for begin in range(0, Y.shape[1], width):
        targets = slice(begin, begin + width)
        block, at = Y[rows, targets], 0
        for size, levels in sizes:
            members = block[at : at + size * len(levels)].reshape(len(levels), size, -1)
            at += size * len(levels)
            for position, values in enumerate(_statistics_of(members, names)):
                tables[levels, position, targets] = values
    return tables


def sums_of_others(targets: Float64, codes: Indices) -> Float64:
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


def group_table(data: GroupedTargets, used: Mask, statistics: Sequence[str], smoothing: float) -> GroupTable:
    """Return the table of all groups, from the rows used (n,) only.

    With n_g rows of level g, statistic s and smoothing m, the value is

        (n_g s(rows of g) + m s(all rows used)) / (n_g + m),  s(all rows used) where n_g = 0,

    but for the count, n_g itself. Computed in float64 from float32 statistics.

    Raises
    ------
    InputError
        Unknown statistics, or smoothing that is negative or not finite.
    """
    names = checked_statistics(statistics)
    if not 0 <= smoothing < np.inf:
        raise InputError(f"smoothing must be a number of rows, 0 or more, not {smoothing}")
    n_levels = len(data.levels)
    overall = group_statistics(data.Y, np.where(used, 0, -1), 1, names)[0]
    values = group_statistics(data.Y, np.where(used, data.codes, -1), n_levels + 1, names)
    counts = np.bincount(data.codes[used], minlength=n_levels)
    for position in [place for place, name in enumerate(names) if name != "count"]:
        _draw_together(values[:, position], counts, overall[position], smoothing)
    return GroupTable(data.column, data.levels, values)


def _draw_together(values: Float32, counts: Indices, overall: Float32, smoothing: float) -> None:
    """Smooth (n_levels + 1, n_targets) values in place, and give levels without rows the global ones."""
    for level, count in enumerate([*counts.tolist(), 0]):
        if not count:
            values[level] = overall
        elif smoothing:
            drawn = count * values[level].astype(np.float64) + smoothing * overall.astype(np.float64)
            values[level] = drawn / (count + smoothing)


def checked_folds(folds: Any, n_rows: int) -> Indices:
    """Return the fold of each row, (n,) int.

    Raises
    ------
    InputError
        Not one whole number a row, or all of them the same: no row would be left to learn from.
    """
    values = np.asarray(folds)
    if values.shape != (n_rows,) or values.dtype.kind not in "iu":
        raise InputError(
            f"folds of shape {values.shape} and type {values.dtype}: need one whole number for each of {n_rows} rows"
        )
    if len(np.unique(values)) < 2:
        raise InputError("all rows are in one fold: cross-fitting needs at least 2 folds")
    return values.astype(np.intp)


def random_folds(n_rows: int, n_folds: int, seed: int) -> Indices:
    """Return the fold of every row: a seeded shuffle dealt out evenly over at most as many folds as rows.

    Raises
    ------
    InputError
        Fewer than two folds, or fewer than two rows.
    """
    if n_folds < 2 or n_rows < 2:
        raise InputError(f"cross-fitting {n_rows} rows in {n_folds} folds: needs at least 2 rows and 2 folds")
    folds = np.empty(n_rows, dtype=np.intp)
    folds[np.random.default_rng(seed).permutation(n_rows)] = np.arange(n_rows) % min(n_folds, n_rows)
    return folds


def folds_of_units(units: Indices, n_folds: int, seed: int) -> Indices:
    """Return the fold of every row, (n,): units 0, 1, … of rows are dealt as `random_folds` deals rows."""
    return random_folds(int(units.max(initial=-1)) + 1, n_folds, seed)[units]


def _rows_by_size(
    codes: NDArray[np.integer[Any]], counts: Indices
) -> tuple[list[tuple[int, Indices]], Indices]:
    """Return (size, levels of that size) for each size, and the rows in that order, level by level."""
    sizes: list[tuple[int, Indices]] = [
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


def _sum(members: Floats) -> Float64:
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


def _read_targets(Y: Any) -> Floats:
    """Return the targets' values, (n, n_targets), as floats of 32 or 64 bits."""
    try:
        values = np.asarray(Y)
        values = values if values.dtype in (np.float32, np.float64) else values.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"Y must hold numbers: {error}") from None
    values = values[:, None] if values.ndim == 1 else values
    if values.ndim != 2:
        raise InputError(f"Y must be (n, n_targets), not {values.shape}")
    finite = np.isfinite(values)
    if not finite.all():
        row, target = np.argwhere(~finite)[0]
        name = Y.columns[target] if hasattr(Y, "columns") else f"target{target}"
        raise InputError(f"row {row} (from 0), target {name}: {values[row, target]} is no finite number")
    return values
