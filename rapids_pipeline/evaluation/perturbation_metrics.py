"""Scores that ask whether a prediction knows *this* perturbation, which an average over perturbations does not.

RMSE and correlation reward predicting what most perturbations do. These do not, or less so. y_i is the truth and p_i
the prediction of row i, with n genes, R rows, and m the mean response of the training rows:

    pearson_delta            1/R Σ_i pearson(y_i − m, p_i − m)                                  higher is better
    discrimination_l1, _l2, _cosine
                             1/R Σ_i share of other rows k with d(p_i, y_k) < d(p_i, y_i)       lower; 0.5 is chance
    de_weighted_mse          1/R Σ_i Σ_j w_ij (y_ij − p_ij)² / Σ_j w_ij,  w_ij = |y_ij|        lower
    direction_agreement_K    of the K genes of largest |y_ij|, the share with sign p_ij = sign y_ij     higher
    top_genes_overlap_K      share of those genes that are among the K of largest |p_ij|                higher

In a discrimination, equal distances count half, so one and the same prediction for every row gets 0.5.

What holds for `rapids_pipeline.evaluation.metrics` holds here: a NaN in a prediction counts as 0 with a warning, a NaN
in the truth is a gene that was not tested, an infinite truth is an error, an undefined correlation is 0. With NaN, a
distance to a truth is over its tested genes and divided by their number (l2: its square), the top K of a row are at
most its tested genes, and a row without any is left out. An infinite prediction makes the weighted error
infinite, unless the true response there is 0.

Sources, and what differs there:

- pearson_delta: Viñas Torné et al. (2025, "Systema", mlbio-epfl/systema, commit fe087c9a), whose reference is the mean
  of the perturbations, too. The Pearson delta of Ahlmann-Eltze et al. (2025, Nature Methods) and of cell-eval
  (ArcInstitute/cell-eval, commit cb708765) subtracts the control.
- discrimination: cell-eval's `discrimination_score` (l1 in the Virtual Cell Challenge 2025), where 1 is best: it is
  1 − share·(R − 1)/R, without halves for equals and without the perturbed gene, which a compound has not. A primer of
  the challenge (huggingface.co/blog/virtual-cell-challenge) shows 1 − 2·share. PerturBench (altoslabs/perturbench,
  commit d357dfae, `rank_helper`) has 0 as the best, share·(R − 1)/R within a cell type, but of the other rows'
  *predictions* that are nearer to a row's truth, with equals in random order.
- de_weighted_mse: Mejia et al. (2025, "Diversity by Design", arXiv 2506.22641, shiftbioscience/diversity_by_design,
  commit 24a20c51), there with w = ((|t| − min|t|) / (max|t| − min|t|))², t the scores of a test of one perturbation's
  cells against all others', which a file of responses does not have.
- direction_agreement, top_genes_overlap: cell-eval's `de_direction_match` and overlap at N, there among the genes that
  a test calls significant.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from rapids_pipeline.backend.arrays import Array, Float64, Indices, namespace, to_host
from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.evaluation.metrics import (
    RowScore,
    as_float64,
    blocks,
    check_shapes,
    mean_of_rows,
    pearson_of_rows,
    row_scores,
)

TOP = (50, 100, 200)
DISTANCES = ("l1", "l2", "cosine")
PREDICTIONS = 512
"""Predictions whose distances are held at once."""
ROUNDING = 1e-13
"""Distances that differ by less, relative to the sizes they are computed from, are equal."""
TOP_SCORES = ("direction_agreement", "top_genes_overlap")
HIGHER_IS_BETTER: dict[str, bool] = {
    "pearson_delta": True,
    **{f"discrimination_{distance}": False for distance in DISTANCES},
    "de_weighted_mse": False,
    **{f"direction_agreement_{k}": True for k in TOP},
    **{f"top_genes_overlap_{k}": True for k in TOP},
}
"""The scores by name, in the order in which they are shown, and whether a higher value is better."""


def score_perturbations(
    truth: Array,
    prediction: Array,
    training_mean: Array | None = None,
    groups: Sequence[Any] | None = None,
) -> dict[str, float]:
    """Return all these scores, by name, in the order of `HIGHER_IS_BETTER`.

    Parameters
    ----------
    truth, prediction : array, (n_rows, n_genes)
        Of any array API library, all of the same.
    training_mean : array, (n_genes,), optional
        m, the mean response over training rows; without it there is no pearson_delta.
    groups : sequence, (n_rows,), optional
        Discriminate among rows of the same value only, such as those of one cell type, whose responses are alike.

    Returns
    -------
    dict of str to float
        The weighted error is in the squared unit of the responses. A discrimination is NaN where no row has another
        one in its group; a score of the top K is left out where there are fewer than K genes (chance: K/n).

    Raises
    ------
    InputError
        Shapes do not fit, or the truth or the mean has a value that is not finite.

    Examples
    --------
    Predictions that are too small by half are still nearest to their own truth:

    >>> truth = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    >>> found = score_perturbations(truth, truth / 2)
    >>> found["discrimination_l2"], found["de_weighted_mse"]
    (0.0, 0.25)
    """
    check_shapes(truth, prediction)
    of_rows: dict[str, RowScore] = {"de_weighted_mse": _weighted}
    if training_mean is not None:
        of_rows["pearson_delta"] = _delta_score(truth, prediction, training_mean)
    tops = [k for k in TOP if k <= truth.shape[1]]
    shares = [partial(_top_shares, tops=tops)] if tops else []
    *by_row, last = row_scores([*of_rows.values(), *shares], truth, prediction)
    found = {name: _average(scores) for name, scores in zip(of_rows, [*by_row, last], strict=False)}
    for column, name in enumerate(f"{score}_{k}" for k in tops for score in TOP_SCORES):
        found[name] = _average(last[:, column])
    for distance, score in _discriminations(truth, prediction, groups).items():
        found[f"discrimination_{distance}"] = score
    return {name: found[name] for name in HIGHER_IS_BETTER if name in found}


def _average(scores: Array) -> float:
    return mean_of_rows(scores)


def _delta_score(truth: Array, prediction: Array, training_mean: Array) -> RowScore:
    xp = namespace(truth, prediction, training_mean)
    if tuple(training_mean.shape) != (truth.shape[1],):
        raise InputError(
            f"training_mean has shape {tuple(training_mean.shape)}, expected ({truth.shape[1]},): a value a gene"
        )
    host: NDArray[Any] = to_host(training_mean)
    bad = np.flatnonzero(~np.isfinite(host))
    if len(bad):
        raise InputError(f"training_mean: gene {bad[0] + 1} is {host[bad[0]]}; it must be finite")
    mean = as_float64(training_mean)
    floating = xp.isdtype(prediction.dtype, "real floating")
    epsilon = float(xp.finfo(prediction.dtype).eps) if floating else 0.0
    return _PearsonDelta(mean, epsilon * xp.abs(mean))


@dataclass(frozen=True, eq=False)
class _PearsonDelta:
    """The correlation of every row's deviations; a predicted one within the rounding counts as none.

    The rounding is that of the prediction's own dtype, ε |m_j|: the mean written as float32 is still the mean.
    """

    mean: Array
    rounding: Array

    def __call__(self, y: Array, p: Array) -> Array:
        xp = namespace(y, p)
        predicted = p - self.mean
        predicted = xp.where(xp.abs(predicted) <= self.rounding, xp.zeros_like(predicted), predicted)
        return pearson_of_rows(y - self.mean, predicted)

    def of_genes(self, genes: Array) -> "_PearsonDelta":
        xp = namespace(self.mean)
        return _PearsonDelta(xp.take(self.mean, genes), xp.take(self.rounding, genes))


def _weighted(y: Array, p: Array) -> Array:
    """Return the weighted error of every row, the plain mean square of one without any response."""
    xp = namespace(y, p)
    weight = xp.abs(y)
    total = xp.sum(weight, axis=1)
    difference = y - p
    silent = total == 0
    safe = xp.where(silent, xp.ones_like(total), total)
    plain = xp.vecdot(difference, difference) / y.shape[1]
    difference = xp.where(weight > 0, difference, xp.zeros_like(difference))  # 0 × ∞ is 0 here
    return xp.where(silent, plain, xp.vecdot(weight * difference, difference) / safe)


def _top_shares(y: Array, p: Array, tops: Sequence[int]) -> Array:
    """Return the shares of `TOP_SCORES` for every k of `tops`, ascending, side by side: (n_rows, 2 n_tops)."""
    xp = namespace(y, p)
    tops = [min(k, y.shape[1]) for k in tops]  # fewer genes may be tested in a row
    of_truth, of_prediction = _top(y, tops[-1]), _top(p, tops[-1])
    shares = []
    for k in tops:
        shares += [_direction(y, p, of_truth[:, :k]), _overlap(of_truth[:, :k], of_prediction[:, :k])]
    return xp.stack(shares, axis=1)


def _direction(y: Array, p: Array, top: Array) -> Array:
    """Return every row's share of the genes `top`, (n_rows, k), whose predicted sign is right; 0 is no sign."""
    xp = namespace(y, p)
    shares = []
    for i in range(y.shape[0]):
        signs = (xp.sign(xp.take(values[i, :], top[i, :])) for values in (y, p))
        shares.append(xp.mean(xp.astype(xp.equal(*signs), xp.float64)))
    return xp.stack(shares)


