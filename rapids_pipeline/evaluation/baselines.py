"""The four baselines of the Open Problems benchmark, under its names.

    zeros                  0
    mean_outcome           per gene, the mean over all training rows
    mean_across_celltypes  per cell type and gene, the mean over that cell type's training rows
    mean_across_compounds  per compound and gene, the mean over that compound's training rows

The names mislead: `mean_across_celltypes` is the mean *of a cell type*, over all its compounds, and
`mean_across_compounds` the mean *of a compound*, over all its cell types. They are kept as published, so
that a score here can be set beside the published one (mean_rowwise_rmse 0.8925 and 0.9428 on the
competition data).

The scripts fail on a cell type or compound without training rows; here such a pair gets `mean_outcome`.

Source: openproblems-bio/task_perturbation_prediction, commit 2fa44462, `src/control_methods/*/script.py`.
"""

from collections.abc import Callable

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.data.tables import PerturbationData

Float32 = NDArray[np.float32]
Baseline = Callable[[PerturbationData, pd.DataFrame], Float32]


def zeros(training: PerturbationData, pairs: pd.DataFrame) -> Float32:
    """Return 0 for every pair and gene: float32, (n_pairs, n_genes); only the number of genes is used."""
    return np.zeros((len(pairs), len(training.genes)), dtype=np.float32)


def mean_outcome(training: PerturbationData, pairs: pd.DataFrame) -> Float32:
    """Return, for every pair, 1/n Σ_i Y_i over all n training rows: float32, (n_pairs, n_genes)."""
    return np.repeat(_mean(training.Y)[None], len(pairs), axis=0)


def mean_across_celltypes(training: PerturbationData, pairs: pd.DataFrame) -> Float32:
    """Return, for every pair, the mean response of its cell type over all the compounds measured in it.

    Parameters
    ----------
    training : PerturbationData
        The rows to average, n_genes targets; means are accumulated in float64.
    pairs : pandas.DataFrame
        The n_pairs pairs to predict, with a column `cell_type`.

    Returns
    -------
    numpy.ndarray of float32, (n_pairs, n_genes)
        A cell type without training rows gets `mean_outcome`.

    Raises
    ------
    InputError
        `pairs` or the training metadata have no column `cell_type`.
    """
    return _level_means(training, pairs, "cell_type")


def mean_across_compounds(training: PerturbationData, pairs: pd.DataFrame) -> Float32:
    """Return, for every pair, the mean response of its compound over all the cell types it was measured in.

    As `mean_across_celltypes`, by the column `sm_name`; a compound without training rows gets `mean_outcome`.
    """
    return _level_means(training, pairs, "sm_name")


BASELINES: dict[str, Baseline] = {
    "zeros": zeros,
    "mean_outcome": mean_outcome,
    "mean_across_celltypes": mean_across_celltypes,
    "mean_across_compounds": mean_across_compounds,
}
"""The baselines by their published names, in the order in which they are shown."""


def _level_means(training: PerturbationData, pairs: pd.DataFrame, column: str) -> Float32:
    for what, obs in (("the training file", training.obs), ("the pairs", pairs)):
        if column not in obs.columns:
            raise InputError(f"{what}: missing column {column}, which the baseline averages over")
    rows_of = training.obs.groupby(training.obs[column].astype(str)).indices
    out = mean_outcome(training, pairs)
    for level, asked in pairs.groupby(pairs[column].astype(str)).indices.items():
        if level in rows_of:
            out[asked] = _mean(training.Y[rows_of[level]])
    return out


def _mean(Y: Float32) -> Float32:
    mean: Float32 = Y.mean(axis=0, dtype=np.float64).astype(np.float32)
    return mean
