"""Levels of rows, and statistics of every target by level, without a target's own value in its statistics.

A feature set has two sides: what hangs on `sm_name` (with the molecules) and what hangs on `cell_type`. Rows are alike
on a side where they agree in its *level*, and statistics are made level by level, to the last bit those of
`features.target_encoders.TargetEncoder`:

    training rows    (shared features, label g, inner fold k of every block)    rows of g outside k, drawn to all there
    other rows       (shared features, label g)                                 rows of g, drawn to all rows
                     (shared features, any other label)                         all rows

since a training row has the statistics of the rows outside its fold, any other row those of all training rows. Every
block of statistics draws folds of its own, which part no replicates, as in `features.feature_sets.FeatureTable`. A
level's statistics are taken over its own rows in one call of `features.group_statistics`, where the encoder makes a
table of all labels for every fold; and the statistics of all rows outside a fold only where a level needs them.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from features.blocks import MoleculeBlock, OneHotBlock, StatisticsBlock
from features.feature_sets import FeatureSet, FeatureTable
from features.group_statistics import folds_of_units, group_statistics, read_labels
from features.rows import Rows, contexts_of, places
from rapids_pipeline.backend.arrays import Codes, Float32, Indices, Labels, Mask
from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.backend.state import State, StateReader

COLUMNS = ("sm_name", "cell_type")
ROWS_AT_ONCE = 512
"""Rows of one call of `group_statistics`: with more, it goes through fewer targets at a time, more slowly."""


@dataclass(frozen=True)
class SideBlocks:
    """The blocks of one side: those all targets share, and statistics, each with its place in the feature set."""

    column: str
    shared: FeatureSet | None
    statistics: tuple[tuple[int, StatisticsBlock], ...]

    @property
    def n_statistics(self) -> int:
        """Columns of statistics."""
        return sum(len(block.statistics) for _, block in self.statistics)


def sides_of(features: FeatureSet) -> tuple[SideBlocks, SideBlocks]:
    """Return what hangs on the compound, and what on the cell type.

    Raises
    ------
    InputError
        A block whose columns are no function of a row's levels, or molecules that name no encoder.
    """
    shared: dict[str, list[OneHotBlock | MoleculeBlock]] = {column: [] for column in COLUMNS}
    statistics: dict[str, list[tuple[int, StatisticsBlock]]] = {column: [] for column in COLUMNS}
    for position, block in enumerate(features.blocks):
        if isinstance(block, OneHotBlock):
            shared[block.column].append(block)
        elif isinstance(block, MoleculeBlock) and block.encoder is not None:
            shared["sm_name"].append(block)
        elif isinstance(block, StatisticsBlock) and block.own_target and block.n_components is None:
            statistics[block.column].append((position, block))
        else:
            raise InputError(
                f"feature set {features.name}: an SVR on each gene's own statistics cannot take block {block.name}; it "
                "takes onehot, molecules with an encoder, and statistics with own_target = true and no n_components"
            )
    if not any(statistics.values()):
        raise InputError(
            f"feature set {features.name} has no statistics of each gene's own (own_target = true)"
        )
    first, second = (
        SideBlocks(
            column,
            FeatureSet(name=column, blocks=tuple(shared[column])) if shared[column] else None,
            tuple(statistics[column]),
        )
        for column in COLUMNS
    )
    return first, second


@dataclass(frozen=True, eq=False)
class SideLevels:
    """Levels of some rows on one side.

    Attributes
    ----------
    of_row : ndarray of intp, (m,)
    labels : ndarray of intp, (n_levels,)
        Place of the label among the training labels; their number where it is none of them.
    features : ndarray of float32, (n_levels, p)
        Shared features; p may be 0.
    """

    of_row: Indices
    labels: Indices
    features: Float32

    def some(self, rows: slice) -> "SideLevels":
        """Return the levels of some of the rows, without those that none of them has."""
        used, of_row = np.unique(self.of_row[rows], return_inverse=True)
        return SideLevels(of_row, self.labels[used], self.features[used])


@dataclass(frozen=True, eq=False)
class Groups:
    """Rows of several groups, in parts of consecutive groups: group `first + codes[i]` has row `rows[i]`."""

    number: int
    counts: Indices
    parts: tuple[tuple[slice, Indices, Indices], ...]

    @classmethod
    def of(cls, belongs: Mask) -> "Groups":
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

    def statistics(self, Y: Float32, names: tuple[str, ...]) -> Float32:
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
        label_of_row: Codes,
        n_labels: int,
        folds: Codes,
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

    def tables(self, Y: Float32) -> Float32:
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


@dataclass(frozen=True, eq=False)
class Side:
    """One side of fitted training rows.

    Attributes
    ----------
    blocks : SideBlocks
    table : FeatureTable or None
        Makes the shared features; None where there are none.
    labels : list of str, (n_labels,)
        The training labels, sorted; empty without statistics.
    label_of_row : ndarray of int32, (n,)
    features : ndarray of float32, (n_distinct, p)
        The training rows' distinct shared features.
    features_of_row : ndarray of int32, (n,)
    folds : ndarray of int32, (n_blocks, n)
        Inner folds of every block of statistics, numbered without gaps; all 0 for a leaky one.
    """

    blocks: SideBlocks
    table: FeatureTable | None
    labels: list[str]
    label_of_row: Codes
    features: Float32
    features_of_row: Codes
    folds: Codes

    @classmethod
    def fit(cls, blocks: SideBlocks, rows: Rows, seed: int) -> "Side":
        """Learn a side from training rows; a block at place p draws its folds with the seed `seed + p`."""
        n = len(rows.obs)
        table = None if blocks.shared is None else FeatureTable(blocks.shared, seed=seed)
        made = (
            np.zeros((n, 0), np.float32)
            if table is None
            else table.fit_transform(rows, np.zeros((n, 0), np.float32))
        )
        features_of_row, features = _distinct(made)
        labels: list[str] = []
        label_of_row = np.zeros(n, np.int32)
        if blocks.statistics:
            found, names = pd.factorize(_labels(rows, blocks.column), sort=True)
            labels, label_of_row = [str(name) for name in names], found.astype(np.int32)
        folds = np.zeros((len(blocks.statistics), n), np.int32)
        replicates = contexts_of(rows.obs) if blocks.statistics else np.arange(n)
        for row, (position, block) in zip(folds, blocks.statistics, strict=True):
            if not block.leaky:
                row[:] = folds_of_units(replicates, block.n_folds, seed + position)
        return cls(blocks, table, labels, label_of_row, features, features_of_row.astype(np.int32), folds)

    def training(self) -> tuple[Indices, Indices]:
        """Return the level of each training row (n,), and a row of every level (n_levels,)."""
        keys = np.vstack([self.features_of_row, self.label_of_row, self.folds])
        _, example, of_row = np.unique(keys, axis=1, return_index=True, return_inverse=True)
        return of_row.ravel(), example

    def others(self, rows: Rows) -> SideLevels:
        """Return the levels of other rows."""
        m = len(rows.obs)
        made = np.zeros((m, 0), np.float32) if self.table is None else self.table.transform(rows)
        label = np.zeros(m, np.intp)
        if self.labels:
            label = places(_labels(rows, self.blocks.column), self.labels)
            label = np.where(label < 0, len(self.labels), label)
        features_of_row, features = _distinct(made)
        keys = np.vstack([features_of_row, label])
        levels, of_row = np.unique(keys, axis=1, return_inverse=True)
        return SideLevels(of_row.ravel(), levels[1], features[levels[0]])

    def statistics(self, examples: Indices) -> list[LevelStatistics]:
        """Return what makes each block's statistics; `examples` are a row of every training level."""
        return [
            LevelStatistics.of(block, self.label_of_row, len(self.labels), folds, examples)
            for (_, block), folds in zip(self.blocks.statistics, self.folds, strict=True)
        ]

    def state(self) -> State:
        """Return what was learnt, as plain data."""
        return {
            **({} if self.table is None else {"table": self.table.state()}),
            "labels": self.labels,
            "label_of_row": self.label_of_row,
            "features": self.features,
            "features_of_row": self.features_of_row,
            "folds": self.folds,
        }

    @classmethod
    def from_state(cls, blocks: SideBlocks, reader: StateReader, n: int) -> "Side":
        """Make what `state` described, of n training rows; InputError where it is damaged."""
        labels = reader.levels("labels")
        features = reader.array("features", np.float32, (None, None))
        folds = reader.codes("folds", (len(blocks.statistics), n), n)
        label_of_row = reader.codes("label_of_row", (n,), max(len(labels), 1))
        features_of_row = reader.codes("features_of_row", (n,), len(features))
        table = None
        if blocks.shared is not None:
            table = FeatureTable.from_state(blocks.shared, reader.part("table"))
        if features.shape[1] != (sum(table.columns_.values()) if table else 0):
            raise reader.fault(f"features have {features.shape[1]} columns")
        if blocks.statistics and (labels != sorted(labels) or len(np.unique(label_of_row)) != len(labels)):
            raise reader.fault("labels are not sorted, or no training row has one of them")
        if bool(labels) != bool(blocks.statistics):
            raise reader.fault(f"there are {len(labels)} labels")
        for (_, block), fold in zip(blocks.statistics, folds, strict=True):
            if block.leaky != (not fold.any()):
                raise reader.fault("folds are not those of the blocks of statistics")
        return cls(blocks, table, labels, label_of_row, features, features_of_row, folds)


def _labels(rows: Rows, column: str) -> Labels:
    """Return the labels of rows, (n,) of str; InputError where one is missing."""
    return np.asarray([str(label) for label in read_labels(rows.obs[column])], object)


def _distinct(values: Float32) -> tuple[Indices, Float32]:
    """Return each row's place among the distinct rows, in order of first occurrence, and those rows."""
    if not values.shape[1]:
        return np.zeros(len(values), np.intp), values[:1]
    values = np.ascontiguousarray(values + np.float32(0))  # no −0, which has other bytes than 0
    places: dict[bytes, int] = {}
    of_row = np.asarray([places.setdefault(row.tobytes(), len(places)) for row in values], np.intp)
    _, first = np.unique(of_row, return_index=True)
    return of_row, values[first]
