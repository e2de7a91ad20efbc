"""Tables of the statistics of every target in every level of a column of groups, levels without rows filled in."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from features.group_labels import Codes, GroupedTargets, levels_of, levels_state
from features.group_statistics import checked_statistics, group_statistics
from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.backend.state import State, StateReader


@dataclass(frozen=True, eq=False)
class GroupTable:
    """Statistics of every target in every level of one column of groups.

    Attributes
    ----------
    column : str
    levels : pandas.Index
        All labels of the training rows, sorted.
    counts : ndarray of int, (n_levels,)
        Rows of each level that the statistics are of; 0 where all of them were held out.
    values : ndarray of float32, (n_levels + 1, n_statistics, n_targets)
        Smoothed statistics. The last level stands for every label that is none of `levels`; it and levels
        without rows hold the global statistics (and a count of 0).
    """

    column: str
    levels: pd.Index
    counts: Codes
    values: NDArray[np.float32]

    def take(self, codes: Codes) -> NDArray[np.float32]:
        """Return the statistics of rows with the given levels (n,), (n, n_statistics, n_targets)."""
        return self.values[codes]

    def state(self) -> State:
        """Return the table as plain data."""
        levels = levels_state(self.column, self.levels)
        counts = self.counts.astype(np.int64)
        return {"column": self.column, "levels": levels, "counts": counts, "values": self.values}

    @classmethod
    def from_state(cls, reader: StateReader, n_statistics: int) -> "GroupTable":
        """Make what `state` described."""
        column, levels = reader.text("column"), levels_of(reader)
        counts = reader.array("counts", np.int64, (len(levels),))
        if (counts < 0).any():
            raise reader.fault("counts has negative numbers")
        values = reader.array("values", np.float32, (len(levels) + 1, n_statistics, None))
        return cls(column, levels, counts.astype(np.intp), values)


@dataclass(frozen=True, eq=False)
class CrossFittedTables:
    """Tables for the rows of each fold, made from the rows outside it.

    Attributes
    ----------
    folds : ndarray of int, (n_folds,)
        The distinct folds, sorted.
    tables : tuple of tuples of GroupTable
        One tuple a fold, in it one table a column: row i has the statistics
        `tables[k][c].values[codes[i, c]]` in column c, where its fold is `folds[k]`.
    codes : ndarray of int, (n, n_columns)
        Level of each training row, the same in all folds.
    """

    folds: Codes
    tables: tuple[tuple[GroupTable, ...], ...]
    codes: Codes


def group_tables(
    data: GroupedTargets, used: NDArray[np.bool_], statistics: Sequence[str], smoothing: float
) -> tuple[GroupTable, ...]:
    """Return the table of every column, from the rows used (n,) only.

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
    overall = group_statistics(data.Y, np.where(used, 0, -1), 1, names)[0]
    tables = []
    for column, levels, codes in zip(data.columns, data.levels, data.codes.T, strict=True):
        values = group_statistics(data.Y, np.where(used, codes, -1), len(levels) + 1, names)
        counts = np.bincount(codes[used], minlength=len(levels))
        for position in [place for place, name in enumerate(names) if name != "count"]:
            _draw_together(values[:, position], counts, overall[position], smoothing)
        tables.append(GroupTable(column, levels, counts, values))
    return tuple(tables)


def _draw_together(
    values: NDArray[np.float32], counts: Codes, overall: NDArray[np.float32], smoothing: float
) -> None:
    """Smooth (n_levels + 1, n_targets) values in place, and give levels without rows the global ones."""
    for level, count in enumerate([*counts.tolist(), 0]):
        if not count:
            values[level] = overall
        elif smoothing:
            drawn = count * values[level].astype(np.float64) + smoothing * overall.astype(np.float64)
            values[level] = drawn / (count + smoothing)
