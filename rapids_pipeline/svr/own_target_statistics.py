"""Statistics of every target by level: `features.targets.encoders.TargetEncoder`'s, to the last bit, level by level.

    training level (label g, fold k)    rows of g outside k, drawn to all rows outside k
    label g                             rows of g, drawn to all rows
    any other label                     all rows

A level's statistics are taken over its own rows in one call of `features.targets.statistics`, where the encoder makes
a table of all labels for every fold; and the statistics of all rows outside a fold only where a level needs them.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from features.blocks import StatisticsBlock
from features.targets.statistics import group_statistics

Matrix = NDArray[np.float32]
Indices = NDArray[np.intp]

ROWS_AT_ONCE = 512
"""Rows of one call of `group_statistics`: with more, it goes through fewer targets at a time, more slowly."""


@dataclass(frozen=True, eq=False)
class Groups:
    """Rows of several groups, in parts of consecutive groups: group `first + codes[i]` has row `rows[i]`."""

    number: int
    counts: Indices
    parts: tuple[tuple[slice, Indices, Indices], ...]

    @classmethod
    def of(cls, belongs: NDArray[np.bool_]) -> "Groups":
        """Read them off a table (groups, n) that says which rows belong."""
        counts, parts, first = belongs.sum(axis=1), [], 0
        ends = np.cumsum(counts)
        while first < len(belongs):
            before = ends[first] - counts[first]
            last = max(first + 1, int(np.searchsorted(ends, before + ROWS_AT_ONCE, side="right")))
            codes, rows = np.nonzero(belongs[first:last])
            parts.append((slice(first, last), rows, codes))
            first = last
        return cls(len(belongs), counts, tuple(parts))

    def statistics(self, Y: Matrix, names: tuple[str, ...]) -> Matrix:
        """Return the statistics (groups, n_statistics, t) of targets Y (n, t)."""
        values = np.empty((self.number, len(names), Y.shape[1]), np.float32)
        for groups, rows, codes in self.parts:
            values[groups] = group_statistics(Y[rows], codes, groups.stop - groups.start, names)
        return values


@dataclass(frozen=True, eq=False)
class LevelStatistics:
    """One block's statistics of all its levels: training levels, then labels, then the label nobody has.

    Attributes
    ----------
    names : tuple of str
    smoothing : float
    groups : Groups
        Of every level; the last has no rows.
    overall : Groups
        All rows, then all rows outside each fold that some level needs.
    drawn_to : ndarray of intp, (n_levels,)
        The group of `overall` of each level.
    """

    names: tuple[str, ...]
    smoothing: float
    groups: Groups
    overall: Groups
    drawn_to: Indices

    @classmethod
    def of(
        cls,
        block: StatisticsBlock,
        label_of_row: NDArray[np.integer],
        n_labels: int,
        folds: NDArray[np.integer],
        examples: Indices,
    ) -> "LevelStatistics":
        """Read the levels off the training rows; `examples` are a row of every training level."""
        labels, fold = label_of_row[examples], folds[examples]
        trained = labels[:, None] == label_of_row
        if not block.leaky:
            trained &= fold[:, None] != folds
        known = np.arange(n_labels + 1)[:, None] == label_of_row
        needed = np.zeros(len(examples), bool)
        if not block.leaky:
            needed = ~trained.any(axis=1) | (block.smoothing > 0)
        outside, place = np.unique(fold[needed], return_inverse=True)
        drawn_to = np.zeros(len(examples) + n_labels + 1, np.intp)
        drawn_to[np.flatnonzero(needed)] = 1 + place
        overall = np.vstack([np.ones((1, len(folds)), bool), outside[:, None] != folds])
        groups = Groups.of(np.vstack([trained, known]))
        return cls(block.statistics, block.smoothing, groups, Groups.of(overall), drawn_to)

    def tables(self, Y: Matrix) -> Matrix:
        """Return the statistics (n_levels, n_statistics, t) of targets Y, (n, t) float32."""
        values = self.groups.statistics(Y, self.names)
        overall = self.overall.statistics(Y, self.names)
        counts = self.groups.counts
        plain = [position for position, name in enumerate(self.names) if name != "count"]
        empty = np.flatnonzero(counts == 0)
        for position in plain:
            values[empty, position] = overall[self.drawn_to[empty], position]
        if self.smoothing:
            filled = np.flatnonzero(counts)
            weight = counts[filled, None]
            for position in plain:
                far = overall[self.drawn_to[filled], position].astype(np.float64)
                near = values[filled, position].astype(np.float64)
                drawn = weight * near + self.smoothing * far
                values[filled, position] = drawn / (weight + self.smoothing)
        return values
