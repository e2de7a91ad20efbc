"""How sure a difference between two candidates is: a paired bootstrap over folds and what they hold.

A candidate's score is a function of one loss q_i per row, the mean over repeats of

    one gene        e_i²                           score sqrt(mean_i q_i)      RMSE
    several genes   sqrt(mean over genes of e²)    score mean_i q_i            MRRMSE

A replicate draws as many folds as there are, with replacement, and within each drawn fold as many units (rows, or
whole compounds where folds are made of compounds) as it has, with replacement. All candidates are scored on the same
draws, so differences are paired. Rows of a fold share the models that predicted them and, with several genes, a row's
genes share everything: neither is taken for independent evidence. With repeats, replicates take turns with the
repeats' folds. Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), sections 8 and 13 (percentile
interval).
"""

from dataclasses import dataclass

import numpy as np

from rapids_pipeline.backend.arrays import Float64, Indices

LEVEL = 0.95
REPLICATES = 2000


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