def _overlap(of_truth: Array, of_prediction: Array) -> Array:
    xp = namespace(of_truth, of_prediction)
    shares = []
    for i in range(of_truth.shape[0]):
        both = of_truth[i, :][:, None] == of_prediction[i, :][None, :]
        shares.append(xp.sum(xp.astype(both, xp.float64)) / of_truth.shape[1])
    return xp.stack(shares)


def _top(values: Array, k: int) -> Array:
    """Return the positions of the k largest |values| of every row, largest first, the first of equals, (n_rows, k)."""
    xp = namespace(values)
    size = xp.abs(values)
    if not isinstance(values, np.ndarray):
        return xp.argsort(size, axis=1, descending=True, stable=True)[:, :k]
    if k == size.shape[1]:
        return np.argsort(-size, axis=1, kind="stable")
    top = np.sort(np.argpartition(-size, k - 1, axis=1)[:, :k], axis=1)
    largest = np.take_along_axis(size, top, axis=1)
    tied = np.flatnonzero((size >= largest.min(axis=1, keepdims=True)).sum(axis=1) > k)
    top = np.take_along_axis(top, np.argsort(-largest, axis=1, kind="stable"), axis=1)
    top[tied] = np.argsort(-size[tied], axis=1, kind="stable")[
        :, :k
    ]  # which of the equals came in was left to chance
    return top


