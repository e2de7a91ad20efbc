"""What every boosting engine is told and gives back, and when it stops early."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rapids_pipeline.backend.devices import DeviceName
from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.boosting.trees import TreeEnsemble

Floats = NDArray[np.float32]
Weights = NDArray[np.float64]
"""Weights of rows, all finite and above 0; rows without weight are left out before an engine sees them."""
Listener = Callable[[int, float | None], None]
"""Called after every tree with how many there are and, with a validation set, its RMSE."""

LEAST_WEIGHT = 1e-20
"""A row that weighs less than this share of the heaviest counts as one without weight."""
LEAST_LAMBDA, MOST_LAMBDA = 1e-30, 1e15
"""λ in units of the largest weight is 0 below the one and cut off at the other, so float32 holds it and its square."""


@dataclass(frozen=True)
class Settings:
    """The parameters of a fit; they mean the same in every engine (see `MultiOutputBooster`)."""

    n_estimators: int
    learning_rate: float
    max_depth: int
    min_samples_leaf: int
    colsample: float
    subsample: float
    reg_lambda: float
    max_bins: int
    early_stopping_rounds: int | None
    seed: int
    device: DeviceName
    n_jobs: int


@dataclass(frozen=True)
class Trained:
    """The trees, and the validation RMSE after 1, 2, … of all trees that were grown (empty without a set)."""

    model: TreeEnsemble
    validation_scores: list[float]


def checked_weights(given: ArrayLike, n_rows: int) -> Weights:
    """Return the weights of `n_rows` rows, those that vanish beside the largest as 0; InputError for none."""
    try:
        weights = np.array(given, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError("sample_weight must be numbers, one for every row") from error
    if weights.shape != (n_rows,):
        raise InputError(f"sample_weight must be ({n_rows},), one number for every row, not {weights.shape}")
    if not (np.isfinite(weights) & (weights >= 0)).all():
        row = int(np.flatnonzero(~(np.isfinite(weights) & (weights >= 0)))[0])
        raise InputError(
            f"sample_weight must be finite and at least 0, not {weights[row]} (row {row}, from 0)"
        )
    if not weights.any():
        raise InputError("sample_weight is zero for every row: there is nothing to learn from")
    return np.where(weights > LEAST_WEIGHT * weights.max(), weights, 0.0)


def in_units_of_the_largest(
    weights: Weights | None, settings: Settings
) -> tuple[Weights | None, Settings, int]:
    """Divide weights and λ by the power of two that brings the largest weight to [1, 2); return its exponent, too."""
    if weights is None:
        return None, settings, 0
    exponent = int(np.frexp(weights.max())[1]) - 1
    reg_lambda = settings.reg_lambda
    if exponent:
        reg_lambda = min(float(np.ldexp(reg_lambda, -exponent)), MOST_LAMBDA)
        reg_lambda = reg_lambda if reg_lambda >= LEAST_LAMBDA else 0.0
    return np.ldexp(weights, -exponent), replace(settings, reg_lambda=reg_lambda), exponent


def rescaled(gain: Floats, exponent: int) -> Floats:
    """Return gain · 2^exponent, float32, at most the largest there is."""
    return np.ldexp(gain.astype(np.float64), exponent).clip(max=np.finfo(np.float32).max).astype(np.float32)


def weighted_mean(Y: Floats, weights: Weights | None) -> Floats:
    """Return Σ w y / Σ w of every column, summed in float64; equal weights give the very bits of no weights."""
    if weights is None or weights.min() == weights.max():
        mean = Y.mean(axis=0, dtype=np.float64)
    else:
        share = (weights / weights.max())[:, None]
        mean = np.sum(share * Y.astype(np.float64), axis=0) / share.sum()
    return np.asarray(mean, dtype=np.float32)


@dataclass
class Watch:
    """Follows a fit: tells the listener, remembers validation scores and says when to stop.

    The score is the root mean square error over all entries of the validation targets.
    """

    patience: int | None = None
    listener: Listener | None = None
    scores: list[float] = field(default_factory=list)
    trees: int = 0

    def stops_after(self, score: float | None) -> bool:
        """Take note of one more tree and its validation score; say whether it was the last one."""
        self.trees += 1
        if score is not None:
            self.scores.append(score)
        if self.listener is not None:
            self.listener(self.trees, score)
        return bool(self.scores) and self.patience is not None and self.trees - self.best >= self.patience

    @property
    def best(self) -> int:
        """How many trees gave the lowest score (the fewest of equals); all of them without scores."""
        return int(np.argmin(self.scores)) + 1 if self.scores else self.trees

    def trained(self, model: TreeEnsemble) -> Trained:
        """Return the result: with early stopping, the trees up to the best score."""
        return Trained(model if self.patience is None else model.first(self.best), self.scores)
