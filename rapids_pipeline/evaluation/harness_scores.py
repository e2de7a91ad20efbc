"""Discrimination and weighted error as other programs define them, under their names.

y_i is the truth and p_i the prediction of row i, d a distance, and R the rows of a group, which by default are all:

    perturbench_rank_rmse, _cosine     1/R Σ_i #{k ≠ i: d(p_k, y_i) < d(p_i, y_i)} / R            lower is better
    systema_centroid_accuracy          1/R Σ_i #{k ≠ i: ‖p_i − y_k‖ > ‖p_i − y_i‖} / (R − 1)       higher
    cell_eval_discrimination_l1, _l2, _cosine
                                       1/R Σ_i 1 − #{k ≠ i: d(p_i, y_k) < d(p_i, y_i)} / R        higher
    vcpi_wmse                          1/R Σ_i Σ_j w_ij (y_ij − p_ij)² / Σ_j w_ij                  lower

PerturBench and cell-eval break ties at random or by the order of rows; here a tie counts half, what it counts there on
average. Systema counts only what is farther, and so is this one. The weights w of vcpi_wmse are those that Mejia et al.
make of test statistics t of a compound: w_j = ((|t_j| − min|t|) / (max|t| − min|t|))².

Sources: PerturBench, altoslabs/perturbench, commit 4dd6a03c, `analysis/benchmarks/metrics.py` (`rank_helper`, whose
columns are truths). Systema, mlbio-epfl/systema, `evaluation/centroid_accuracy.py`. cell-eval, version 0.8.2,
`metrics/_anndata.py` (`discrimination_score`), which also leaves out the gene that was perturbed: a compound has none.
Weighted error: Mejia et al. (2025), "Diversity by Design", arXiv 2506.22641; the VCPI contest scores active compounds
by it (Agarwal and Bisht, 2026, arXiv 2606.12639).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.spatial.distance import cdist

from rapids_pipeline.backend.arrays import Float32, Float64, Floats
from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.evaluation.metrics import check_shapes

METRICS = {"l1": "cityblock", "l2": "euclidean", "cosine": "cosine"}
HIGHER_IS_BETTER: dict[str, bool] = {
    "perturbench_rank_rmse": False,
    "perturbench_rank_cosine": False,
    "systema_centroid_accuracy": True,
    **{f"cell_eval_discrimination_{distance}": True for distance in METRICS},
    "vcpi_wmse": False,
}
"""The scores by name, in the order in which they are shown, and whether a higher value is better."""


def harness_scores(
    truth: Float32, prediction: Float32, groups: Sequence[Any] | None = None, weights: Floats | None = None
) -> dict[str, float]:
    """Return these scores, by name.

    Parameters
    ----------
    truth, prediction : ndarray, (n_rows, n_genes)
    groups : sequence, (n_rows,), optional
        Rows are ranked among those of the same value, such as those of one cell type. A score is a mean over all rows.
    weights : ndarray, (n_rows, n_genes), optional
        w, at least one a row above 0; without it there is no vcpi_wmse.

    Raises
    ------
    InputError
        Shapes do not fit, a value is not finite, or weights are negative or all 0 in a row.
    """
    check_shapes(truth, prediction)
    y, p = np.asarray(truth, dtype=np.float64), np.asarray(prediction, dtype=np.float64)
    for name, values in (("truth", y), ("prediction", p)):
        if not np.isfinite(values).all():
            row = int(np.flatnonzero(~np.isfinite(values).all(axis=1))[0])
            raise InputError(
                f"{name}: row {row + 1} has a value that is not finite, which these scores cannot rank"
            )
    labels = (
        np.zeros(len(y))
        if groups is None
        else np.unique([str(one) for one in groups], return_inverse=True)[1]
    )
    if len(labels) != len(y):
        raise InputError(f"groups has {len(labels)} values for {len(y)} rows; give one a row")
    rows = {name: np.full(len(y), np.nan) for name in HIGHER_IS_BETTER if name != "vcpi_wmse"}
    for label in np.unique(labels):
        here = np.flatnonzero(labels == label)
        for name, values in _of_group(y[here], p[here]).items():
            rows[name][here] = values
    found = {name: float(values.mean()) for name, values in rows.items()}
    return found if weights is None else found | {"vcpi_wmse": weighted_mse(y, p, weights)}


def _of_group(y: Float64, p: Float64) -> dict[str, Float64]:
    """Return the rank scores of every row among the rows of its group."""
    found, n = {}, len(y)
    for name, metric in METRICS.items():
        with np.errstate(invalid="ignore"):
            d = cdist(p, y, metric)
        d = np.where(np.isnan(d), 1.0, d)  # the cosine of a row of zeros is 0
        own = np.diagonal(d)
        nearer = _counts(d < own[:, None], d == own[:, None])
        found[f"cell_eval_discrimination_{name}"] = 1 - nearer / n
        if name == "l2":
            found["systema_centroid_accuracy"] = (d > own[:, None]).sum(axis=1) / max(n - 1, 1)
        if name != "l1":
            short = "rmse" if name == "l2" else name
            found[f"perturbench_rank_{short}"] = _counts((d < own).T, (d == own).T) / n
    return found


def _counts(less: Any, equal: Any) -> Float64:
    """Return how many of the others are less, a half for those that are equal; a row is equal to itself."""
    return np.asarray(less.sum(axis=1) + (equal.sum(axis=1) - 1) / 2)


def weighted_mse(truth: Floats, prediction: Floats, weights: Floats) -> float:
    """Return 1/R Σ_i Σ_j w_ij (y_ij − p_ij)² / Σ_j w_ij; arguments and errors as `harness_scores`."""
    w = np.asarray(weights, dtype=np.float64)
    if w.shape != truth.shape:
        raise InputError(f"weights have the shape {w.shape}, the truth {truth.shape}: give one a value")
    if not (np.isfinite(w).all() and (w >= 0).all() and (w.sum(axis=1) > 0).all()):
        raise InputError("weights must be finite and not negative, and at least one in a row above 0")
    squares = (np.asarray(truth, dtype=np.float64) - prediction) ** 2
    return float(np.mean((w * squares).sum(axis=1) / w.sum(axis=1)))


def mejia_weights(statistics: Floats) -> Float64:
    """Return ((|t| − min|t|) / (max|t| − min|t|))² of every row of test statistics t, (n_rows, n_genes).

    Rows in which all |t| are equal get 1.
    """
    size = np.abs(np.asarray(statistics, dtype=np.float64))
    low, high = size.min(axis=1, keepdims=True), size.max(axis=1, keepdims=True)
    same = high == low
    return np.where(same, 1.0, (size - low) / np.where(same, 1.0, high - low)) ** 2
