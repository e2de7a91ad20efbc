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
