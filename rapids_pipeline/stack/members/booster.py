"""The second level: boosters in a reduced target space, on encodings and on first-level predictions.

For outer fold k, whatever a booster learns from or is built on (target space, encodings, SVD of predictions,
first-level predictions, number of trees) comes from rows outside fold k only. Two boosters are made for each fold:
one that the fold is scored by, and one, also without the fold before it, that judges the fold before it: the
choices made for a fold (blend, pseudo-labels) rest on rows of the next fold, predicted by models that saw neither.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from joblib import Parallel, delayed
from numpy.typing import NDArray

from features.feature_sets import FeatureTable
from features.rows import Rows
from rapids_pipeline.backend.devices import DeviceName, processor_count
from rapids_pipeline.backend.progress import Progress
from rapids_pipeline.backend.state import State, StateReader
from rapids_pipeline.boosting import MultiOutputBooster
from rapids_pipeline.boosting.trees import TreeEnsemble
from rapids_pipeline.evaluation.splits import random_folds
from rapids_pipeline.stack.nested import FirstLevel, Indices, Matrix, neighbours
from rapids_pipeline.stack.recipe import BoostingConfig
from rapids_pipeline.stack.target_space import AnyTargetSpace, target_space

STOPPING_FOLDS = 5
"""With early stopping, one of so many folds of a fit's own rows says how many trees to grow."""
SEED_STRIDE = 1000
"""Distance of the seeds of a member's boosters; a feature table draws by seeds just above its own."""


@dataclass(frozen=True, eq=False)
class FittedBooster:
    """A booster with what its rows and targets go through: inverse of `space` (`trees` (columns of `table`))."""

    table: FeatureTable
    space: AnyTargetSpace
    trees: TreeEnsemble

    def predict(self, rows: Rows) -> Matrix:
        """Return the predictions of rows that hold first-level `predictions`, (m, t) float32."""
        return np.asarray(self.space.inverse_transform(self.trees.predict(self.table.transform(rows))))

    def state(self) -> State:
        """Return what it has learnt."""
        return {"table": self.table.state(), "space": self.space.state(), "trees": self.trees.state()}

    @classmethod
    def from_state(cls, config: BoostingConfig, reader: StateReader) -> "FittedBooster":
        """Make it of its state; InputError where that is damaged."""
        table = FeatureTable.from_state(config.features, reader.part("table"))
        space = target_space(config.target_space, config.n_components).from_state(reader.part("space"))
        return cls(table, space, TreeEnsemble.from_state(reader.part("trees")))


@dataclass(frozen=True, eq=False)
class Boosters:
    """Boosters that differ in their random draws; their predictions are aggregated gene by gene."""

    fitted: Sequence[FittedBooster]
    aggregate: str

    def predict(self, rows: Rows) -> Matrix:
        """Return the predictions of rows that hold first-level `predictions`, (m, t) float32."""
        return aggregated([booster.predict(rows) for booster in self.fitted], self.aggregate)


@dataclass(frozen=True, eq=False)
class PseudoLabels:
    """Targets that first-stage models give the m test rows.

    Attributes
    ----------
    nested : ndarray of float32, (n_folds, m, t)
        For each outer fold, by models that never saw it.
    test : ndarray of float32, (m, t)
        By models of all training rows.
    weight : float
        What a pseudo-labelled row counts in training; a measured one counts 1.
    """

    nested: Matrix
    test: Matrix
    weight: float


@dataclass(frozen=True, eq=False)
class BoostedMember:
    """The boosters of all training rows, and the predictions of nested ones; n, m rows, t targets.

    Attributes
    ----------
    model : Boosters
    oof : (n, t)
        Rows of fold k by boosters that never saw fold k.
    judged : (n, t)
        Rows of fold k, to make the choices for the fold before it: by boosters that were not trained on fold k and
        that the fold before it reached in no way. (Level 1, which they learn from, did see fold k here; that can
        only bend the choices.)
    nested_test : (n_folds, m, t)
        Test rows by boosters that never saw the fold.
    test : (m, t)
    """

    model: Boosters
    oof: Matrix
    judged: Matrix
    nested_test: Matrix
    test: Matrix


@dataclass(frozen=True, eq=False)
class BoostingProblem:
    """What all boosters of a member are made from."""

    train: Rows
    test: Rows
    Y: Matrix
    folds: Indices
    first: FirstLevel
    config: BoostingConfig
    device: DeviceName
    labels: PseudoLabels | None = None

    def held_out(self, k: int, unseen: int, seed: int) -> list[Matrix]:
        """Return the predictions of fold k by a booster that saw neither k nor `unseen`.

        Where both are the same fold, the predictions of the test rows follow.
        """
        inside = np.flatnonzero((self.folds != k) & (self.folds != unseen))
        wanted = [self._training_rows(unseen, np.flatnonzero(self.folds == k))]
        if k == unseen:
            wanted.append(self._test_rows(unseen))
        booster = self._fit(self._training_rows(unseen, inside), self.Y[inside], unseen, seed)
        return [booster.predict(rows) for rows in wanted]

    def everything(self, seed: int) -> FittedBooster:
        """Return a booster of all training rows."""
        rows = np.arange(len(self.Y))
        return self._fit(self._training_rows(None, rows), self.Y, None, seed)

    def _training_rows(self, unseen: int | None, rows: Indices) -> Rows:
        return replace(self.train.take(rows), predictions=self.first.training(unseen, rows))

    def _test_rows(self, unseen: int | None) -> Rows:
        return replace(self.test, predictions=self.first.test(unseen))

    def _fit(self, rows: Rows, Y: Matrix, unseen: int | None, seed: int) -> FittedBooster:
        if self.labels is None:
            return fit_booster(rows, Y, None, self.config, seed, self.device)
        labels = self.labels.test if unseen is None else self.labels.nested[unseen]
        weight = np.concatenate([np.ones(len(Y)), np.full(len(labels), self.labels.weight)])
        joined = Rows.joined(rows, self._test_rows(unseen))
        return fit_booster(joined, np.concatenate([Y, labels]), weight, self.config, seed, self.device)


