"""The two-level stack: SVRs of all genes, a booster on top in a reduced target space, and their blend.

One set of outer folds scores everything. For outer fold k, whatever level 2 learns from or is built on (target
space, encodings, SVD of predictions, first-level predictions) comes from the rows outside fold k only; see
`rapids_pipeline.pseudo_labels` for the first level.

The blend of member predictions P_m has non-negative weights that sum to one and minimise the out-of-fold
MRRMSE:

    min_w  mean_i sqrt( wᵀ G_i w / t ),   G_i = E_i E_iᵀ,   E_i,m = P_m,i − y_i

For the test rows the sum is over all training rows. For the out-of-fold blend of fold k it is over the rows of
the next fold alone, predicted by models that never saw fold k: the usual out-of-fold predictions of the other
rows come from models that were trained on fold k, and weights fitted to them would carry its targets over.
"""

from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from features.feature_sets import FeatureTable, Rows
from rapids_pipeline.backend.arrays import to_device
from rapids_pipeline.backend.devices import DeviceName, processor_count
from rapids_pipeline.backend.progress import Progress
from rapids_pipeline.boosting import MultiOutputBooster, TargetSpace
from rapids_pipeline.boosting.registry import Choice as BoostingChoice
from rapids_pipeline.boosting.registry import choose_engine as choose_boosting_engine
from rapids_pipeline.config import BoostingConfig, RunConfig, SvrConfig
from rapids_pipeline.ingest import PerturbationData
from rapids_pipeline.pseudo_labels import NestedPredictions, nested_predictions
from rapids_pipeline.svr.engines import Choice, choose_engine
from rapids_pipeline.svr.gram import GramTable


@dataclass(frozen=True)
class Member:
    """One member's predictions; n training rows, m test rows, t targets.

    Attributes
    ----------
    oof : (n, t)
        Rows of fold k by models that never saw fold k.
    judged : (n, t)
        Rows of fold k, to choose the blend of the fold before it: by models that were not trained on fold k and
        that the fold before it reached in no way. (Level 1, which a booster learns from, did see fold k here;
        that can only bend the weights.)
    test : (m, t)
    """

    oof: NDArray[np.float32]
    judged: NDArray[np.float32]
    test: NDArray[np.float32]


@dataclass(frozen=True)
class Boosted:
    """The booster's predictions and the share of the squared targets its target space keeps."""

    member: Member
    explained_share: float


@dataclass(frozen=True)
class Blended:
    """The blend: `oof` (n, t), `test` (m, t), and the test rows' weights by member."""

    oof: NDArray[np.float32]
    test: NDArray[np.float32]
    weights: dict[str, float]


def svr_member(level_1: NestedPredictions, folds: NDArray[np.intp]) -> Member:
    """Return the first level as a member of the blend."""
    judged = np.empty_like(level_1.oof)
    for k, before in _neighbours(folds):
        judged[folds == k] = level_1.nested[before][folds == k]
    return Member(level_1.oof, judged, level_1.test)


def svr_engine(Y: NDArray[np.float32], config: SvrConfig, device: DeviceName) -> Choice:
    """Return the engine that `svr_predictions` will use, and why."""
    return choose_engine(config.engine, to_device(Y[:1], device))


def boosting_engine(config: BoostingConfig, device: DeviceName, n_rows: int) -> BoostingChoice:
    """Return the engine that `boosting_predictions` will use, and why."""
    return choose_boosting_engine(config.engine, device, n_rows=n_rows)


def svr_predictions(
    train: Rows,
    test: Rows,
    Y: NDArray[np.float32],
    folds: NDArray[np.intp],
    config: SvrConfig,
    seed: int,
    device: DeviceName,
    progress: Progress | None = None,
) -> NestedPredictions:
    """Run level 1: every gene's SVR on its feature set, nested over the outer folds.

    Columns that no target enters are made once; others by every fit, from its own training rows.
    """
    n_test = len(test.obs)

    def table_for(training: NDArray[np.intp]) -> GramTable:
        X = features_of_all(FeatureTable(config.features, seed=seed), train, test, Y, training)
        return GramTable(to_device(X, device), config.kernel, config.gamma)

    if not config.features.uses_targets:
        shared = table_for(np.arange(len(Y)))

        def one_table(_training: NDArray[np.intp]) -> GramTable:
            return shared

        return nested_predictions(one_table, n_test, to_device(Y, device), folds, config, progress)
    return nested_predictions(table_for, n_test, to_device(Y, device), folds, config, progress)


def features_of_all(
    table: FeatureTable, train: Rows, test: Rows, Y: NDArray[np.float32], training: NDArray[np.intp]
) -> NDArray[np.float32]:
    """Fit a table on some training rows; return the features of all of them, then those of the test rows.

    Rows of `training` have the cross-fitted features they are trained on, all others what new rows get.
    """
    inside = table.fit_transform(train.take(training), Y[training])
    X = np.empty((len(Y) + len(test.obs), inside.shape[1]), dtype=np.float32)
    X[training] = inside
    left = np.setdiff1d(np.arange(len(Y)), training)
    if len(left):
        X[left] = table.transform(train.take(left))
    X[len(Y) :] = table.transform(test)
    return X


