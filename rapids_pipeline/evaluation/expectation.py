"""What error to expect on the pairs to predict, from the errors of held-out rows: the regression estimator.

Held-out rows and the pairs to predict are rarely alike: compounds measured everywhere may be the strong ones, and a
row's error grows with its response. How strong a response will be is known in part beforehand, from the same
compound in other cell types and from other compounds in the same cell type:

    log a_i = μ + u_cell(i) + v_compound(i) + noise,   a_i = √(mean over genes of y_ij²)         (training rows)
    s_i     = exp(μ + u_cell(i) + v_compound(i))                                                  strength of a pair

With e_i the error (RMSE) of held-out row i, s_i its strength by the rows it was predicted from, and s̄ the mean
strength of the pairs to predict by all training rows,

    expected error = mean(e) + b (s̄ − mean(s)),   b the least-squares slope of e on s

Least squares with a penalty of 1 on every u² and v²: n rows of a compound count n/(n + 1), and an unseen compound or
cell type has the effect 0. Source: Cochran, Sampling Techniques (1977), chapter 7 (linear regression estimator).
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.sparse import coo_array, diags_array
from scipy.sparse.linalg import spsolve

from rapids_pipeline.backend.arrays import Float32, Float64, Labels

LEAST_ROWS = 10
"""Held-out rows below which no slope is fitted: it would be noise."""


@dataclass(frozen=True)
class Expectation:
    """The error to expect on the pairs to predict.

    Attributes
    ----------
    error, low, high : float
        Expected mean error (MRRMSE), in the unit of the responses, with a percentile interval over replicates.
    held_out : float
        Mean error of the held-out rows as they are.
    slope : float
        b: how much a row's error grows with its strength.
    strength, held_out_strength : float
        Mean strength of the pairs to predict and of the held-out rows.
    outside : float
        Share of the pairs whose strength is above or below that of every held-out row: there b is extrapolated.
    """

    error: float
    low: float
    high: float
    held_out: float
    slope: float
    strength: float
    held_out_strength: float
    outside: float

    def to_json(self) -> dict[str, Any]:
        """Return the fields as a dict that `json.dumps` takes."""
        return asdict(self)


def strengths(obs: pd.DataFrame, Y: Float32, pairs: pd.DataFrame) -> Float64:
    """Return s of every pair, from training rows.

    Parameters
    ----------
    obs : DataFrame, (n,)
        `cell_type` and `sm_name` of the training rows.
    Y : ndarray of float32, (n, t)
        Their responses.
    pairs : DataFrame, (m,)
        `cell_type` and `sm_name`.

    Returns
    -------
    ndarray of float64, (m,)
        In the unit of the responses; positive.
    """
    size = np.sqrt(np.einsum("ij,ij->i", Y, Y, dtype=np.float64) / Y.shape[1])
    logs = np.log(np.maximum(size, np.finfo(np.float32).tiny))
    levels = [np.unique(obs[column].to_numpy(str)) for column in ("cell_type", "sm_name")]
    design, mean = _design(obs, levels), logs.mean()
    normal = design.T @ design + diags_array(np.ones(design.shape[1]))
    effects = spsolve(normal.tocsc(), design.T @ (logs - mean))
    return np.asarray(np.exp(mean + _design(pairs, levels) @ effects), dtype=np.float64)


def expected_error(errors: Float64, strength: Float64, task: Float64, weights: Float64) -> Expectation:
    """Return the error to expect on pairs of the strengths `task`.

    Parameters
    ----------
    errors, strength : ndarray of float64, (n,)
        Of the held-out rows, each strength by the rows it was predicted from.
    task : ndarray of float64, (m,)
        Strengths of the pairs to predict.
    weights : ndarray of float64, (n_replicates, n)
        How often each held-out row is drawn in each bootstrap replicate.
    """
    everything = np.ones((1, len(errors)))
    [error], [slope] = _estimates(errors, strength, task, everything)
    replicates, _ = _estimates(errors, strength, task, weights)
    low, high = np.quantile(replicates, (0.025, 0.975))
    outside = (task < strength.min()) | (task > strength.max())
    return Expectation(
        float(error),
        float(low),
        float(high),
        float(errors.mean()),
        float(slope),
        float(task.mean()),
        float(strength.mean()),
        float(outside.mean()),
    )


def _estimates(
    errors: Float64, strength: Float64, task: Float64, weights: Float64
) -> tuple[Float64, Float64]:
    """Return the estimate and the slope of every replicate, (n_replicates,) each; slope 0 where it is undefined."""
    total = weights.sum(axis=1)
    mean_error, mean_strength = weights @ errors / total, weights @ strength / total
    centred = strength[None, :] - mean_strength[:, None]
    spread = (weights * centred**2).sum(axis=1)
    product = (weights * centred * errors[None, :]).sum(axis=1)
    usable = (spread > 1e-12 * np.maximum(mean_strength, 1.0) ** 2 * total) & (len(errors) >= LEAST_ROWS)
    slope = np.divide(product, spread, out=np.zeros_like(product), where=usable)
    return mean_error + slope * (task.mean() - mean_strength), slope


def _design(pairs: pd.DataFrame, levels: list[Labels]) -> Any:
    """Return the indicator columns of the levels, all cell types, then all compounds; none for an unseen level."""
    rows, columns, first = [], [], 0
    for column, known in zip(("cell_type", "sm_name"), levels, strict=True):
        found = pd.Index(known).get_indexer(pd.Index(pairs[column].to_numpy(str)))
        present = np.flatnonzero(found >= 0)
        rows.append(present)
        columns.append(found[present] + first)
        first += len(known)
    at = np.concatenate(rows), np.concatenate(columns)
    return coo_array((np.ones(len(at[0])), at), shape=(len(pairs), first)).tocsr()
