"""Rows of group labels and targets, checked and numbered: what the encoders of `features.target` start from."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.backend.state import State, StateReader

Labels = NDArray[np.object_]
Codes = NDArray[np.intp]
Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True, eq=False)
class GroupedTargets:
    """Targets of n rows and the groups that the rows are in.

    Attributes
    ----------
    columns : tuple of str
        Name of each column of groups.
    levels : tuple of pandas.Index
        The distinct labels of each column, sorted.
    codes : ndarray of int, (n, n_columns)
        Place of each row's label among the levels.
    targets : tuple of str
    Y : ndarray of floats, (n, n_targets)
    """

    columns: tuple[str, ...]
    levels: tuple[pd.Index, ...]
    codes: Codes
    targets: tuple[str, ...]
    Y: Floats

    @classmethod
    def read(cls, groups: Any, Y: Any) -> "GroupedTargets":
        """Check and number groups, (n,) or (n, n_columns), and their targets, (n,) or (n, n_targets).

        Raises
        ------
        InputError
            Not one row of groups a row of Y, or none; a label is missing, or a target is no finite number (the
            row and the column or target are named).
        """
        targets, values = _read_targets(Y)
        columns, labels = read_labels(groups)
        if not len(values) or len(labels) != len(values):
            raise InputError(
                f"need one group a row of Y: {np.shape(groups)} groups, Y of shape {values.shape}"
            )
        numbered = [pd.factorize(labels[:, column], sort=True) for column in range(len(columns))]
        codes = np.stack([codes for codes, _ in numbered], axis=1).astype(np.intp)
        return cls(columns, tuple(pd.Index(levels) for _, levels in numbered), codes, targets, values)


def read_labels(groups: Any, names: Sequence[str] | None = None) -> tuple[tuple[str, ...], Labels]:
    """Return the columns' names and the labels (n, n_columns) of an array-like, a series or a data frame.

    Parameters
    ----------
    groups : array-like or series (n,), array-like or data frame (n, n_columns)
        Columns without a name of their own are called group0, group1, …
    names : sequence of str, optional
        The columns wanted: a data frame's columns are taken by name, others must be as many.

    Raises
    ------
    InputError
        A column is missing, named twice or one too many, or a label is missing (its row is named).
    """
    if hasattr(groups, "columns"):
        columns, labels = _of_frame(groups, names)
    else:
        labels = np.asarray(groups, dtype=object)
        labels = labels[:, None] if labels.ndim == 1 else labels
        if labels.ndim != 2 or not labels.shape[1]:
            raise InputError(f"groups must be (n,) or (n, n_columns), not {labels.shape}")
        columns = tuple(names or _own_name(groups) or (f"group{c}" for c in range(labels.shape[1])))
        if len(columns) != labels.shape[1]:
            raise InputError(f"groups have {labels.shape[1]} columns; expected are {', '.join(columns)}")
    missing = np.argwhere(pd.isna(labels))
    if len(missing):
        row, column = missing[0]
        raise InputError(f"row {row} (from 0) has no group: its label in column {columns[column]} is missing")
    return columns, labels


def _of_frame(frame: Any, names: Sequence[str] | None) -> tuple[tuple[str, ...], Labels]:
    """Return names and values of a data frame's columns: all of them, or those of the names."""
    found = [str(name) for name in frame.columns]
    wanted = tuple(found if names is None else names)
    if not wanted or any(found.count(name) != 1 for name in wanted):
        raise InputError(
            f"need columns of groups {', '.join(wanted)}, one of each; there are {', '.join(found)}"
        )
    columns = [np.asarray(frame[frame.columns[found.index(name)]], dtype=object) for name in wanted]
    return wanted, np.stack(columns, axis=1)


def _own_name(values: Any) -> tuple[str, ...]:
    """Return the name of a series; nothing where there is none."""
    name = getattr(values, "name", None)
    return () if name is None or name == "" else (str(name),)


def codes_among(labels: Labels, levels: Sequence[pd.Index]) -> Codes:
    """Return the place of each label (n, n_columns) among its column's levels; −1 where it is none of them."""
    return np.stack([known.get_indexer(pd.Index(labels[:, c])) for c, known in enumerate(levels)], axis=1)


def numbered_targets(n_targets: int) -> tuple[str, ...]:
    """Return what targets without names are called: target0, target1, …"""
    return tuple(f"target{t}" for t in range(n_targets))


def targets_state(targets: tuple[str, ...]) -> State:
    """Return the state of the targets' names: nothing where they are only numbered."""
    return {} if targets == numbered_targets(len(targets)) else {"targets": list(targets)}


def targets_of(reader: StateReader, n_targets: int) -> tuple[str, ...]:
    """Return the names that `targets_state` described."""
    if "targets" not in reader.names():
        return numbered_targets(n_targets)
    names = reader.strings("targets")
    if len(names) != n_targets:
        raise reader.fault(f"targets are {len(names)} names for {n_targets} targets")
    return tuple(names)


def levels_state(column: str, levels: pd.Index) -> list[str]:
    """Return the levels of a column as plain data; InputError where they are no strings."""
    found = levels.tolist()
    if not all(isinstance(level, str) for level in found):
        raise InputError(f"an encoder of column {column} cannot be saved: its labels are no strings")
    return [str(level) for level in found]


def levels_of(reader: StateReader) -> pd.Index:
    """Return the levels that `levels_state` described, saved under "levels"."""
    found = reader.levels("levels")
    if not found:
        raise reader.fault("levels are empty")
    return pd.Index(found)


def checked_folds(folds: Any, n_rows: int) -> Codes:
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


def random_folds(n_rows: int, n_folds: int, seed: int) -> Codes:
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


def _read_targets(Y: Any) -> tuple[tuple[str, ...], Floats]:
    """Return the targets' names and values (n, n_targets), as floats of 32 or 64 bits."""
    try:
        values = np.asarray(Y)
        values = values if values.dtype in (np.float32, np.float64) else values.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"Y must hold numbers: {error}") from None
    values = values[:, None] if values.ndim == 1 else values
    if values.ndim != 2:
        raise InputError(f"Y must be (n, n_targets), not {values.shape}")
    own = Y.columns if hasattr(Y, "columns") else _own_name(Y)
    names = tuple(str(name) for name in own) or numbered_targets(values.shape[1])
    finite = np.isfinite(values)
    if not finite.all():
        row, target = np.argwhere(~finite)[0]
        raise InputError(
            f"row {row} (from 0), target {names[target]}: {values[row, target]} is no finite number"
        )
    return names, values
