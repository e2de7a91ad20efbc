"""What a cross-validation found: scores of every method with intervals, and the error to expect on the pairs."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rapids_pipeline.evaluation.expectation import Expectation, expected_error
from rapids_pipeline.evaluation.intervals import paired_intervals, replicate_weights, row_losses
from rapids_pipeline.evaluation.metrics import METRICS
from rapids_pipeline.evaluation.splits import Split
from rapids_pipeline.studies.fits import PIPELINE, HeldOut

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Method:
    """Scores of one method over all rows that were held out.

    Attributes
    ----------
    name : str
    baseline : bool
        Whether it is a baseline, otherwise the pipeline or one of its members.
    scores : dict of metric to float
        Means over rows; a row held out in several repeats counts once, by its mean.
    low, high : float
        95 % bootstrap interval of the MRRMSE.
    difference, difference_low, difference_high : float
        MRRMSE minus the pipeline's, with its interval.
    expected : Expectation or None
        The MRRMSE to expect on the pairs to predict; None where the split is not like them.
    """

    name: str
    baseline: bool
    scores: dict[str, float]
    low: float
    high: float
    difference: float
    difference_low: float
    difference_high: float
    expected: Expectation | None


@dataclass(frozen=True)
class CrossValidation:
    """A finished cross-validation.

    Attributes
    ----------
    methods : list of Method
        The pipeline first, its members, then the baselines.
    by_split : list of dict
        Name, rows trained on and held out, the pipeline's MRRMSE and that of the best baseline, of every split.
    split, split_in_words, reason : str
        The split by name, in words, and why it was taken.
    settings : dict
        Folds, repeats, seed, recipe and the like.
    n_rows, n_genes : int
        Rows that were held out at least once, and genes.
    audit : dict
        Of `rapids_pipeline.evaluation.audit`, as JSON.
    audit_rows : list of (what, held-out rows, pairs to predict)
    notes : list of str
        What a reader of the scores must know; warnings first.
    provenance : dict
    """

    methods: list[Method]
    by_split: list[dict[str, Any]]
    split: str
    split_in_words: str
    reason: str
    settings: dict[str, Any]
    n_rows: int
    n_genes: int
    audit: dict[str, Any] = field(default_factory=dict)
    audit_rows: list[tuple[str, str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    provenance: dict[str, Any] = field(default_factory=dict)

    @property
    def pipeline(self) -> Method:
        """The whole recipe."""
        return self.methods[0]

    @property
    def best_baseline(self) -> Method:
        """The baseline of the lowest MRRMSE."""
        return min(
            (one for one in self.methods if one.baseline), key=lambda one: one.scores["mean_rowwise_rmse"]
        )

    def to_json(self) -> dict[str, Any]:
        """Return the fields as a dict that `json.dumps` takes."""
        return asdict(self)


@dataclass(frozen=True, eq=False)
class RowScores:
    """Scores of all n rows in all repeats, NaN where a repeat did not hold the row out.

    Attributes
    ----------
    scores : dict of method to ndarray of float64, (n_metrics, repeats, n)
    strength : ndarray of float64, (repeats, n)
    folds : ndarray of int, (repeats, n)
        The split that held a row out; −1 for none.
    """

    scores: dict[str, Floats]
    strength: Floats
    folds: NDArray[np.intp]

    @classmethod
    def of(
        cls, n: int, repeats: Sequence[Sequence[Split]], found: Sequence[Sequence[HeldOut]]
    ) -> "RowScores":
        """Put together what the splits of every repeat found, for n rows."""
        shape = (len(repeats), n)
        scores = {name: np.full((len(METRICS), *shape), np.nan) for name in found[0][0].scores}
        strength, folds = np.full(shape, np.nan), np.full(shape, -1, dtype=np.intp)
        for repeat, (splits, parts) in enumerate(zip(repeats, found, strict=True)):
            for number, (split, part) in enumerate(zip(splits, parts, strict=True)):
                for name, values in part.scores.items():
                    scores[name][:, repeat, split.held_out] = values
                strength[repeat, split.held_out], folds[repeat, split.held_out] = part.strength, number
        return cls(scores, strength, folds)


def methods_of(
    rows: RowScores, baselines: Sequence[str], units: NDArray[np.intp], task: Floats | None, seed: int
) -> list[Method]:
    """Return every method's scores and intervals.

    Parameters
    ----------
    rows : RowScores
    baselines : sequence of str
        Names of the methods that are baselines.
    units : ndarray of int, (n,)
        Rows of the same number are resampled together.
    task : ndarray of float64, (m,), optional
        Strengths of the pairs to predict.
    seed : int
        Of the bootstrap.
    """
    means = {name: np.stack([_mean(one) for one in scores]) for name, scores in rows.scores.items()}
    names = list(means)
    losses = np.stack([means[name][0] for name in names])
    weights = replicate_weights(rows.folds, units, seed=seed)
    found = paired_intervals(losses, names.index(PIPELINE), weights, one_gene=False)
    known = np.isfinite(losses[0])
    strength = _mean(rows.strength)[known]
    methods = []
    for k, name in enumerate(names):
        expected = None
        if task is not None:
            expected = expected_error(losses[k, known], strength, task, weights[:, known])
        methods.append(
            Method(
                name=name,
                baseline=name in baselines,
                scores={m: float(v[known].mean()) for m, v in zip(METRICS, means[name], strict=True)},
                low=float(found.score_low[k]),
                high=float(found.score_high[k]),
                difference=float(found.difference[k]),
                difference_low=float(found.difference_low[k]),
                difference_high=float(found.difference_high[k]),
                expected=expected,
            )
        )
    return methods


def split_rows(
    repeats: Sequence[Sequence[Split]], found: Sequence[Sequence[HeldOut]], baselines: Sequence[str]
) -> list[dict[str, Any]]:
    """Return what there is to say of every split."""
    rows = []
    for repeat, (splits, parts) in enumerate(zip(repeats, found, strict=True), start=1):
        for split, part in zip(splits, parts, strict=True):
            mean = {name: float(scores[0].mean()) for name, scores in part.scores.items()}
            best = min(baselines, key=lambda name: mean[name])
            rows.append(
                {
                    "repeat": repeat,
                    "split": split.name,
                    "trained_on": len(split.training),
                    "held_out": len(split.held_out),
                    "pipeline": mean[PIPELINE],
                    "best_baseline": best,
                    "best_baseline_score": mean[best],
                }
            )
    return rows


def mean_predictions(
    n: int, repeats: Sequence[Sequence[Split]], found: Sequence[Sequence[HeldOut]]
) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """Return the rows that were held out, in order, and their predictions, the mean over repeats: (k,), (k, t)."""
    total = np.zeros((n, found[0][0].predicted.shape[1]), dtype=np.float32)
    times = np.zeros(n, dtype=np.intp)
    for splits, parts in zip(repeats, found, strict=True):
        for split, part in zip(splits, parts, strict=True):
            total[split.held_out] += part.predicted
            times[split.held_out] += 1
    rows = np.flatnonzero(times)
    return rows, np.divide(total[rows], times[rows, None], dtype=np.float32)


def _mean(values: Floats) -> Floats:
    """Return the mean over repeats, (n,), NaN for rows that were never held out."""
    return row_losses(values, one_gene=True)
