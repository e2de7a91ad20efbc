"""The target space and the booster: against naive loops, scikit-learn, and properties."""

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.decomposition import TruncatedSVD as SklearnTruncatedSVD
from sklearn.exceptions import NotFittedError

from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.boosting import MultiOutputBooster
from rapids_pipeline.boosting.registry import ENGINES
from rapids_pipeline.stack.target_space import TargetSpace

pytest.importorskip("xgboost")
ON_CPU = [name for name, engine in ENGINES.items() if "cpu" in engine.devices]

SMALL = {"n_estimators": 20, "learning_rate": 0.2}


def problem(n=150, n_outputs=4, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 8)).astype(np.float32)
    signal = np.stack([np.sign(X[:, t]) + X[:, t + 1] for t in range(n_outputs)], axis=1)
    return X, (signal + 0.1 * rng.normal(size=signal.shape)).astype(np.float32)


def targets(n=40, p=200, rank=10):
    rng = np.random.default_rng(0)
    return (rng.normal(size=(n, rank)) @ rng.normal(size=(rank, p)) + 0.1 * rng.normal(size=(n, p))).astype(
        np.float32
    )


def test_target_space_round_trip_and_its_shares():
    Y = targets()
    space = TargetSpace(40)
    scores = space.components_for(Y)
    np.testing.assert_allclose(space.inverse_transform(scores), Y, atol=1e-4)
    assert space.explained_share_ == pytest.approx(1.0)
    for n_components in (1, 5, 10):
        space = TargetSpace(n_components)
        back = space.inverse_transform(space.components_for(Y))
        naive = 1 - sum((float(a) - float(b)) ** 2 for a, b in zip(Y.flat, back.flat, strict=True)) / np.sum(
            Y.astype(float) ** 2
        )
        assert space.explained_share_ == pytest.approx(naive, abs=1e-5)


def test_target_space_equals_scikit_learn():
    Y = targets()
    space, reference = TargetSpace(6), SklearnTruncatedSVD(6, algorithm="arpack", random_state=0)
    scores, theirs = space.components_for(Y), reference.fit_transform(Y.astype(float))
    np.testing.assert_allclose(np.abs(scores), np.abs(theirs), atol=1e-3)
    share = np.sum(reference.singular_values_**2) / np.sum(Y.astype(float) ** 2)
    assert space.explained_share_ == pytest.approx(share, rel=1e-5)
    np.testing.assert_allclose(
        space.inverse_transform(scores), reference.inverse_transform(theirs), atol=1e-3
    )


def best_first_split(X, Y, reg_lambda):
    """Exhaustive search of the split with the largest gain, all outputs together; (feature, rows left)."""
    residual = Y - Y.mean(axis=0)
    best = (-np.inf, None)
    for feature in range(X.shape[1]):
        for value in np.unique(X[:, feature])[1:]:
            left = X[:, feature] < value
            gain = sum(
                np.sum(residual[side].sum(axis=0) ** 2) / (side.sum() + reg_lambda) for side in (left, ~left)
            )
            if gain > best[0]:
                best = (gain, (feature, left))
    return best[1]


@pytest.mark.parametrize("engine", ON_CPU)
def test_one_stump_equals_an_exhaustive_search(engine):
    X, Y = problem(n=60)
    model = MultiOutputBooster(
        n_estimators=1,
        learning_rate=1.0,
        max_depth=1,
        colsample=1.0,
        reg_lambda=0.0,
        max_bins=256,
        engine=engine,
    ).fit(X, Y)
    _, left = best_first_split(X, Y, 0.0)
    expected = np.where(left[:, None], Y[left].mean(axis=0), Y[~left].mean(axis=0))
    np.testing.assert_allclose(model.predict(X), expected, atol=1e-4)


@pytest.mark.parametrize("engine", ON_CPU)
def test_learns(engine):
    X, Y = problem(n=400)
    model = MultiOutputBooster(n_estimators=60, learning_rate=0.2, engine=engine).fit(X[:300], Y[:300])
    error = np.mean((model.predict(X[300:]) - Y[300:]) ** 2)
    assert error < 0.5 * np.mean((Y[:300].mean(axis=0) - Y[300:]) ** 2)


@pytest.mark.parametrize("engine", ON_CPU)
def test_same_seed_same_predictions_bit_for_bit(engine):
    X, Y = problem()
    first, again, other = (
        MultiOutputBooster(**SMALL, random_state=seed, engine=engine).fit(X, Y).predict(X)
        for seed in (3, 3, 4)
    )
    assert first.tobytes() == again.tobytes()
    assert first.tobytes() != other.tobytes()


@pytest.mark.parametrize("engine", ON_CPU)
def test_one_row_alone_equals_its_row_in_a_batch(engine):
    X, Y = problem()
    model = MultiOutputBooster(**SMALL, engine=engine).fit(X, Y)
    alone = np.vstack([model.predict(row[None]) for row in X[:25]])
    assert alone.tobytes() == model.predict(X)[:25].tobytes()


def test_one_output_equals_that_of_a_plain_xgboost():
    from xgboost import XGBRegressor

    X, Y = problem()
    model = MultiOutputBooster(**SMALL, colsample=1.0, max_bins=32, engine="xgboost").fit(X, Y[:, :1])
    assert model.predict(X).shape == (len(X), 1)
    reference = XGBRegressor(
        n_estimators=20, learning_rate=0.2, max_depth=4, reg_lambda=1.0, max_bin=32, tree_method="hist"
    ).fit(X, Y[:, 0])
    np.testing.assert_allclose(model.predict(X)[:, 0], reference.predict(X), atol=1e-4)


@pytest.mark.parametrize("engine", ON_CPU)
def test_constant_features_give_the_mean(engine):
    _, Y = problem()
    model = MultiOutputBooster(n_estimators=30, learning_rate=0.5, reg_lambda=0.0, engine=engine).fit(
        np.ones((len(Y), 3)), Y
    )
    np.testing.assert_allclose(model.predict(np.ones((2, 3))), np.tile(Y.mean(axis=0), (2, 1)), atol=1e-3)


@pytest.mark.parametrize("engine", ON_CPU)
def test_fit_leaves_parameters_alone(engine):
    X, Y = problem()
    model = MultiOutputBooster(**SMALL, random_state=5, engine=engine)
    before = model.get_params()
    assert model.fit(X, Y) is model
    assert model.get_params() == before == clone(model).get_params()
    assert model.n_features_in_ == 8


def test_refusals():
    X, Y = problem()
    with pytest.raises(InputError, match=r"no boosting engine 'magic'; choose one of .*xgboost"):
        MultiOutputBooster(engine="magic").fit(X, Y)
    assert "xgboost" in ENGINES
    with pytest.raises(NotFittedError):
        MultiOutputBooster().predict(X)
    model = MultiOutputBooster(**SMALL).fit(X, Y)
    with pytest.raises(ValueError, match="features"):
        model.predict(X[:, :3])
    Y[2, 1] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        MultiOutputBooster().fit(X, Y)
