"""The xgboost engine: its converted trees, and XGBoost itself (on a GPU: tests/gpu)."""

import numpy as np
import pytest

from rapids_pipeline.boosting import MultiOutputBooster
from rapids_pipeline.boosting import xgboost as xgboost_engine
from tests.boosting.naive_trees import problem

xgboost = pytest.importorskip("xgboost")


@pytest.mark.parametrize("missing", [0.0, 0.2])
@pytest.mark.parametrize("n_outputs", [1, 6])
def test_converted_trees_predict_the_very_bits_of_xgboost(n_outputs, missing, monkeypatch):
    X, Y = problem(n_outputs=n_outputs, missing=missing)
    kept, convert = [], xgboost_engine.converted
    monkeypatch.setattr(
        xgboost_engine, "converted", lambda booster, *sizes: kept.append(booster) or convert(booster, *sizes)
    )
    model = MultiOutputBooster(engine="xgboost", n_estimators=30, max_depth=6, subsample=0.8).fit(X, Y)
    theirs = np.asarray(kept[0].inplace_predict(X)).reshape(len(X), -1)
    assert model.predict(X).tobytes() == theirs.tobytes()


def test_one_output_equals_that_of_a_plain_xgboost():
    X, Y = problem()
    options = {"n_estimators": 20, "learning_rate": 0.2, "reg_lambda": 1.0}
    model = MultiOutputBooster(**options, colsample=1.0, max_bins=32, engine="xgboost").fit(X, Y[:, :1])
    assert model.predict(X).shape == (len(X), 1)
    reference = xgboost.XGBRegressor(**options, max_depth=4, max_bin=32, tree_method="hist").fit(X, Y[:, 0])
    np.testing.assert_allclose(model.predict(X)[:, 0], reference.predict(X), atol=1e-4)


def repeated(n, seed=0):
    """Return rows of n different values a column, targets, whole weights, and each row as often as it weighs."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 6)).astype(np.float32)
    Y = (X[:, :2] @ rng.normal(size=(2, 4)) + 0.3 * rng.normal(size=(n, 4))).astype(np.float32)
    weights = rng.integers(1, 4, n)
    return X, Y, weights, np.repeat(np.arange(n), weights)


@pytest.mark.parametrize(("n", "max_bins"), [(60, 256), (600, 256), (128, 16)])
def test_a_row_of_weight_2_is_the_row_twice(n, max_bins):
    X, Y, weights, rows = repeated(n)
    options = {"n_estimators": 20, "colsample": 1.0, "max_bins": max_bins, "engine": "xgboost"}
    weighted = MultiOutputBooster(**options).fit(X, Y, weights)
    twice = MultiOutputBooster(**options).fit(X[rows], Y[rows])
    np.testing.assert_allclose(weighted.predict(X), twice.predict(X), atol=1e-5)
    unweighted = MultiOutputBooster(**options).fit(X, Y)
    assert np.abs(weighted.predict(X) - unweighted.predict(X)).max() > 1e-2


@pytest.mark.parametrize(("values", "equal"), [(128, True), (160, False)])
def test_the_sketch_is_exact_up_to_eight_values_a_bin(values, equal):
    X, Y, weights, rows = repeated(values)
    asked = ((X, Y, weights), (X[rows], Y[rows], None))
    one, other = (
        xgboost.QuantileDMatrix(x, y, weight=w, max_bin=16).get_quantile_cut()[1] for x, y, w in asked
    )
    assert np.array_equal(one, other) == equal
