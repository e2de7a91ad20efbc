"""Out-of-fold predictions of the training rows and pseudo-labels of the test rows, at two levels.

Level 2 (boosting) is scored on outer fold k, so what it eats there may come only from SVRs that never saw
fold k. With S(A) the SVR trained on all training rows outside the folds in A:

    out-of-fold        row i of fold k     S({k})
    pseudo-label       test row            mean over k of S({k})
    nested, outer k    row of fold j ≠ k   S({k, j})
                       row of fold k       mean over j ≠ k of S({k, j})

S({k, j}) serves outer fold k and outer fold j alike, so the nesting costs n(n−1)/2 + n fits instead of n².
Nothing is shared between fits that depends on targets: each fit takes γ, and features made from targets, from its
own training rows.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from rapids_pipeline.backend.arrays import Array, to_host
from rapids_pipeline.backend.progress import Progress
from rapids_pipeline.config import SvrConfig
from rapids_pipeline.svr import cross_validation
from rapids_pipeline.svr.gram import GramTable

TableMaker = Callable[[NDArray[np.intp]], GramTable]
"""Training rows of a fit → the table of all rows, training and test, for that fit."""


@dataclass(frozen=True)
class NestedPredictions:
    """First-level predictions, float32 on the host; n training rows, m test rows, t targets.

    Attributes
    ----------
    oof : (n, t)
        Out-of-fold predictions.
    test : (m, t)
        Pseudo-labels.
    nested : (n_folds, n, t)
        For each outer fold, the predictions of all training rows by SVRs that never saw that fold.
    """

    oof: NDArray[np.float32]
    test: NDArray[np.float32]
    nested: NDArray[np.float32]


def nested_predictions(
    table_for: TableMaker,
    n_test: int,
    Y: Array,
    folds: NDArray[np.intp],
    config: SvrConfig,
    progress: Progress | None = None,
) -> NestedPredictions:
    """Make all first-level predictions of a stack.

    Parameters
    ----------
    table_for : callable
        Gives the table over the n training rows followed by the test rows, for a fit on some of the former.
    n_test : int
        Test rows, m.
    Y : array, (n, t)
        Training targets, in the library and on the device of the tables.
    folds : ndarray of int, (n,)
        Outer fold of each training row.
    config : SvrConfig
    progress : Progress, optional
        Advances once a fit.
    """
    n, n_folds = len(folds), int(folds.max()) + 1
    test_rows = np.arange(n, n + n_test)
    oof = np.empty((n, Y.shape[1]), dtype=np.float32)
    test = np.zeros((len(test_rows), Y.shape[1]), dtype=np.float32)
    nested = np.zeros((n_folds, *oof.shape), dtype=np.float32)
    progress = progress or Progress()
    progress.start(n_folds + n_folds * (n_folds - 1) // 2)
    for k in range(n_folds):
        held_out = np.flatnonzero(folds == k)
        training = np.flatnonzero(folds != k)
        predicted = fit_predict(table_for(training), Y, training, [held_out, test_rows], config)
        oof[held_out] = predicted[0]
        test += predicted[1] / n_folds
        progress.advance()
    for k, j in combinations(range(n_folds), 2):
        in_k, in_j = np.flatnonzero(folds == k), np.flatnonzero(folds == j)
        training = np.flatnonzero((folds != k) & (folds != j))
        of_k, of_j = fit_predict(table_for(training), Y, training, [in_k, in_j], config)
        nested[k, in_j], nested[j, in_k] = of_j, of_k
        nested[k, in_k] += of_k / (n_folds - 1)
        nested[j, in_j] += of_j / (n_folds - 1)
        progress.advance()
    return NestedPredictions(oof, test, nested)


def fit_predict(
    table: GramTable,
    Y: Array,
    training: NDArray[np.intp],
    groups: list[NDArray[np.intp]],
    config: SvrConfig,
) -> list[NDArray[np.float32]]:
    """Train on the `training` rows of a table and predict several groups of rows.

    Returns
    -------
    list of ndarray of float32, (len(group), n_targets)
        On the host: this is where predictions leave the device.
    """
    fit = cross_validation.fit_predict(
        table,
        Y,
        training,
        groups,
        C=config.C,
        epsilon=config.epsilon,
        tol=config.tol,
        max_iter=config.max_iter,
        engine_name=config.engine,
    )
    return [to_host(predicted) for predicted in fit.predictions]
