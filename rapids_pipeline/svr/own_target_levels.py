"""The two sides of a feature set with statistics of each target's own, and the levels of rows on them.

A side is what hangs on one column, `sm_name` (with the molecules) or `cell_type`. Rows are alike on a side where
they agree in its *level*:

    training rows    (shared features, label, inner fold of every block of statistics)
    other rows       (shared features, label)

since a training row has the statistics of the rows outside its fold, any other row those of all training rows.
Every block of statistics draws folds of its own, as in `features.feature_sets.FeatureTable`.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from features.blocks import MoleculeBlock, OneHotBlock, StatisticsBlock
from features.feature_sets import FeatureSet, FeatureTable
from features.rows import Rows, places
from features.targets.statistics import random_folds, read_labels
from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.backend.state import State, StateReader
from rapids_pipeline.svr.own_target_statistics import LevelStatistics

Matrix = NDArray[np.float32]
Codes = NDArray[np.int32]

COLUMNS = ("sm_name", "cell_type")


@dataclass(frozen=True)
class SideRecipe:
    """The blocks of one side: those all targets share, and statistics, each with its place in the feature set."""

    column: str
    shared: FeatureSet | None
    statistics: tuple[tuple[int, StatisticsBlock], ...]

    @property
    def n_statistics(self) -> int:
        """Columns of statistics."""
        return sum(len(block.statistics) for _, block in self.statistics)


def sides_of(recipe: FeatureSet) -> tuple[SideRecipe, SideRecipe]:
    """Return what hangs on the compound, and what on the cell type.

    Raises
    ------
    InputError
        A block whose columns are no function of a row's levels, or molecules that name no encoder.
    """
    shared: dict[str, list[OneHotBlock | MoleculeBlock]] = {column: [] for column in COLUMNS}
    statistics: dict[str, list[tuple[int, StatisticsBlock]]] = {column: [] for column in COLUMNS}
    for position, block in enumerate(recipe.blocks):
        if isinstance(block, OneHotBlock):
            shared[block.column].append(block)
        elif isinstance(block, MoleculeBlock) and block.encoder is not None:
            shared["sm_name"].append(block)
        elif isinstance(block, StatisticsBlock) and block.own_target and block.n_components is None:
            statistics[block.column].append((position, block))
        else:
            raise InputError(
                f"feature set {recipe.name}: an SVR on each gene's own statistics cannot take block {block.name}; it "
                "takes onehot, molecules with an encoder, and statistics with own_target = true and no n_components"
            )
    if not any(statistics.values()):
        raise InputError(
            f"feature set {recipe.name} has no statistics of each gene's own (own_target = true)"
        )
    first, second = (
        SideRecipe(
            column,
            FeatureSet(name=column, blocks=tuple(shared[column])) if shared[column] else None,
            tuple(statistics[column]),
        )
        for column in COLUMNS
    )
    return first, second


@dataclass(frozen=True, eq=False)
class Levels:
    """Levels of some rows on one side.

    Attributes
    ----------
    of_row : ndarray of intp, (m,)
    labels : ndarray of intp, (n_levels,)
        Place of the label among the training labels; their number where it is none of them.
    features : ndarray of float32, (n_levels, p)
        Shared features; p may be 0.
    """

    of_row: NDArray[np.intp]
    labels: NDArray[np.intp]
    features: Matrix


@dataclass(frozen=True, eq=False)
class Side:
    """One side of fitted training rows.

    Attributes
    ----------
    recipe : SideRecipe
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

    recipe: SideRecipe
    table: FeatureTable | None
    labels: list[str]
    label_of_row: Codes
    features: Matrix
    features_of_row: Codes
    folds: Codes

    @classmethod
    def fit(cls, recipe: SideRecipe, rows: Rows, seed: int) -> "Side":
        """Learn a side from training rows; a block at place p draws its folds with the seed `seed + p`."""
        n = len(rows.obs)
        table = None if recipe.shared is None else FeatureTable(recipe.shared, seed=seed)
        made = (
            np.zeros((n, 0), np.float32)
            if table is None
            else table.fit_transform(rows, np.zeros((n, 0), np.float32))
        )
        features_of_row, features = _distinct(made)
        labels: list[str] = []
        label_of_row = np.zeros(n, np.int32)
        if recipe.statistics:
            found, names = pd.factorize(_labels(rows, recipe.column), sort=True)
            labels, label_of_row = [str(name) for name in names], found.astype(np.int32)
        folds = np.zeros((len(recipe.statistics), n), np.int32)
        for row, (position, block) in zip(folds, recipe.statistics, strict=True):
            if not block.leaky:
                row[:] = random_folds(n, block.n_folds, seed + position)
        return cls(recipe, table, labels, label_of_row, features, features_of_row.astype(np.int32), folds)

    def training(self) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Return the level of each training row (n,), and a row of every level (n_levels,)."""
        keys = np.vstack([self.features_of_row, self.label_of_row, self.folds])
        _, example, of_row = np.unique(keys, axis=1, return_index=True, return_inverse=True)
        return of_row.ravel(), example

    def others(self, rows: Rows) -> Levels:
        """Return the levels of other rows."""
        m = len(rows.obs)
        made = np.zeros((m, 0), np.float32) if self.table is None else self.table.transform(rows)
        label = np.zeros(m, np.intp)
        if self.labels:
            label = places(_labels(rows, self.recipe.column), self.labels)
            label = np.where(label < 0, len(self.labels), label)
        features_of_row, features = _distinct(made)
        keys = np.vstack([features_of_row, label])
        levels, of_row = np.unique(keys, axis=1, return_inverse=True)
        return Levels(of_row.ravel(), levels[1], features[levels[0]])

    def statistics(self, examples: NDArray[np.intp]) -> list[LevelStatistics]:
        """Return what makes each block's statistics; `examples` are a row of every training level."""
        return [
            LevelStatistics.of(block, self.label_of_row, len(self.labels), folds, examples)
            for (_, block), folds in zip(self.recipe.statistics, self.folds, strict=True)
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
    def from_state(cls, recipe: SideRecipe, reader: StateReader, n: int) -> "Side":
        """Make what `state` described, of n training rows; InputError where it is damaged."""
        labels = reader.levels("labels")
        features = reader.array("features", np.float32, (None, None))
        folds = reader.codes("folds", (len(recipe.statistics), n), n)
        label_of_row = reader.codes("label_of_row", (n,), max(len(labels), 1))
        features_of_row = reader.codes("features_of_row", (n,), len(features))
        table = None
        if recipe.shared is not None:
            table = FeatureTable.from_state(recipe.shared, reader.part("table"))
        if features.shape[1] != (sum(table.columns_.values()) if table else 0):
            raise reader.fault(f"features have {features.shape[1]} columns")
        if recipe.statistics and (labels != sorted(labels) or len(np.unique(label_of_row)) != len(labels)):
            raise reader.fault("labels are not sorted, or no training row has one of them")
        if bool(labels) != bool(recipe.statistics):
            raise reader.fault(f"there are {len(labels)} labels")
        for (_, block), fold in zip(recipe.statistics, folds, strict=True):
            if block.leaky != (not fold.any()):
                raise reader.fault("folds are not those of the blocks of statistics")
        return cls(recipe, table, labels, label_of_row, features, features_of_row, folds)


def _labels(rows: Rows, column: str) -> NDArray[np.object_]:
    """Return the labels of rows, (n,) of str; InputError where one is missing."""
    _, labels = read_labels(rows.obs[column])
    return np.asarray([str(label) for label in labels[:, 0]], object)


def _distinct(values: Matrix) -> tuple[NDArray[np.intp], Matrix]:
    """Return each row's place among the distinct rows, in order of first occurrence, and those rows."""
    if not values.shape[1]:
        return np.zeros(len(values), np.intp), values[:1]
    values = np.ascontiguousarray(values + np.float32(0))  # no −0, which has other bytes than 0
    places: dict[bytes, int] = {}
    of_row = np.asarray([places.setdefault(row.tobytes(), len(places)) for row in values], np.intp)
    _, first = np.unique(of_row, return_index=True)
    return of_row, values[first]
