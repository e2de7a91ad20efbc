"""What every boosting engine is told and gives back, and when it stops early."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from rapids_pipeline.backend.devices import DeviceName
from rapids_pipeline.boosting.trees import TreeEnsemble

Floats = NDArray[np.float32]
Listener = Callable[[int, float | None], None]
"""Called after every tree with how many there are and, with a validation set, its RMSE."""


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
