"""What replicates in a truth say of its scores: what a repeated experiment would score, and the noise ceiling.

Rows of one compound in one context are replicates. With y_i row i of a context, c_i what it counts (`weight`, else
`n_cells`, else 1), all per gene:

    ȳ = Σ c_i y_i / Σ c_i                              the response that is scored
    s² = Σ c_i (y_i − ȳ)² / (r − 1)                    the variance of a row that counts 1
    v = s² / Σ c_i                                     the noise of ȳ; s² where rows are scored one by one

**Replicates alone**: every row is scored as the prediction of the mean of its context's other rows.

**The noise ceiling** is the score that the true mean response would have, which no model can be expected to beat:

    RMSE       √(mean v)
    MAE        mean √(2/π) √v / c₄(r)                  noise that is normal; c₄(r) s is unbiased for its deviation
    cosine     √(S / (S + mean v)),  S = max(mean ȳ² − mean s²/Σc, 0)      the share of signal in what is scored
    Pearson    the same of responses less their mean over genes
    Spearman   the same of ranks, which is approximate

Each is a mean over contexts (or over rows, where these are scored) with two rows or more. Means over genes are of those
tested in two rows of the context. A context with no signal has a ceiling a little above 0 for correlations, since S is
never below 0. Noise that replicates share (one plate, the same controls) does not show in their spread, and then the
ceiling looks better than it is.

Sources: Spearman, Correlation calculated from faulty data, Br. J. Psychol. 3 (1910) 271-295 (the share of signal);
Nili et al., PLoS Comput. Biol. 10 (2014) e1003553 and Lage-Castellanos et al., PLoS Comput. Biol. 15 (2019) e1006397
(noise ceilings from replicates); Holtzman, The unbiased estimate of the population variance and standard deviation,
Am. J. Psychol. 63 (1950) 615-617 (c₄).
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy.special import gammaln

from features.rows import contexts_of
from rapids_pipeline.backend.arrays import Float32, Float64, Indices
from rapids_pipeline.data.problem import Replicates, averaged, replicate_counts, without_copies
from rapids_pipeline.data.tables import PerturbationData
from rapids_pipeline.evaluation.metrics import METRICS, average_ranks, mean_of_rows, row_scores, score_all


@dataclass(frozen=True)
class ReplicateScores:
    """Scores by metric, as in `metrics.METRICS`, on the contexts that have replicates.

    Attributes
    ----------
    n_contexts, n_rows : int
        Contexts with two rows or more, and these rows.
    alone : dict of str to float
        Of every row as the prediction of the mean of the others.
    ceiling : dict of str to float
        Of the true mean response.
    prediction : dict of str to float
        Of the prediction, on the same contexts.
    """

    n_contexts: int
    n_rows: int
    alone: dict[str, float]
    ceiling: dict[str, float]
    prediction: dict[str, float]


def as_scored(
    truth: PerturbationData, values: Float32, replicates: Replicates
) -> tuple[PerturbationData, Float32, ReplicateScores | None, list[str]]:
    """Return truth and prediction as they are scored, what replicates say of it, and notes.

    Identical rows count once (`without_copies`), replicates are averaged (`averaged`) unless they are kept.

    Parameters
    ----------
    truth : PerturbationData
        Measured rows, their `obs` as in `replicate_scores`.
    values : ndarray of float32, (n_rows, n_genes)
        A prediction for each row.
    replicates : {"mean", "keep"}

    Raises
    ------
    InputError
        As `replicate_counts`.
    """
    row = "row of the truth"
    truth, notes = without_copies(replace(truth, obs=truth.obs.assign(**{row: np.arange(len(values))})))
    values = values[truth.obs[row]]
    alone = replicate_scores(truth.obs, truth.Y, values, replicates)
    mean = truth if replicates == "keep" else averaged(truth)
    if mean is truth:
        return truth, values, alone, notes
    n, m = len(truth.obs), len(mean.obs)
    notes += [
        f"{n} rows of the truth are replicates of {m} pairs: their means are scored (--replicates keep: the rows)"
    ]
    return mean, averaged(replace(truth, Y=values)).Y, alone, notes


def replicate_scores(
    obs: pd.DataFrame, Y: Float32, predicted: Float32, replicates: Replicates = "mean"
) -> ReplicateScores | None:
    """Return what replicates say of the scores of a prediction; None where no gene has two in any context.

    Parameters
    ----------
    obs : DataFrame, (n_rows,)
        `cell_type`, `sm_name`; where there are any `dose_uM`, `time_h`, and `weight` or `n_cells`.
    Y : ndarray of float32, (n_rows, n_genes)
        Measured responses, NaN where not tested.
    predicted : ndarray of float32, (n_rows, n_genes)
        A prediction for each row; in a context, the mean of its rows' is scored as `averaged` weights it.
    replicates : {"mean", "keep"}
        Whether the mean of a context is scored, or each of its rows.

    Raises
    ------
    InputError
        As `replicate_counts`.
    """
    keep = replicates == "keep"
    found = [rows for rows in _contexts(obs) if (np.isfinite(Y[rows]).sum(axis=0) > 1).any()]
    if not found:
        return None
    counts = np.ones(len(obs)) if keep else replicate_counts(obs)
    alone, ceilings, targets, guesses = [], [], [], []
    for rows in found:
        y, c = Y[rows].astype(np.float64), counts[rows][:, None]
        alone.append(_alone(y, c))
        ceilings += [_ceiling(y, c, keep)] * (len(rows) if keep else 1)
        if not keep:
            y, guess = _mean(y, c)[None], (c * predicted[rows]).sum(axis=0)[None] / c.sum()
        targets.append(y)
        guesses.append(predicted[rows] if keep else guess)
    names = list(METRICS)
    return ReplicateScores(
        n_contexts=len(found),
        n_rows=sum(map(len, found)),
        alone={
            name: mean_of_rows(np.concatenate(of))
            for name, of in zip(names, zip(*alone, strict=True), strict=True)
        },
        ceiling=dict(zip(names, np.nanmean(ceilings, axis=0).tolist(), strict=True)),
        prediction=score_all(np.concatenate(targets), np.concatenate(guesses)),
    )


def _contexts(obs: pd.DataFrame) -> Iterator[Indices]:
    """Yield the rows of every context that has two or more."""
    context = contexts_of(obs)
    order = np.argsort(context, kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(context[order])) + 1):
        if len(rows) > 1:
            yield rows


def _mean(y: Float64, c: Float64) -> Float64:
    """Return ȳ of replicates (r, n) that count (r, 1): (n,), NaN where no row was tested."""
    tested = np.isfinite(y)
    total = (c * tested).sum(axis=0)
    sums = (c * np.where(tested, y, 0)).sum(axis=0)
    mean: Float64 = np.divide(sums, total, out=np.full(y.shape[1], np.nan), where=total > 0)
    return mean


def _alone(y: Float64, c: Float64) -> list[Float64]:
    """Return every metric of each replicate as the prediction of the mean of the others, (r,) each."""
    others = np.stack([_mean(np.delete(y, i, axis=0), np.delete(c, i, axis=0)) for i in range(len(y))])
    others[~np.isfinite(y)] = np.nan
    known = np.isfinite(others).any(axis=1)
    scores = row_scores([*METRICS.values()], others[known], np.nan_to_num(y[known]))
    return [np.asarray(score) for score in scores]


def _ceiling(y: Float64, c: Float64, keep: bool) -> list[float]:
    """Return the ceiling of every metric for a context's replicates (r, n) that count (r, 1)."""
    y = y[:, np.isfinite(y).sum(axis=0) > 1]
    of_mean, r = _noise(y, c)
    noise = of_mean * (c * np.isfinite(y)).sum(axis=0) if keep else of_mean
    c4 = np.sqrt(2 / (r - 1)) * np.exp(gammaln(r / 2) - gammaln((r - 1) / 2))
    ranks = average_ranks(y[:, np.isfinite(y).all(axis=0)])
    return [
        float(np.sqrt(noise.mean())),
        float((np.sqrt(2 / np.pi) * np.sqrt(noise) / c4).mean()),
        _reliability(y, c, keep, centred=True),
        _reliability(ranks, c, keep, centred=True) if ranks.shape[1] > 1 else np.nan,
        _reliability(y, c, keep, centred=False),
    ]


def _noise(y: Float64, c: Float64) -> tuple[Float64, Float64]:
    """Return v of the mean of replicates (r, n), all genes tested twice or more, and in how many rows: (n,) each."""
    tested = np.isfinite(y)
    r = tested.sum(axis=0).astype(np.float64)
    squares = (c * np.where(tested, y - _mean(y, c), 0) ** 2).sum(axis=0)
    return squares / (r - 1) / (c * tested).sum(axis=0), r


def _reliability(y: Float64, c: Float64, keep: bool, *, centred: bool) -> float:
    """Return √(S / (S + mean v)) of replicates (r, n): the correlation of what is scored with its true mean."""
    mean, (of_mean, _) = _mean(y, c), _noise(y, c)
    power = mean.var() if centred else np.mean(mean**2)
    signal = max(float(power - of_mean.mean()), 0.0)
    noise = float((of_mean * (c * np.isfinite(y)).sum(axis=0)).mean() if keep else of_mean.mean())
    return float(np.sqrt(signal / (signal + noise))) if signal > 0 else 0.0
