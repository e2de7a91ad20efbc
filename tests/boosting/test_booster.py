"""MultiOutputBooster: scikit-learn's checks, early stopping, NaN, engines that agree, and what it refuses."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from rapids_pipeline.backend.errors import InputError, UnavailableError
from rapids_pipeline.boosting import MultiOutputBooster, registry
from rapids_pipeline.boosting import xgboost as xgboost_engine
from rapids_pipeline.boosting.registry import ENGINES, choose_engine

pytest.importorskip("numba")
xgboost = pytest.importorskip("xgboost")
ON_CPU = [name for name, engine in ENGINES.items() if "cpu" in engine.devices]


def problem(n=200, n_outputs=4, seed=0, missing=0.0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 8)).astype(np.float32)
    signal = np.stack([np.sign(X[:, t]) + X[:, t + 1] for t in range(n_outputs)], axis=1)
    Y = (signal + 0.3 * rng.normal(size=signal.shape)).astype(np.float32)
    X[rng.random(X.shape) < missing] = np.nan
    return X, Y


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
    X, Y = problem(n=260)
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
    stages = list(whole.staged_predict(held_out[0]))
    assert stages[model.best_iteration_ - 1].tobytes() == model.predict(held_out[0]).tobytes()
    naive = [np.sqrt(np.mean((stage - held_out[1]) ** 2)) for stage in stages]
    np.testing.assert_allclose(scores, naive, rtol=1e-5)
    plain = MultiOutputBooster(n_estimators=len(scores), **options).fit(*train)
    assert plain.predict(X).tobytes() == whole.predict(X).tobytes()
    assert plain.validation_scores_ == [] and plain.best_iteration_ == len(scores)


@pytest.mark.parametrize("missing", [0.0, 0.2])
@pytest.mark.parametrize("n_outputs", [1, 6])
def test_the_converted_trees_of_xgboost_predict_its_very_bits(n_outputs, missing, monkeypatch):
    X, Y = problem(n_outputs=n_outputs, missing=missing)
    kept, convert = [], xgboost_engine.converted
    monkeypatch.setattr(
        xgboost_engine, "converted", lambda booster, *sizes: kept.append(booster) or convert(booster, *sizes)
    )
    model = MultiOutputBooster(engine="xgboost", n_estimators=30, max_depth=6, subsample=0.8).fit(X, Y)
    theirs = np.asarray(kept[0].inplace_predict(X)).reshape(len(X), -1)
    assert model.predict(X).tobytes() == theirs.tobytes()


def test_engines_mean_the_same_by_the_same_parameters():
    X, Y = problem(n=100)
    X = np.round(X, 1)  # few values: both engines have a bin for each
    options = {"n_estimators": 10, "max_depth": 3, "colsample": 1.0, "reg_lambda": 2.0, "learning_rate": 0.3}
    ours, theirs = (MultiOutputBooster(engine=name, **options).fit(X, Y) for name in ("exact", "xgboost"))
    np.testing.assert_allclose(ours.predict(X), theirs.predict(X), atol=1e-4)
    np.testing.assert_allclose(ours.feature_importances_, theirs.feature_importances_, atol=1e-3)


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
    one, four = (MultiOutputBooster(n_jobs=n).fit(X, Y).predict(X) for n in (1, 4))
    assert one.tobytes() == four.tobytes()


def test_auto_says_what_it_chose_and_why(monkeypatch):
    X, Y = problem()
    model = MultiOutputBooster(n_estimators=1).fit(X, Y)
    assert (model.engine_, model.engine_reason_) == ("exact", "auto: the device is a CPU")
    assert choose_engine("auto", "cuda").engine.name == "xgboost"
    for rows, name in ((29_999, "exact"), (30_000, "hist")):
        assert choose_engine("auto", n_rows=rows).engine.name == name
    monkeypatch.setattr(registry, "MANY_ROWS", 200)
    assert MultiOutputBooster(n_estimators=1).fit(X, Y).engine_ == "hist"
    with pytest.raises(InputError, match="engine 'exact' works on cpu only, not on cuda"):
        choose_engine("exact", "cuda")
    monkeypatch.setattr(registry, "find_spec", lambda name: None)
    with pytest.raises(UnavailableError, match="the exact boosting engine needs numba: pip install"):
        MultiOutputBooster().fit(X, Y)
    monkeypatch.setattr(xgboost_engine, "find_spec", lambda name: None)
    with pytest.raises(UnavailableError, match="needs XGBoost: pip install"):
        MultiOutputBooster(engine="xgboost").fit(X, Y)


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


def test_sketches_go_to_engines_that_take_them():
    X, Y = problem(n_outputs=7)
    options = {"n_estimators": 20, "learning_rate": 0.3, "sketch_outputs": 3}
    models = {
        kind: MultiOutputBooster(sketch=kind, **options).fit(X, Y)
        for kind in ("random_projection", "top_outputs")
    }
    for model in models.values():
        assert (model.engine_, model.engine_reason_) == ("hist", "auto: gradients are sketched, on a CPU")
        assert np.mean((model.predict(X) - Y) ** 2) < 0.5 * np.mean((Y - Y.mean(axis=0)) ** 2)
    assert np.any(models["random_projection"].predict(X) != models["top_outputs"].predict(X))
    with pytest.raises(
        InputError, match="engine 'exact' takes no sketch; choose hist or pyboost, or sketch=None"
    ):
        MultiOutputBooster(sketch="top_outputs", engine="exact").fit(X, Y)
    with pytest.raises(InputError, match="no sketch 'svd'"):
        MultiOutputBooster(sketch="svd").fit(X, Y)
    with pytest.raises(InputError, match="sketch_outputs must be a whole number of at least 1, not 0"):
        MultiOutputBooster(sketch="top_outputs", sketch_outputs=0).fit(X, Y)
