"""What all engines share: the choice among them, learning, weights, and answers that agree."""

import numpy as np
import pytest

from rapids_pipeline.backend.errors import InputError, UnavailableError
from rapids_pipeline.boosting import MultiOutputBooster
from rapids_pipeline.boosting import xgboost as xgboost_engine
from rapids_pipeline.boosting.engines import ENGINES, choose_engine
from tests.boosting.naive_trees import bits, problem, some

pytest.importorskip("xgboost")
ON_CPU = [name for name, engine in ENGINES.items() if "cpu" in engine.devices]
SMALL = {"n_estimators": 20, "learning_rate": 0.2}


def test_auto_says_what_it_chose_and_why(monkeypatch):
    X, Y = problem()
    model = MultiOutputBooster(n_estimators=1).fit(X, Y)
    assert (model.engine_, model.engine_reason_) == ("exact", "auto: the device is a CPU")
    choice = choose_engine("auto", "cuda")
    assert (choice.engine.name, choice.reason) == ("xgboost", "auto: the device is a GPU")
    assert choose_engine("xgboost").reason == "asked for"
    with pytest.raises(InputError, match="engine 'exact' works on cpu only, not on cuda"):
        choose_engine("exact", "cuda")
    with pytest.raises(
        InputError, match="no boosting engine 'magic'; choose one of auto, exact, pyboost, xgboost"
    ):
        choose_engine("magic")
    monkeypatch.setattr(xgboost_engine, "find_spec", lambda name: None)
    with pytest.raises(UnavailableError, match="needs XGBoost: pip install"):
        MultiOutputBooster(engine="xgboost").fit(X, Y)


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


@pytest.mark.parametrize("engine", ON_CPU)
def test_constant_features_give_the_mean(engine):
    _, Y = problem()
    model = MultiOutputBooster(n_estimators=30, learning_rate=0.5, reg_lambda=0.0, engine=engine).fit(
        np.ones((len(Y), 3)), Y
    )
    np.testing.assert_allclose(model.predict(np.ones((2, 3))), np.tile(Y.mean(axis=0), (2, 1)), atol=1e-3)


@pytest.mark.parametrize("weighted", [False, True])
def test_engines_mean_the_same_by_the_same_parameters(weighted):
    X, Y, weights = some(n=100, d=4, kinds=["numbers"] * 8)
    X = np.round(X, 1)  # few values: both engines have a bin for each
    weights = weights if weighted else None
    options = {"n_estimators": 10, "max_depth": 3, "colsample": 1.0, "reg_lambda": 2.0, "learning_rate": 0.3}
    ours, theirs = (MultiOutputBooster(engine=e, **options).fit(X, Y, weights) for e in ("exact", "xgboost"))
    np.testing.assert_allclose(ours.predict(X), theirs.predict(X), atol=1e-4)
    np.testing.assert_allclose(ours.feature_importances_, theirs.feature_importances_, atol=1e-3)
    if weighted:
        assert np.abs(ours.predict(X) - MultiOutputBooster(**options).fit(X, Y).predict(X)).max() > 0.1


# --- weights ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ON_CPU)
def test_rows_without_weight_are_not_there(engine):
    X, Y, weights = some(n=400, d=5)
    weights[::3] = 0.0
    X[::3], Y[::3] = 1e6 * X[::3], -1e6 * Y[::3]
    options = {"n_estimators": 8, "engine": engine, "subsample": 0.8}
    kept = weights > 0
    with_them = MultiOutputBooster(**options).fit(X, Y, weights)
    without = MultiOutputBooster(**options).fit(X[kept], Y[kept], weights[kept])
    assert bits(with_them.model_) == bits(without.model_)


@pytest.mark.parametrize("engine", ON_CPU)
def test_the_unit_of_weights_and_lambda_does_not_matter(engine):
    X, Y, weights = some(n=300, d=5)
    options = {"n_estimators": 5, "engine": engine}
    plain = MultiOutputBooster(reg_lambda=1.5, **options).fit(X, Y, weights)
    for unit in (2.0**20, 2.0**-20, 3.7):
        other = MultiOutputBooster(reg_lambda=1.5 * unit, **options).fit(X, Y, weights * unit)
        np.testing.assert_allclose(other.predict(X), plain.predict(X), rtol=1e-4, atol=1e-4)
        np.testing.assert_array_equal(other.model_.feature, plain.model_.feature)
        np.testing.assert_allclose(other.model_.gain, plain.model_.gain * unit, rtol=1e-3)
        if unit != 3.7 and engine != "xgboost":
            assert other.predict(X).tobytes() == plain.predict(X).tobytes()


@pytest.mark.parametrize("engine", ON_CPU)
@pytest.mark.parametrize("unit", [1e-300, 1e300])
def test_weights_of_any_size_give_finite_trees(unit, engine):
    X, Y, weights = some()
    for reg_lambda in (0.0, 1.0):
        model = MultiOutputBooster(n_estimators=3, engine=engine, reg_lambda=reg_lambda)
        assert np.isfinite(model.fit(X, Y, weights * unit).predict(X)).all()
        assert np.isfinite(model.model_.gain).all()


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1.0, -1.0, 1.0, 1.0], r"finite and at least 0, not -1\.0 \(row 1, from 0\)"),
        ([1.0, 1.0, np.nan, 1.0], r"finite and at least 0, not nan \(row 2"),
        ([np.inf, 1.0, 1.0, 1.0], "finite and at least 0, not inf"),
        ([0.0, 0.0, 0.0, 0.0], "zero for every row"),
        ([1.0, 1.0, 1.0], r"must be \(4,\), one number for every row, not \(3,\)"),
        (np.ones((4, 1)), r"not \(4, 1\)"),
        (2.0, r"not \(\)"),
        (["a", "b", "c", "d"], "must be numbers"),
    ],
)
def test_weights_that_are_none_are_refused_in_one_line(weights, message):
    X, Y = np.arange(4.0)[:, None], np.arange(4.0)
    with pytest.raises(InputError, match=message) as caught:
        MultiOutputBooster().fit(X, Y, weights)
    assert "\n" not in str(caught.value)
