"""The five scores of a prediction, each a mean over rows, as the Open Problems benchmark defines them.

With y_i the truth and p_i the prediction of row i (n genes), r(·) average ranks, and R rows:

    mean_rowwise_rmse      1/R Σ_i √( 1/n Σ_j (y_ij − p_ij)² )               shown as MRRMSE; lower is better
    mean_rowwise_mae       1/R Σ_i 1/n Σ_j |y_ij − p_ij|
    mean_rowwise_pearson   1/R Σ_i cov(y_i, p_i) / (sd(y_i) sd(p_i))           higher is better
    mean_rowwise_spearman  1/R Σ_i pearson(r(y_i), r(p_i))
    mean_rowwise_cosine    1/R Σ_i y_i·p_i / (‖y_i‖ ‖p_i‖)

What all five share, from those scripts:

- A NaN in the prediction counts as 0, with a warning.
- A row whose correlation or cosine is undefined (constant or all-zero row, infinite prediction) counts as 0.
- An infinite prediction makes RMSE and MAE infinite.

A NaN in the truth, an error there, means "not tested" here: sums over genes and n are of the row's tested entries, and
a row without any is left out of the mean (its own score is NaN).

Two differences, neither of which changes a score worth having: an infinite truth is refused here, and the scripts round
the published figures with `zapsmall(·, 10)`, these functions do not. A row counts as constant when its largest value
equals its smallest; proxyC compares a standard deviation that rounding may leave just above 0.

Source: openproblems-bio/task_perturbation_prediction, commit 2fa44462,
`src/metrics/mean_rowwise_error/script.R` and `src/metrics/mean_rowwise_correlation/script.R`.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from rapids_pipeline.backend.arrays import Array, Mask, namespace, to_host
from rapids_pipeline.backend.errors import InputError

RowScore = Callable[[Array, Array], Array]
BLOCK_VALUES = 2**19
"""Values a block of rows holds: bounds the float64 copies, and keeps them in the processor's cache."""


def mean_rowwise_rmse(truth: Array, prediction: Array) -> float:
    """Return 1/R Σ_i √(1/n Σ_j (y_ij − p_ij)²), the score of the task (MRRMSE).

    Parameters
    ----------
    truth, prediction : array of float32 or float64, (n_rows, n_genes)
        Of any array API library, both of the same. Same rows, same genes, in the same order; sums are accumulated
        in float64.

    Returns
    -------
    float
        In the unit of the responses; infinite where a prediction is.

    Raises
    ------
    InputError
        The shapes differ, are not two-dimensional or are empty, or the truth has an infinite value, or NaN only.

    Warns
    -----
    UserWarning
        The prediction has NaN values; each counts as 0.

    Examples
    --------
    >>> truth = np.array([[1.0, 3.0], [0.0, 0.0]])
    >>> prediction = np.array([[1.0, 3.0], [2.0, 2.0]])  # rows with the errors 0 and 2
    >>> mean_rowwise_rmse(truth, prediction)
    1.0
    """
    return mean_of_rows(row_scores([_rmse], truth, prediction)[0])


def rowwise_rmse(truth: Array, prediction: Array) -> Array:
    """Return √(1/n Σ_j (y_ij − p_ij)²) of every row: float64, (n_rows,), of the library of `truth`.

    Arguments, errors and warnings as `mean_rowwise_rmse`.
    """
    return row_scores([_rmse], truth, prediction)[0]


def rowwise_scores(truth: Array, prediction: Array) -> dict[str, Array]:
    """Return every score of `METRICS` of every row, by name and in that order: float64, (n_rows,) each.

    One pass over the rows; arguments, errors and warnings (one, not one a metric) as `mean_rowwise_rmse`.
    """
    return dict(zip(METRICS, row_scores([*METRICS.values()], truth, prediction), strict=True))


def score_all(truth: Array, prediction: Array) -> dict[str, float]:
    """Return every score of `METRICS`, by name and in that order, computed in one pass over the rows.

    Arguments, errors and warnings (one, not one a metric) as `mean_rowwise_rmse`.

    Examples
    --------
    >>> truth = np.array([[1.0, 2.0, 4.0]])
    >>> {name: round(score, 2) for name, score in score_all(truth, truth / 2).items()}  # doctest: +NORMALIZE_WHITESPACE
    {'mean_rowwise_rmse': 1.32, 'mean_rowwise_mae': 1.17,
     'mean_rowwise_pearson': 1.0, 'mean_rowwise_spearman': 1.0, 'mean_rowwise_cosine': 1.0}
    """
    by_metric = row_scores([*METRICS.values()], truth, prediction)
    return {name: mean_of_rows(scores) for name, scores in zip(METRICS, by_metric, strict=True)}


