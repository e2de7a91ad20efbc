"""Which rows are held out together."""

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


def canonical_order(obs: pd.DataFrame) -> NDArray[np.intp]:
    """Return the row order by (cell_type, sm_name) that makes a run independent of the file's order."""
    return np.lexsort((obs["sm_name"].to_numpy(str), obs["cell_type"].to_numpy(str)))
