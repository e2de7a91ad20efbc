"""MultiOutputBooster: scikit-learn's checks, early stopping, NaN, and what it refuses."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.boosting import MultiOutputBooster
from rapids_pipeline.boosting.engines import ENGINES
from tests.boosting.naive_trees import bits, problem, some

pytest.importorskip("xgboost")
ON_CPU = [name for name, engine in ENGINES.items() if "cpu" in engine.devices]
SMALL = {"n_estimators": 20, "learning_rate": 0.2}


EXPECTED_FAILURES = {
    "check_regressor_multioutput": "asks for float64 predictions; ours are float32, as the leaves are"
}


@parametrize_with_checks(
    [MultiOutputBooster(n_estimators=40, learning_rate=0.3)],
    expected_failed_checks=lambda estimator: EXPECTED_FAILURES,
)
def test_is_a_scikit_learn_estimator(estimator, check):
    check(estimator)


@pytest.mark.parametrize("engine", ON_CPU)
def test_early_stopping_keeps_the_trees_up_to_the_lowest_validation_score(engine):
    X, Y = problem(n=260, noise=0.3)
    train, held_out = (X[:160], Y[:160]), (X[160:], Y[160:])
    options = {"learning_rate": 0.5, "max_depth": 5, "engine": engine, "colsample": 1.0}
    heard = []
    model = MultiOutputBooster(n_estimators=150, early_stopping_rounds=6, **options).fit(
        *train, eval_set=held_out, listener=lambda trees, score: heard.append((trees, score))
    )
    scores = model.validation_scores_
    assert heard == list(enumerate(scores, start=1))
    assert model.best_iteration_ == int(np.argmin(scores)) + 1 == model.model_.n_trees
    assert len(scores) == model.best_iteration_ + 6 < 150
    assert scores[model.best_iteration_ - 1] == pytest.approx(
        np.sqrt(np.mean((model.predict(held_out[0]) - held_out[1]) ** 2)), rel=1e-5
    )
    whole = MultiOutputBooster(n_estimators=len(scores), **options).fit(*train, eval_set=held_out)
    assert whole.model_.n_trees == len(scores) and whole.best_iteration_ == model.best_iteration_
    stages = [whole.model_.first(trees).predict(held_out[0]) for trees in range(1, len(scores) + 1)]
    assert stages[model.best_iteration_ - 1].tobytes() == model.predict(held_out[0]).tobytes()
    naive = [np.sqrt(np.mean((stage - held_out[1]) ** 2)) for stage in stages]
    np.testing.assert_allclose(scores, naive, rtol=1e-5)
    plain = MultiOutputBooster(n_estimators=len(scores), **options).fit(*train)
    assert plain.predict(X).tobytes() == whole.predict(X).tobytes()
    assert plain.validation_scores_ == [] and plain.best_iteration_ == len(scores)


def test_missing_values_split_by_themselves():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(300, 3)).astype(np.float32)
    X[rng.random(300) < 0.4, 1] = np.nan
    Y = np.stack([np.isnan(X[:, 1]), ~np.isnan(X[:, 1])], axis=1).astype(np.float32)
    model = MultiOutputBooster(
        n_estimators=1, learning_rate=1.0, max_depth=1, reg_lambda=0.0, colsample=1.0
    ).fit(X, Y)
    np.testing.assert_allclose(model.predict(X), Y, atol=1e-6)
    assert model.model_.threshold[0] == -np.inf and model.feature_importances_.tolist() == [0, 1, 0]


def test_one_dimensional_targets_come_back_as_they_went_in():
    X, Y = problem(n_outputs=1)
    flat, column = (MultiOutputBooster(n_estimators=5).fit(X, y).predict(X) for y in (Y[:, 0], Y))
    assert flat.shape == (len(X),) and column.shape == (len(X), 1)
    assert flat.tobytes() == column.tobytes()


def test_threads_of_prediction_change_nothing():
    X, Y = problem(n=1000, missing=0.1)
    one, four, default = (MultiOutputBooster(n_jobs=n).fit(X, Y).predict(X) for n in (1, 4, None))
    np.testing.assert_array_equal(one, default)
    assert one.tobytes() == four.tobytes()


def test_the_package_of_boosting_imports_no_compiler():
    code = "import sys, rapids_pipeline.boosting; print('numba' in sys.modules, 'xgboost' in sys.modules)"
    printed = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert printed.split() == ["False", "False"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_estimators": 0}, "n_estimators must be a whole number of at least 1, not 0"),
        ({"max_depth": 2.5}, "max_depth must be a whole number"),
        ({"max_bins": 257}, "max_bins must be a whole number of at least 3 and at most 256"),
        ({"max_bins": 2}, "max_bins"),
        ({"min_samples_leaf": 0}, "min_samples_leaf"),
        ({"learning_rate": 0.0}, "learning_rate must be above 0 and at most 1, not 0.0"),
        ({"colsample": 1.1}, "colsample"),
        ({"subsample": float("nan")}, "subsample"),
        ({"reg_lambda": -1.0}, "reg_lambda must be 0 or more"),
        ({"early_stopping_rounds": 5}, "early_stopping_rounds needs an eval_set"),
        ({"early_stopping_rounds": 0}, "early_stopping_rounds must be"),
        ({"device": "tpu"}, "no device 'tpu'"),
        ({"engine": "magic"}, "no boosting engine 'magic'; choose one of auto, exact, "),
        ({"engine": "xgboost", "min_samples_leaf": 2}, "'xgboost' has no min_samples_leaf"),
    ],
)
def test_parameters_that_cannot_be_are_refused_in_one_line(options, message):
    X, Y = problem(n=20)
    with pytest.raises(InputError, match=message) as caught:
        MultiOutputBooster(**options).fit(X, Y)
    assert "\n" not in str(caught.value)


def test_rows_that_cannot_be_are_refused():
    X, Y = problem(n=30)
    frame = pd.DataFrame(X.copy(), columns=[f"x{k}" for k in range(8)])
    frame.loc[4, "x3"] = np.inf
    with pytest.raises(InputError, match="an infinity in column 'x3', row 4"):
        MultiOutputBooster().fit(frame, Y)
    bad = X.copy()
    bad[2, 5] = -np.inf
    with pytest.raises(InputError, match="an infinity in column 5, row 2"):
        MultiOutputBooster(n_estimators=2).fit(X, Y).predict(bad)
    with pytest.raises(InputError, match="the eval_set has 3 outputs and the training rows have 4"):
        MultiOutputBooster().fit(X, Y, eval_set=(X, Y[:, :3]))
    with pytest.raises(ValueError, match="features"):
        MultiOutputBooster().fit(X, Y, eval_set=(X[:, :3], Y))
    with pytest.raises(ValueError, match="NaN"):
        MultiOutputBooster().fit(X, Y, eval_set=(X, np.full_like(Y, np.nan)))


def test_weights_are_left_alone_and_any_array_will_do():
    X, Y, weights = some(n=60, d=2)
    before = weights.copy()
    models = [MultiOutputBooster(n_estimators=3).fit(X, Y, w) for w in (weights, list(weights))]
    assert bits(models[0].model_) == bits(models[1].model_) and (weights == before).all()
    by_name = MultiOutputBooster(n_estimators=3).fit(X, Y, sample_weight=weights)
    assert bits(by_name.model_) == bits(models[0].model_)