def row_scores(
    scores: Sequence[RowScore], truth: Array, prediction: Array, *, stacklevel: int = 3
) -> list[Array]:
    """Return scores of every row, float64, (n_rows,) each, computed a block of rows at a time.

    Parameters
    ----------
    scores : sequence of callable
        (block of truth, block of predictions) → one score a row, or several, (rows, k); both blocks are float64, the
        truth is finite, the prediction has no NaN. Rows with NaN in the truth are given one by one, their tested
        genes alone; what a score knows of single genes it must then give for these (`OfGenes`).
    truth, prediction : array, (n_rows, n_genes)
    stacklevel : int
        Whose line the warning of NaN predictions names; 3 for the caller of a function that calls this one.

    Raises, Warns
    -------------
    As `mean_rowwise_rmse`.
    """
    check_shapes(truth, prediction)
    xp = namespace(truth, prediction)
    parts: list[list[Array]] = [[] for _ in scores]
    n_missing, any_tested = 0, False
    for rows in blocks(*truth.shape):
        y, p = as_float64(truth[rows, :]), as_float64(prediction[rows, :])
        _refuse_infinite(y, rows.start)
        missing = xp.isnan(p)
        count = int(xp.sum(xp.astype(missing, xp.int64)))
        if count:
            n_missing += count
            p = xp.where(missing, xp.zeros_like(p), p)
        untested = to_host(xp.isnan(y))
        any_tested = any_tested or not untested.all()
        with np.errstate(invalid="ignore", over="ignore", divide="ignore"):  # undefined rows become 0 below
            for part, score in zip(parts, scores, strict=True):
                part.append(_with_gaps(score, y, p, untested) if untested.any() else score(y, p))
    if not any_tested:
        raise InputError("truth: every value is NaN: nothing was tested that a prediction could be scored on")
    if n_missing:
        message = f"{n_missing} predicted value(s) are NaN and are scored as 0"
        warnings.warn(message, UserWarning, stacklevel=stacklevel)
    return [xp.concat(part) for part in parts]


class OfGenes(Protocol):
    """A score of rows that knows something of every gene."""

    def __call__(self, y: Array, p: Array) -> Array:
        """Return one score a row."""

    def of_genes(self, genes: Array) -> RowScore:
        """Return the score for some genes alone."""


def _with_gaps(score: RowScore | OfGenes, y: Array, p: Array, untested: Mask) -> Array:
    """Return the scores of rows, each by its tested genes; NaN for a row without any."""
    xp = namespace(y, p)
    complete = np.flatnonzero(~untested.any(axis=1))
    found: dict[int, Array] = {}
    if len(complete):
        rows = xp.asarray(complete, device=y.device)
        of_rows = score(xp.take(y, rows, axis=0), xp.take(p, rows, axis=0))
        found = {int(row): of_rows[k] for k, row in enumerate(complete)}
    for row in np.flatnonzero(untested.any(axis=1) & ~untested.all(axis=1)).tolist():
        genes = xp.asarray(np.flatnonzero(~untested[row]), device=y.device)
        alone = score.of_genes(genes) if hasattr(score, "of_genes") else score
        found[row] = alone(*(xp.take(values[row : row + 1, :], genes, axis=1) for values in (y, p)))[0]
    if not found:
        found = {0: score(xp.zeros_like(y[:1, :]), xp.zeros_like(p[:1, :]))[0]}  # for its shape
    nothing = xp.full_like(next(iter(found.values())), xp.nan)
    return xp.stack([nothing if untested[row].all() else found[row] for row in range(len(untested))])


def mean_of_rows(scores: Array) -> float:
    """Return the mean over rows of their scores, (n_rows,), rows without tested entries (NaN) left out."""
    found = to_host(scores)
    undefined = np.isnan(found)
    return float((found[~undefined] if undefined.any() else found).mean())


def as_float64(x: Array) -> Array:
    """Return a copy in float64."""
    xp = namespace(x)
    return x.astype(np.float64, order="C") if isinstance(x, np.ndarray) else xp.astype(x, xp.float64)