def n_fits(config: BoostingConfig, n_folds: int) -> int:
    """Return how many boosters a member takes."""
    return (2 * n_folds + 1) * config.n_seeds


def boosted_member(problem: BoostingProblem, seed: int, progress: Progress | None = None) -> BoostedMember:
    """Fit the boosters of all rows, and those of the outer folds.

    The fits are independent tasks of joblib: on a CPU side by side in threads, each single-threaded, since trees of
    this shape gain nothing from threads; `joblib.parallel_config` spreads them otherwise.

    Parameters
    ----------
    problem : BoostingProblem
    seed : int
        Of the first booster; the others' follow in steps of `SEED_STRIDE`.
    progress : Progress, optional
        Advances once a fit, `n_fits` times.
    """
    progress = progress or Progress()
    folds, config = problem.folds, problem.config
    seeds = [seed + SEED_STRIDE * number for number in range(config.n_seeds)]
    progress.start(n_fits(config, int(folds.max()) + 1))
    tasks = [(k, unseen, s) for k, before in neighbours(folds) for unseen in (k, before) for s in seeds]
    calls = [delayed(_task)(problem, *task) for task in [*((None, None, s) for s in seeds), *tasks]]
    jobs = processor_count() if problem.device == "cpu" else 1
    whole: dict[int, FittedBooster] = {}
    parts: dict[tuple[int, int], dict[int, list[Matrix]]] = defaultdict(dict)
    for (k, unseen, s), result in Parallel(jobs, prefer="threads", return_as="generator_unordered")(calls):
        if k is None:
            whole[s] = result
        else:
            parts[k, unseen][s] = result
        progress.advance()

    def combined(k: int, unseen: int, which: int) -> Matrix:
        return aggregated([parts[k, unseen][s][which] for s in seeds], config.aggregate)

    oof, judged = np.empty_like(problem.Y), np.empty_like(problem.Y)
    for k, before in neighbours(folds):
        oof[folds == k], judged[folds == k] = combined(k, k, 0), combined(k, before, 0)
    nested_test = np.stack([combined(k, k, 1) for k, _ in neighbours(folds)])
    model = Boosters([whole[s] for s in seeds], config.aggregate)
    test = model.predict(replace(problem.test, predictions=problem.first.test(None)))
    return BoostedMember(model, oof, judged, nested_test, test)


def fit_booster(
    rows: Rows,
    Y: Matrix,
    weight: NDArray[np.float64] | None,
    config: BoostingConfig,
    seed: int,
    device: DeviceName,
) -> FittedBooster:
    """Fit a booster on training rows; with early stopping, find the number of trees on a fold of them first."""
    n_trees = config.n_estimators
    if config.early_stopping_rounds is not None:
        held_out = random_folds(len(Y), STOPPING_FOLDS, seed) == 0
        inside, outside = np.flatnonzero(~held_out), np.flatnonzero(held_out)
        table, space = _table_and_space(config, seed)
        scores = space.components_for(Y[inside])
        X = table.fit_transform(rows.take(inside), scores)
        probe = _booster(config, seed, device, n_trees, config.early_stopping_rounds)
        judges = table.transform(rows.take(outside)), space.transform(Y[outside])
        probe.fit(X, scores, None if weight is None else weight[inside], eval_set=judges)
        n_trees = probe.best_iteration_
    table, space = _table_and_space(config, seed)
    scores = space.components_for(Y)
    booster = _booster(config, seed, device, n_trees, None)
    booster.fit(table.fit_transform(rows, scores), scores, weight)
    return FittedBooster(table, space, booster.model_)


def aggregated(predictions: Sequence[Matrix], how: str) -> Matrix:
    """Return the median or the mean of predictions, entry by entry."""
    if len(predictions) == 1:
        return predictions[0]
    return np.asarray((np.median if how == "median" else np.mean)(np.stack(predictions), axis=0))


def _task(
    problem: BoostingProblem, k: int | None, unseen: int, seed: int
) -> tuple[tuple[int | None, int, int], FittedBooster | list[Matrix]]:
    found = problem.everything(seed) if k is None else problem.held_out(k, unseen, seed)
    return (k, unseen, seed), found


def _table_and_space(config: BoostingConfig, seed: int) -> tuple[FeatureTable, AnyTargetSpace]:
    space = target_space(config.target_space, config.n_components)
    return FeatureTable(config.features, config.encoder_sigma, seed), space


def _booster(
    config: BoostingConfig, seed: int, device: DeviceName, n_trees: int, patience: int | None
) -> MultiOutputBooster:
    return MultiOutputBooster(
        n_estimators=n_trees,
        learning_rate=config.learning_rate,
        max_depth=config.max_depth,
        min_samples_leaf=config.min_samples_leaf,
        colsample=config.colsample,
        subsample=config.subsample,
        reg_lambda=config.reg_lambda,
        max_bins=config.max_bins,
        early_stopping_rounds=patience,
        engine=config.engine,
        random_state=seed,
        device=device,
    )