def _discriminations(truth: Array, prediction: Array, groups: Sequence[Any] | None) -> dict[str, float]:
    """Return the mean share of other rows whose truth is nearer to a row's prediction, by kind of distance.

    0: every prediction is nearest to its own truth. The arrays are taken as checked.
    """
    xp = namespace(truth, prediction)
    labels = _labels(groups, truth.shape[0])
    labels = np.where(to_host(xp.all(xp.isnan(truth), axis=1)), -1, labels)
    shares: dict[str, list[Float64]] = {kind: [np.empty(0)] for kind in DISTANCES}
    for label in range(labels.max() + 1):
        members = np.flatnonzero(labels == label)
        if len(members) < 2:
            continue
        rows = xp.asarray(members, device=truth.device)
        for start in range(0, len(members), PREDICTIONS):
            chosen = slice(start, min(start + PREDICTIONS, len(members)))
            with np.errstate(invalid="ignore", over="ignore", divide="ignore"):  # undefined: as near to all
                for kind, (d, slack) in _distances(prediction, truth, rows, chosen).items():
                    shares[kind].append(to_host(_shares(d, slack, start)))
    found = {kind: np.concatenate(parts) for kind, parts in shares.items()}
    return {kind: float(values.mean()) if len(values) else float("nan") for kind, values in found.items()}


