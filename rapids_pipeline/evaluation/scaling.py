"""Scores between a baseline and perfection, and the noise ceiling that no model can pass.

A score says little without what it could have been. Scaled, it is the share of the way from a baseline to a perfect
prediction,

    (baseline − score) / (baseline − perfect),    perfect = 0 for errors, 1 for correlations:

0 is as good as the baseline, 1 perfect, below 0 worse than the baseline. The Open Problems benchmark scales its
scores between control methods in the same way.
"""

from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from rapids_pipeline.data.columns import PAIR
from rapids_pipeline.evaluation.metrics import HIGHER_IS_BETTER


def best_baseline(scores: Mapping[str, Mapping[str, float]], baselines: Iterable[str], metric: str) -> str:
    """Return the baseline with the best value of a metric, the first of equals.

    Raises
    ------
    ValueError
        None of `baselines` is among the scored methods.
    """
    choose = max if HIGHER_IS_BETTER[metric] else min
    return choose((name for name in baselines if name in scores), key=lambda name: scores[name][metric])


def scaled_scores(
    scores: Mapping[str, Mapping[str, float]], baselines: Iterable[str]
) -> dict[str, dict[str, float]]:
    """Return every method's scores, scaled between the best of some baselines (0) and perfection (1).

    Parameters
    ----------
    scores : mapping of method to mapping of metric to float
    baselines : iterable of str
        Methods to take the best of, for each metric anew; those that were not scored are passed over.

    Returns
    -------
    dict of method to dict of metric to float
        NaN where the baseline is already perfect.
    """
    names = list(baselines)
    out: dict[str, dict[str, float]] = {method: {} for method in scores}
    for metric in next(iter(scores.values())):
        base = scores[best_baseline(scores, names, metric)][metric]
        perfect = 1.0 if HIGHER_IS_BETTER[metric] else 0.0
        for method, row in scores.items():
            way = base - perfect
            out[method][metric] = (base - row[metric]) / way if way else float("nan")
    return out


def noise_ceiling(obs: pd.DataFrame, Y: NDArray[np.float32]) -> float | None:
    """Return the MRRMSE that the true mean response of every pair would have: what replicates leave to be predicted.

    A pair measured r ≥ 2 times is predicted for each replicate by the mean of its other r − 1. With replicates of
    variance s² around a common mean that error has the variance s² (1 + 1/(r − 1)) = s² r/(r − 1), so

        ceiling = 1/R Σ_i √((r_i − 1)/r_i) · √(1/n Σ_j (y_ij − mean of the others_j)²)

    over the R rows of such pairs. A model's MRRMSE on these rows cannot be expected to be lower.

    Parameters
    ----------
    obs : DataFrame, (n_rows,)
        `cell_type` and `sm_name`. Training files must not repeat a pair; files of replicates are read by
        `rapids_pipeline.data.tables.read_responses`.
    Y : ndarray of float32, (n_rows, n_genes)

    Returns
    -------
    float or None
        In the unit of the responses; None where no pair has replicates.
    """
    found = []
    for rows in obs.groupby([obs[name].astype(str) for name in PAIR], sort=True).indices.values():
        r = len(rows)
        if r < 2:
            continue
        values = Y[rows].astype(np.float64)
        others = (values.sum(axis=0) - values) / (r - 1)
        found.append(np.sqrt(((values - others) ** 2).mean(axis=1) * (r - 1) / r))
    return float(np.concatenate(found).mean()) if found else None
