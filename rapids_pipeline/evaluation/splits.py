"""Which rows are held out together."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from rapids_pipeline.backend.errors import InputError


def random_folds(n_rows: int, n_folds: int, seed: int) -> NDArray[np.intp]:
    """Return the fold, 0 … n_folds-1, of every row: a seeded shuffle dealt out evenly.

    Raises
    ------
    InputError
        Fewer than two folds, or fewer than two rows a fold.
    """
    if n_folds < 2 or n_rows < 2 * n_folds:
        raise InputError(
            f"{n_folds} folds of {n_rows} training rows: need at least 2 folds and 2 rows a fold"
        )
    folds = np.empty(n_rows, dtype=np.intp)
    folds[np.random.default_rng(seed).permutation(n_rows)] = np.arange(n_rows) % n_folds
    return folds


@dataclass(frozen=True)
class Split:
    """Rows to train on and rows to predict, by position; `name` says what was held out."""

    name: str
    training: NDArray[np.intp]
    held_out: NDArray[np.intp]


def made_scarce_splits(obs: pd.DataFrame, pairs: pd.DataFrame, seed: int) -> list[Split]:
    """Make other cell types scarce: one split for each cell type that the pairs to predict do not have.

    The cell types of `pairs` are the scarce ones; let k be the mean number of their training rows. Each other
    cell type with more than 2k rows is made scarce in turn: k of its rows stay in training, drawn at random among
    those whose compound the scarce cell types have (then among the others), and the rest is held out, but for
    rows whose compound no other training row has: those would be another, harder task, and stay.

    Parameters
    ----------
    obs : DataFrame, (n,)
        `cell_type` and `sm_name` of the training rows.
    pairs : DataFrame
        Those of the pairs to predict.
    seed : int

    Raises
    ------
    InputError
        No cell type can be made scarce: the pairs are of all cell types, or of none that training has.
    """
    cell_types, compounds = obs["cell_type"].to_numpy(str), obs["sm_name"].to_numpy(str)
    scarce = np.isin(cell_types, np.unique(pairs["cell_type"].to_numpy(str)))
    kept = round(scarce.sum() / max(len(np.unique(cell_types[scarce])), 1))
    rng = np.random.default_rng(seed)
    splits = []
    for name in np.unique(cell_types[~scarce]):
        rows = rng.permutation(np.flatnonzero(cell_types == name))
        first = rows[np.argsort(~np.isin(compounds[rows], compounds[scarce]), kind="stable")][:kept]
        elsewhere = np.isin(compounds[rows], compounds[cell_types != name])
        held_out = np.sort(np.setdiff1d(rows[elsewhere], first))
        if kept and len(rows) > 2 * kept and len(held_out):
            splits.append(Split(str(name), np.setdiff1d(np.arange(len(obs)), held_out), held_out))
    if not splits:
        raise InputError(
            "no split imitates these pairs: that takes cell types with few training rows among the pairs, and others "
            f"with more than twice as many ({kept}) that are not"
        )
    return splits
