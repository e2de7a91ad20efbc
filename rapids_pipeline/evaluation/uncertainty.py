"""How sure a difference between two candidates is, and what error to expect on the pairs to predict.

A paired bootstrap over folds and what they hold. A candidate's score is a function of one loss q_i per row, the mean
over repeats of

    one gene        e_i²                           score sqrt(mean_i q_i)      RMSE
    several genes   sqrt(mean over genes of e²)    score mean_i q_i            MRRMSE

A replicate draws as many folds as there are, with replacement, and within each drawn fold as many units (rows, or
whole compounds where folds are made of compounds) as it has, with replacement. All candidates are scored on the same
draws, so differences are paired. Rows of a fold share the models that predicted them and, with several genes, a row's
genes share everything: neither is taken for independent evidence. With repeats, replicates take turns with the
repeats' folds. Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), sections 8 and 13 (percentile
interval).

The regression estimator. Held-out rows and the pairs to predict are rarely alike: compounds measured everywhere may be
the strong ones, and a row's error grows with its response. How strong a response will be is known in part beforehand,
from the same compound in other cell types and from other compounds in the same cell type:

    log a_i = μ + u_cell(i) + v_compound(i) + noise,   a_i = √(mean over genes of y_ij²)         (training rows)
    s_i     = exp(μ + u_cell(i) + v_compound(i))                                                  strength of a pair

With e_i the error (RMSE) of held-out row i, s_i its strength by the rows it was predicted from, and s̄ the mean
strength of the pairs to predict by all training rows,

    expected error = mean(e) + b (s̄ − mean(s)),   b the least-squares slope of e on s

Least squares with a penalty of 1 on every u² and v²: n rows of a compound count n/(n + 1), and an unseen compound or
cell type has the effect 0. Source: Cochran, Sampling Techniques (1977), chapter 7 (linear regression estimator).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.sparse import coo_array, diags_array
from scipy.sparse.linalg import spsolve

from features.rows import places
from rapids_pipeline.backend.arrays import Float32, Float64, Indices, Labels
from rapids_pipeline.data.untested import has_gaps

LEVEL = 0.95
REPLICATES = 2000
LEAST_ROWS = 10
"""Held-out rows below which no slope is fitted: it would be noise."""


@dataclass(frozen=True)
class Intervals:
    """Scores of k candidates and their differences from a reference, each with its interval; arrays of (k,)."""

    score: Float64
    score_low: Float64
    score_high: Float64
    difference: Float64
    difference_low: Float64
    difference_high: Float64


def row_losses(row_mse: Float64, one_gene: bool) -> Float64:
    """Return q, (n,), of row-wise mean squared errors over genes, (repeats, n); NaN for rows never held out."""
    losses = row_mse if one_gene else np.sqrt(row_mse)
    held_out = np.isfinite(losses)
    counts = held_out.sum(axis=0)
    with np.errstate(invalid="ignore"):
        return np.where(counts > 0, np.where(held_out, losses, 0.0).sum(axis=0) / counts, np.nan)


def replicate_weights(
    folds: Indices, units: Indices, n_replicates: int = REPLICATES, seed: int = 0
) -> Float64:
    """Return how often each row is drawn in each replicate, (n_replicates, n).

    Parameters
    ----------
    folds : ndarray of int, (repeats, n)
        The split that held a row out; −1 for none.
    units : ndarray of int, (n,)
        Rows of the same number are drawn together.
    """
    rng = np.random.default_rng(seed)
    weights = np.zeros((n_replicates, folds.shape[1]))
    drawn = [_units_by_fold(row, units) for row in folds]
    for replicate, weight in enumerate(weights):
        parts = drawn[replicate % len(drawn)]
        times = rng.multinomial(len(parts), np.full(len(parts), 1 / len(parts)))
        for (rows, unit_of_row, n_units), count in zip(parts, times, strict=True):
            if count:
                draws = rng.multinomial(count * n_units, np.full(n_units, 1 / n_units))
                weight[rows] = draws[unit_of_row]
    return weights


def _units_by_fold(folds: Indices, units: Indices) -> list[tuple[Indices, Indices, int]]:
    """Return rows, the unit of each (0, 1, …), and the number of units of every fold."""
    parts = []
    for fold in np.unique(folds[folds >= 0]):
        rows = np.flatnonzero(folds == fold)
        names, unit_of_row = np.unique(units[rows], return_inverse=True)
        parts.append((rows, unit_of_row, len(names)))
    return parts


def paired_intervals(
    losses: Float64, reference: int, weights: Float64, one_gene: bool, level: float = LEVEL
) -> Intervals:
    """Return scores, differences from the reference and percentile intervals.

    Parameters
    ----------
    losses : ndarray of float64, (k, n)
        `row_losses` of every candidate; NaN for rows that were never held out, the same ones for all.
    reference : int
        Position of the candidate that differences are taken from.
    weights : ndarray of float64, (n_replicates, n)
        Of `replicate_weights`.
    one_gene : bool
    level : float
    """
    known = np.isfinite(losses[reference])
    losses, weights = losses[:, known], weights[:, known]
    observed = _scores(losses, np.ones((1, losses.shape[1])), one_gene)[:, 0]
    replicates = _scores(losses, weights, one_gene)
    differences = replicates - replicates[reference]
    tails = (1 - level) / 2, (1 + level) / 2
    low, high = np.quantile(replicates, tails, axis=1)
    difference_low, difference_high = np.quantile(differences, tails, axis=1)
    return Intervals(observed, low, high, observed - observed[reference], difference_low, difference_high)


def _scores(losses: Float64, weights: Float64, one_gene: bool) -> Float64:
    """Return the score of every candidate in every replicate, (k, n_replicates)."""
    means = (losses @ weights.T) / weights.sum(axis=1)
    return np.asarray(np.sqrt(means) if one_gene else means)


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


def strengths(obs: pd.DataFrame, Y: Float32, pairs: pd.DataFrame) -> Float64:
    """Return s of every pair, from training rows.

    Parameters
    ----------
    obs : DataFrame, (n,)
        `cell_type` and `sm_name` of the training rows.
    Y : ndarray of float32, (n, t)
        Their responses; a mean over genes is over those that were tested.
    pairs : DataFrame, (m,)
        `cell_type` and `sm_name`.

    Returns
    -------
    ndarray of float64, (m,)
        In the unit of the responses; positive.
    """
    known = np.nan_to_num(Y, nan=0.0) if has_gaps(Y) else Y  # untested entries add nothing
    counts = np.maximum(np.isfinite(Y).sum(axis=1), 1)
    size = np.sqrt(np.einsum("ij,ij->i", known, known, dtype=np.float64) / counts)
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
    means = errors.mean(), slope, task.mean(), strength.mean(), outside.mean()
    return Expectation(*map(float, (error, low, high, *means)))


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
        found = places(pairs[column].to_numpy(str), known)
        present = np.flatnonzero(found >= 0)
        rows.append(present)
        columns.append(found[present] + first)
        first += len(known)
    at = np.concatenate(rows), np.concatenate(columns)
    return coo_array((np.ones(len(at[0])), at), shape=(len(pairs), first)).tocsr()
