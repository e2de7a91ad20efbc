"""Out-of-fold predictions of the training rows and predictions of the test rows, nested over the outer folds.

A model that is scored on outer fold k may learn only from what never saw fold k, first-level predictions
included. With S(A) a first-level model (the SVRs of all genes) of all training rows outside the folds in A:

    out-of-fold        row i of fold k     S({k})
    nested, outer k    row of fold j ≠ k   S({k, j})
                       row of fold k       mean over j ≠ k of S({k, j})
    test, outer k      test row            S({k})
    test               test row            S(∅), the model that is kept

S({k, j}) serves outer fold k and outer fold j alike, so the nesting costs n(n−1)/2 + n fits instead of n².
Nothing is shared between fits that depends on targets: each fit takes γ, and features made from targets, from its
own training rows.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from rapids_pipeline.backend.progress import Progress

Indices = NDArray[np.intp]
Matrix = NDArray[np.float32]
FitPredict = Callable[[Indices, list[Indices]], list[Matrix]]
"""Training rows of a fit, groups of rows → predictions of each group (float32, on the host).

Rows are numbered over the n training rows, then the m test rows.
"""


@dataclass(frozen=True)
class NestedPredictions:
    """A member's nested predictions, float32 on the host; n training rows, m test rows, t targets.

    Attributes
    ----------
    oof : (n, t)
        Out-of-fold predictions.
    nested : (n_folds, n, t)
        For each outer fold, the predictions of all training rows by models that never saw that fold.
    nested_test : (n_folds, m, t)
        For each outer fold, the predictions of the test rows by a model that never saw that fold.
    test : (m, t)
        Predictions of the test rows by the model of all training rows.
    """

    oof: Matrix
    nested: Matrix
    nested_test: Matrix
    test: Matrix


def n_fits(n_folds: int) -> int:
    """Return how many fits the nesting takes, the one on all rows not counted."""
    return n_folds + n_folds * (n_folds - 1) // 2


def neighbours(folds: Indices) -> list[tuple[int, int]]:
    """Return every fold with the fold before it, in a circle."""
    n_folds = int(folds.max()) + 1
    return [(k, (k - 1) % n_folds) for k in range(n_folds)]


def nested_predictions(
    fit_predict: FitPredict, test: Matrix, folds: Indices, progress: Progress | None = None
) -> NestedPredictions:
    """Make all predictions of a first-level member.

    Parameters
    ----------
    fit_predict : callable
        Fits on some training rows and predicts others.
    test : ndarray of float32, (m, t)
        The predictions of the test rows by the model of all training rows.
    folds : ndarray of int, (n,)
        Outer fold of each training row.
    progress : Progress, optional
        Advances once a fit, `n_fits` times.
    """
    n, n_folds = len(folds), int(folds.max()) + 1
    m, t = test.shape
    oof = np.empty((n, t), dtype=np.float32)
    nested = np.zeros((n_folds, n, t), dtype=np.float32)
    nested_test = np.empty((n_folds, m, t), dtype=np.float32)
    progress = progress or Progress()
    for k in range(n_folds):
        held_out = np.flatnonzero(folds == k)
        oof[held_out], nested_test[k] = fit_predict(
            np.flatnonzero(folds != k), [held_out, np.arange(n, n + m)]
        )
        progress.advance()
    for k, j in combinations(range(n_folds), 2):
        in_k, in_j = np.flatnonzero(folds == k), np.flatnonzero(folds == j)
        of_k, of_j = fit_predict(np.flatnonzero((folds != k) & (folds != j)), [in_k, in_j])
        nested[k, in_j], nested[j, in_k] = of_j, of_k
        nested[k, in_k] += of_k / (n_folds - 1)
        nested[j, in_j] += of_j / (n_folds - 1)
        progress.advance()
    return NestedPredictions(oof, nested, nested_test, test)


@dataclass(frozen=True)
class FirstLevel:
    """What a second-level model may know of the first level: the members' predictions side by side."""

    members: Sequence[NestedPredictions]

    def training(self, unseen: int | None, rows: Indices) -> Matrix:
        """Return the columns of training rows, (len(rows), n_members · t), by models that never saw fold `unseen`.

        With None the out-of-fold predictions, for a model of all training rows.
        """
        return np.hstack(
            [(member.oof if unseen is None else member.nested[unseen])[rows] for member in self.members]
        )

    def test(self, unseen: int | None) -> Matrix:
        """Return the columns of the test rows, likewise."""
        return np.hstack(
            [member.test if unseen is None else member.nested_test[unseen] for member in self.members]
        )