def boosting_predictions(
    train: Rows,
    test: Rows,
    Y: NDArray[np.float32],
    folds: NDArray[np.intp],
    level_1: NestedPredictions,
    config: BoostingConfig,
    seed: int,
    device: DeviceName,
    progress: Progress | None = None,
) -> Boosted:
    """Run level 2: a booster for each outer fold, one for each fold and the fold before it, and one on all rows.

    On a CPU the fits run side by side, one thread each: trees of this shape gain nothing from threads.
    """
    progress = progress or Progress()
    progress.start((2 * len(level_1.nested) + 1) * config.n_estimators)

    def held_out(k: int, unseen: int) -> tuple[NDArray[np.float32], float]:
        """Predict fold k by a booster that saw neither it nor `unseen`, on a level 1 that never saw `unseen`."""
        rows = replace(train, predictions=level_1.nested[unseen])
        inside, outside = np.flatnonzero((folds != k) & (folds != unseen)), np.flatnonzero(folds == k)
        return _boost(rows.take(inside), Y[inside], rows.take(outside), config, seed, device, progress)

    def everything() -> tuple[NDArray[np.float32], float]:
        rows, others = replace(train, predictions=level_1.oof), replace(test, predictions=level_1.test)
        return _boost(rows, Y, others, config, seed, device, progress)

    oof, judged = np.empty_like(Y), np.empty_like(Y)
    with ThreadPoolExecutor(processor_count() if device == "cpu" else 1) as pool:
        whole = pool.submit(everything)
        parts = {}
        for k, before in _neighbours(folds):
            parts[pool.submit(held_out, k, k)] = oof, k
            parts[pool.submit(held_out, k, before)] = judged, k
        for done in as_completed([whole, *parts]):
            if done is not whole:
                predictions, k = parts[done]
                predictions[folds == k] = done.result()[0]
    test_predictions, share = whole.result()
    return Boosted(Member(oof, judged, test_predictions), share)


def blend_weights(predictions: dict[str, NDArray[np.float32]], Y: NDArray[np.float32]) -> dict[str, float]:
    """Return the non-negative weights, summing to one, that minimise the MRRMSE of the weighted sum.

    Parameters
    ----------
    predictions : dict of member to ndarray, (n, t)
        Predictions of rows that the members never saw.
    Y : ndarray, (n, t)
        Their targets.

    Notes
    -----
    The objective is convex: a mean of norms of functions affine in w. Solved by SLSQP from equal weights.
    """
    errors = [predicted - Y for predicted in predictions.values()]
    m = len(errors)
    products = np.empty((len(Y), m, m))
    for a in range(m):
        for b in range(a, m):
            products[:, a, b] = products[:, b, a] = np.einsum("ij,ij->i", errors[a], errors[b]) / Y.shape[1]

    def mrrmse(w: NDArray[np.float64]) -> float:
        return float(np.mean(np.sqrt(np.einsum("a,iab,b->i", w, products, w).clip(min=0))))

    found = minimize(
        mrrmse,
        np.full(m, 1 / m),
        method="SLSQP",
        bounds=[(0, 1)] * m,
        constraints={"type": "eq", "fun": lambda w: np.sum(w) - 1},
        options={"ftol": 1e-12},
    )
    weights = np.clip(found.x, 0, 1)
    return {name: float(weight) for name, weight in zip(predictions, weights / weights.sum(), strict=True)}


def blend(
    members: dict[str, Member], data: PerturbationData, folds: NDArray[np.intp], config: RunConfig
) -> Blended:
    """Blend the members and clip to each gene's training range.

    The out-of-fold blend of a fold uses weights and ranges that never saw it; the blend of the test rows uses
    those of all training rows.
    """
    Y, oof = data.Y, np.empty_like(data.Y)
    for k, before in _neighbours(folds):
        judged, outside, inside = folds == k, folds == before, folds != before
        weights = blend_weights({name: member.judged[judged] for name, member in members.items()}, Y[judged])
        mixed = _mixed(weights, {name: member.oof[outside] for name, member in members.items()})
        oof[outside] = _clipped(mixed, Y[inside], config.clip)
    weights = blend_weights({name: member.oof for name, member in members.items()}, Y)
    mixed = _mixed(weights, {name: member.test for name, member in members.items()})
    return Blended(oof, _clipped(mixed, Y, config.clip), weights)


def _neighbours(folds: NDArray[np.intp]) -> list[tuple[int, int]]:
    """Return every fold with the fold before it, in a circle."""
    n_folds = int(folds.max()) + 1
    return [(k, (k - 1) % n_folds) for k in range(n_folds)]


def _mixed(weights: dict[str, float], predictions: dict[str, NDArray[np.float32]]) -> NDArray[np.float32]:
    return np.asarray(sum(weights[name] * predicted for name, predicted in predictions.items()))


def _boost(
    training: Rows,
    Y: NDArray[np.float32],
    others: Rows,
    config: BoostingConfig,
    seed: int,
    device: DeviceName,
    progress: Progress,
) -> tuple[NDArray[np.float32], float]:
    space = TargetSpace(config.n_components)
    scores = space.components_for(Y)
    table = FeatureTable(config.features, config.encoder_sigma, seed)
    settings = config.model_dump(exclude={"n_components", "encoder_sigma", "features"})
    booster = MultiOutputBooster(**settings, random_state=seed, device=device)
    booster.fit(
        table.fit_transform(training, scores), scores, listener=lambda _trees, _score: progress.advance()
    )
    return space.inverse_transform(booster.predict(table.transform(others))), space.explained_share_


def _clipped(
    predicted: NDArray[np.float32], training: NDArray[np.float32], wanted: bool
) -> NDArray[np.float32]:
    return np.clip(predicted, training.min(axis=0), training.max(axis=0)) if wanted else predicted