def blocks(n_rows: int, n_genes: int) -> Iterator[slice]:
    """Return slices of the rows, each of about `BLOCK_VALUES` values and at least one row."""
    step = max(1, BLOCK_VALUES // n_genes)
    return (slice(start, min(start + step, n_rows)) for start in range(0, n_rows, step))


def _rmse(y: Array, p: Array) -> Array:
    xp = namespace(y, p)
    difference = y - p
    return xp.sqrt(xp.vecdot(difference, difference) / y.shape[1])


def _mae(y: Array, p: Array) -> Array:
    xp = namespace(y, p)
    return xp.mean(xp.abs(y - p), axis=1)


def _cosine(y: Array, p: Array) -> Array:
    xp = namespace(y, p)
    lengths = xp.sqrt(xp.vecdot(y, y)) * xp.sqrt(xp.vecdot(p, p))
    return _defined(xp.vecdot(y, p) / lengths)


def pearson_of_rows(y: Array, p: Array) -> Array:
    """Return the correlation of every row, 0 where one of the two is constant."""
    xp = namespace(y, p)
    cosines = _cosine(y - xp.mean(y, axis=1, keepdims=True), p - xp.mean(p, axis=1, keepdims=True))
    # The mean of equal values may be off by a rounding error, so constancy is decided on the values.
    constant = (xp.max(y, axis=1) == xp.min(y, axis=1)) | (xp.max(p, axis=1) == xp.min(p, axis=1))
    return xp.where(constant, xp.zeros_like(cosines), cosines)


def _spearman(y: Array, p: Array) -> Array:
    return pearson_of_rows(average_ranks(y), average_ranks(p))


METRICS: dict[str, RowScore] = {
    "mean_rowwise_rmse": _rmse,
    "mean_rowwise_mae": _mae,
    "mean_rowwise_pearson": pearson_of_rows,
    "mean_rowwise_spearman": _spearman,
    "mean_rowwise_cosine": _cosine,
}
"""What each score is the mean of, under the benchmark's metric ids, in the order in which they are shown."""

HIGHER_IS_BETTER: dict[str, bool] = {name: not name.endswith(("rmse", "mae")) for name in METRICS}
"""Whether a higher value of a score is better."""


def average_ranks(values: Array) -> Array:
    """Return the ranks of every row's values from 1, equal values sharing the mean of their ranks: (n_rows, n)."""
    if isinstance(values, np.ndarray):
        return _ranks_on_numpy(values)
    xp = namespace(values)
    rows = []
    for number in range(values.shape[0]):
        row = values[number, :]
        in_order = xp.sort(row)
        below, up_to = (xp.searchsorted(in_order, row, side=side) for side in ("left", "right"))
        rows.append(xp.astype(below + up_to + 1, xp.float64) / 2)
    return xp.stack(rows)


def _ranks_on_numpy(values: NDArray[Any]) -> NDArray[np.float64]:
    """Return what `average_ranks` does (on NumPy a third of the standard's way's time, half of scipy's)."""
    n_rows, n = values.shape
    order = np.argsort(values, axis=1)
    in_order = np.take_along_axis(values, order, axis=1)
    opens = np.ones((n_rows, n + 1), dtype=bool)  # a run of equal values opens here; one past the end, too
    np.not_equal(in_order[:, 1:], in_order[:, :-1], out=opens[:, 1:n])
    ranks = np.empty(values.shape)
    for row in range(n_rows):
        starts = np.flatnonzero(opens[row])
        ranks[row, order[row]] = np.repeat((starts[:-1] + starts[1:] + 1) / 2, np.diff(starts))
    return ranks


def _defined(scores: Array) -> Array:
    """Return `scores` within [-1, 1] (rounding may step just outside), 0 where a score is not finite."""
    xp = namespace(scores)
    return xp.where(xp.isfinite(scores), xp.clip(scores, -1.0, 1.0), xp.zeros_like(scores))


def check_shapes(truth: Array, prediction: Array) -> None:
    """Raise InputError unless both are (n_rows, n_genes), equal and not empty."""
    if truth.ndim != 2 or truth.shape != prediction.shape or 0 in truth.shape:
        raise InputError(
            f"truth has shape {tuple(truth.shape)} and prediction {tuple(prediction.shape)}; "
            "both must be (n_rows, n_genes), equal and not empty"
        )


def _refuse_infinite(y: Array, first_row: int) -> None:
    xp = namespace(y)
    if not bool(xp.any(xp.isinf(y))):
        return
    found = to_host(y)
    row, gene = np.argwhere(np.isinf(found))[0]
    raise InputError(
        f"truth: row {first_row + row + 1}, gene column {gene + 1} is {found[row, gene]}; "
        "a truth must be finite, or NaN where nothing was tested: drop it"
    )