def _shares(d: Array, slack: Array, start: int) -> Array:
    """Return, of every prediction, the share of other truths that are nearer than its own, a half for equals.

    d is (n_predictions, n_truths), the first prediction's own truth in column `start`; distances within `slack` of each
    other are equal, and so are undefined ones, since a comparison with NaN is false.
    """
    xp = namespace(d)
    own = xp.linalg.diagonal(d[:, start : start + d.shape[0]])[:, None]
    nearer = xp.astype(d < own - slack, xp.float64) - xp.astype(d > own + slack, xp.float64)
    return 0.5 + xp.sum(nearer, axis=1) / (2 * (d.shape[1] - 1))


def _distances(prediction: Array, truth: Array, rows: Array, chosen: slice) -> dict[str, tuple[Array, Array]]:
    """Return how far rows[chosen] of `prediction` are from `rows` of `truth`, and what rounding may add.

    By kind, (n_chosen, n_rows) float64: l1, Σ_j |p_j − y_j|; l2, Σ_j (p_j − y_j)², which has the order of its root;
    cosine, 1 − p·y/(‖p‖‖y‖), 1 where one of the two is 0. Sums are accumulated a block of genes at a time. Where any
    truth has NaN, all are over its tested genes, l1 and l2 divided by their number.
    """
    xp = namespace(prediction, truth)
    l1, products, of_truth, of_prediction, tested = (0.0,) * 5
    gaps = bool(xp.any(xp.isnan(truth)))
    for genes in blocks(truth.shape[1], rows.shape[0]):
        y = as_float64(xp.take(truth[:, genes], rows, axis=0))
        p = as_float64(xp.take(prediction[:, genes], rows[chosen], axis=0))
        p = xp.where(xp.isnan(p), xp.zeros_like(p), p)
        own = xp.vecdot(p, p)[:, None]
        if gaps:
            there = xp.matrix_transpose(xp.astype(~xp.isnan(y), xp.float64))  # (genes, rows)
            y = xp.where(xp.isnan(y), xp.zeros_like(y), y)
            tested, own = tested + xp.sum(there, axis=0)[None, :], (p * p) @ there
            l1 = l1 - xp.abs(p) @ (1.0 - there)
        l1 = l1 + _manhattan(p, y)
        products = products + p @ xp.matrix_transpose(y)
        of_truth = of_truth + xp.vecdot(y, y)[None, :]
        of_prediction = of_prediction + own
    if gaps:
        l1, products, of_truth, of_prediction = (
            total / tested for total in (l1, products, of_truth, of_prediction)
        )
    sizes = of_prediction + of_truth
    lengths = xp.sqrt(of_prediction) * xp.sqrt(of_truth)
    cosines = xp.where(lengths > 0, products / lengths, xp.zeros_like(lengths))
    return {
        "l1": (l1, ROUNDING * l1),
        "l2": (sizes - 2 * products, ROUNDING * sizes),
        "cosine": (1 - cosines, xp.full_like(cosines, ROUNDING)),
    }


def _manhattan(p: Array, y: Array) -> Array:
    """Return Σ_j |p_ij − y_kj|, (len(p), len(y))."""
    if isinstance(p, np.ndarray):
        return cdist(p, y, "cityblock")
    xp = namespace(p, y)
    return xp.stack([xp.sum(xp.abs(p[i, :][None, :] - y), axis=1) for i in range(p.shape[0])])


def _labels(groups: Sequence[Any] | None, n_rows: int) -> Indices:
    if groups is None:
        return np.zeros(n_rows, dtype=np.intp)
    if len(groups) != n_rows:
        raise InputError(f"groups has {len(groups)} values for {n_rows} rows; give one a row")
    return np.asarray(np.unique([str(value) for value in groups], return_inverse=True)[1], dtype=np.intp)
