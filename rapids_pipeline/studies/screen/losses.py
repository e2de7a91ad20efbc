"""Cross-validated losses of one candidate, and the loop over splits that makes them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from features.feature_sets import FeatureSet
from features.rows import Rows
from rapids_pipeline.backend.progress import Progress
from rapids_pipeline.evaluation.bootstrap import row_losses
from rapids_pipeline.evaluation.splits import Split
from rapids_pipeline.studies.screen.fold_features import FoldFeatures
from rapids_pipeline.studies.screen.models import MODELS, ModelName, sigma_of

Matrix = NDArray[np.float32]
Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Losses:
    """Held-out errors of a candidate.

    Attributes
    ----------
    row_mse : ndarray of float64, (repeats, n)
        Mean over genes of the squared errors of each row; NaN where a repeat did not hold the row out.
    gene_rmse : ndarray of float64, (t,)
        Over all held-out rows of all repeats.
    """

    row_mse: Floats
    gene_rmse: Floats

    @property
    def score(self) -> float:
        """RMSE with one gene, MRRMSE with several."""
        one_gene = len(self.gene_rmse) == 1
        mean = float(np.nanmean(row_losses(self.row_mse, one_gene)))
        return mean**0.5 if one_gene else mean


@dataclass(frozen=True, eq=False)
class Problem:
    """Rows, responses and splits that all candidates are scored on; the same for all.

    Attributes
    ----------
    rows : Rows
        n rows, with the molecules that candidates name.
    Y : ndarray of float32, (n, t)
    repeats : sequence of sequences of Split
        The splits of every repeat.
    model : str
    seed : int
    """

    rows: Rows
    Y: Matrix
    repeats: Sequence[Sequence[Split]]
    model: ModelName = "svr"
    seed: int = 0

    @property
    def splits(self) -> list[Split]:
        """The splits of all repeats, one repeat after the other."""
        return [split for splits in self.repeats for split in splits]

    @property
    def folds(self) -> NDArray[np.intp]:
        """The split that holds a row out, (repeats, n); −1 for none."""
        folds = np.full((len(self.repeats), len(self.Y)), -1, dtype=np.intp)
        for repeat, splits in enumerate(self.repeats):
            for number, split in enumerate(splits):
                folds[repeat, split.held_out] = number
        return folds

    def features(self) -> FoldFeatures:
        """Return the features of all splits, to be shared by all candidates."""
        return FoldFeatures(self.rows, self.Y, self.splits, sigma_of(self.model), self.seed)


def losses_of(problem: Problem, predict: Callable[[int], Matrix], progress: Progress | None = None) -> Losses:
    """Return the losses of what `predict` says of the rows that split number 0, 1, … holds out, (m, t)."""
    progress = progress or Progress()
    row_mse = np.full((len(problem.repeats), len(problem.Y)), np.nan)
    squares, count, number = np.zeros(problem.Y.shape[1]), 0, 0
    for repeat, splits in enumerate(problem.repeats):
        for split in splits:
            errors = predict(number).astype(np.float64)
            errors -= problem.Y[split.held_out]
            np.square(errors, out=errors)
            row_mse[repeat, split.held_out] = errors.mean(axis=1)
            squares += errors.sum(axis=0)
            count, number = count + len(errors), number + 1
            progress.advance()
    return Losses(row_mse, np.sqrt(squares / count))


def predictions(problem: Problem, features: FoldFeatures, recipe: FeatureSet | None, number: int) -> Matrix:
    """Return what a candidate predicts of the rows that split `number` holds out, (m, t).

    No recipe predicts the mean of the training rows.
    """
    split = features.splits[number]
    if recipe is None:
        mean = problem.Y[split.training].mean(axis=0, dtype=np.float64).astype(np.float32)
        return np.tile(mean, (len(split.held_out), 1))
    return MODELS[problem.model](features, recipe, number)
