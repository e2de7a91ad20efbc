"""Weights of rows: against a naive float64 search, scikit-learn, XGBoost and repeated rows, and their properties."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.tree import DecisionTreeRegressor

from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.boosting import MultiOutputBooster, histogram
from rapids_pipeline.boosting.registry import ENGINES
from rapids_pipeline.boosting.sketch import Sketch, top_outputs
from rapids_pipeline.boosting.training import Settings, Watch
from tests.boosting.naive_trees import DEFAULTS, KINDS, check_against_naive, columns_of, grown, problems

pytest.importorskip("numba")
pytest.importorskip("xgboost")
ON_CPU = [name for name, engine in ENGINES.items() if "cpu" in engine.devices]


def weights_of(kind, n, rng):
    """Weights of every awkward kind, all above 0."""
    return {
        "ones": np.ones(n),
        "whole": rng.integers(1, 5, n).astype(float),
        "far apart": np.exp(rng.normal(scale=2.0, size=n)),
        "two kinds": np.where(rng.random(n) < 0.2, 1.0, 1e-4),
        "small": 1e-7 * rng.random(n) + 1e-9,
        "large": 1e9 * (0.01 + rng.random(n)),
    }[kind]


WEIGHTS = ("ones", "whole", "far apart", "two kinds", "small", "large")


def some(n=300, d=20, seed=0, kinds=KINDS + ("numbers",) * 6):
    rng = np.random.default_rng(seed)
    X = columns_of(kinds, n, rng)
    Y = np.nan_to_num(X[:, -3:]) @ rng.normal(size=(3, d)) + rng.normal(size=(n, d))
    return X, Y.astype(np.float32), np.exp(rng.normal(size=n))


def bits(model):
    return b"".join(array.tobytes() for array in model.arrays().values())


# --- the definition ---------------------------------------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(problems(), st.sampled_from(WEIGHTS), st.integers(0, 1000))
def test_every_split_and_leaf_of_exact_equals_a_naive_search(problem, kind, seed):
    X, Y, options = problem
    check_against_naive(X, Y, options, weights_of(kind, len(X), np.random.default_rng(seed)))


@settings(max_examples=100, deadline=None)
@given(problems(), st.sampled_from(WEIGHTS), st.integers(0, 1000), st.sampled_from((1, 20)))
def test_every_split_and_leaf_of_hist_equals_a_naive_search(problem, kind, seed, small):
    X, Y, options = problem
    weights = weights_of(kind, len(X), np.random.default_rng(seed))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(histogram, "SMALL_NODE", small)
        check_against_naive(X, Y, options, weights, histogram)


@pytest.mark.parametrize("min_leaf", [1, 2, 3])
@pytest.mark.parametrize(("n", "d", "reg_lambda"), [(24, 45, 1.0), (30, 3, 0.0), (45, 70, 2.5)])
def test_nodes_of_few_rows_and_many_columns(n, d, reg_lambda, min_leaf):
    """With 70 columns, nodes of up to eight rows are searched by the table over all sets of rows."""
    rng = np.random.default_rng(n)
    X = columns_of(["numbers"] * 50 + ["levels", "missing", "constant", "duplicate"] * 5, n, rng)
    Y = rng.normal(size=(n, d)).astype(np.float32)
    changes = {"max_depth": 6, "n_estimators": 1, "min_samples_leaf": min_leaf, "reg_lambda": reg_lambda}
    weights = weights_of("far apart", n, rng)
    assert check_against_naive(X, Y, vars(DEFAULTS) | changes, weights) == 0


@pytest.mark.parametrize(("n", "d"), [(700, 45), (400, 100), (1500, 5)])
def test_larger_problems_have_the_very_splits_of_a_naive_search(n, d):
    X, Y, weights = some(n, d, kinds=["numbers"] * 6 + ["levels", "missing"])
    options = vars(DEFAULTS) | {"max_depth": 5, "n_estimators": 2}
    assert check_against_naive(X, Y, options, weights) <= 2  # so few are near ties


@pytest.mark.parametrize("small", [1, 20, 300, 10_000])
@pytest.mark.parametrize(("n", "d", "depth"), [(1500, 45, 7), (4000, 3, 12), (700, 130, 5), (900, 15, 6)])
def test_hist_has_the_very_trees_of_exact(monkeypatch, n, d, depth, small):
    """15 outputs: the lanes of ones and of weights are in different vectors."""
    monkeypatch.setattr(histogram, "SMALL_NODE", small)
    monkeypatch.setattr(histogram, "KEPT_ROWS_A_BIN", 2)
    X, Y, weights = some(n, d)
    options = {"max_depth": depth, "colsample": 0.8, "subsample": 0.9, "min_samples_leaf": 3, "max_bins": 64}
    assert bits(grown(X, Y, weights, histogram, **options)) == bits(grown(X, Y, weights, **options))


def test_one_tree_is_that_of_scikit_learn():
    X, Y, weights = some(kinds=["numbers"] * 8, d=6, n=200)
    model = grown(X, Y, weights, n_estimators=1, learning_rate=1.0, reg_lambda=0.0, max_depth=5)
    theirs = DecisionTreeRegressor(max_depth=5, random_state=0).fit(X, Y, sample_weight=weights)
    np.testing.assert_allclose(model.predict(X), theirs.predict(X), atol=1e-5)


def test_the_trees_are_those_of_xgboost():
    X, Y, weights = some(n=100, d=4, kinds=["numbers"] * 8)
    X = np.round(X, 1)  # few values: both engines have a bin for each
    options = {"n_estimators": 10, "max_depth": 3, "colsample": 1.0, "reg_lambda": 2.0, "learning_rate": 0.3}
    ours, theirs = (MultiOutputBooster(engine=e, **options).fit(X, Y, weights) for e in ("exact", "xgboost"))
    np.testing.assert_allclose(ours.predict(X), theirs.predict(X), atol=1e-4)
    assert np.abs(ours.predict(X) - MultiOutputBooster(**options).fit(X, Y).predict(X)).max() > 0.1


# --- what weights must not change, and what they must -----------------------------------------------------------------


@pytest.mark.parametrize("sketch", [None, Sketch("random_projection", 3), Sketch("top_outputs", 3)])
@pytest.mark.parametrize("small", [1, 50, 10_000])
def test_ones_give_the_bits_of_no_weights(monkeypatch, small, sketch):
    monkeypatch.setattr(histogram, "SMALL_NODE", small)
    monkeypatch.setattr(histogram, "KEPT_ROWS_A_BIN", 2)
    X, Y, _ = some(n=800, d=30)
    ones = np.ones(len(X))
    for changes in ({"max_depth": 7}, {"colsample": 0.5, "subsample": 0.7, "min_samples_leaf": 4}):
        if sketch is None:
            assert bits(grown(X, Y, ones, **changes)) == bits(grown(X, Y, **changes))
        options = Settings(**(vars(DEFAULTS) | changes))
        fits = (histogram.fit(X, Y, options, Watch(), None, sketch, weights=w) for w in (ones, None))
        first, second = (bits(trained.model) for trained in fits)
        assert first == second


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


@pytest.mark.parametrize("engine", ["exact", "hist"])
@pytest.mark.parametrize("small", [1, 10_000])
def test_whole_weights_are_repeated_rows(monkeypatch, engine, small):
    monkeypatch.setattr(histogram, "SMALL_NODE", small)
    rng = np.random.default_rng(0)
    X = rng.integers(0, 40, size=(300, 6)).astype(
        np.float32
    )  # few values: the same bins, however often repeated
    X[rng.random(X.shape) < 0.1] = np.nan
    Y = (np.nan_to_num(X[:, :3]) @ rng.normal(size=(3, 17)) + rng.normal(size=(300, 17))).astype(np.float32)
    times = rng.integers(0, 5, len(X))
    options = {"n_estimators": 6, "max_depth": 6, "engine": engine, "colsample": 0.7, "learning_rate": 0.3}
    weighted = MultiOutputBooster(**options).fit(X, Y, times).model_
    repeated = (
        MultiOutputBooster(**options).fit(np.repeat(X, times, axis=0), np.repeat(Y, times, axis=0)).model_
    )
    np.testing.assert_array_equal(weighted.feature, repeated.feature)
    np.testing.assert_array_equal(weighted.threshold, repeated.threshold)
    np.testing.assert_allclose(weighted.gain, repeated.gain, rtol=1e-5)
    np.testing.assert_allclose(weighted.leaves, repeated.leaves, atol=1e-5)
    assert len(weighted.feature) > 100


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


def test_rows_that_vanish_beside_another():
    X, Y, _ = some()
    for least in (1e-300, 1e-21, 1e-19, 1e-9):
        weights = np.where(np.arange(len(X)) == 5, 1.0, least)
        for lam in (0.0, 1.0):
            for engine in ("exact", "hist"):
                model = MultiOutputBooster(n_estimators=3, engine=engine, reg_lambda=lam, subsample=0.5)
                assert np.isfinite(model.fit(X, Y, weights).predict(X)).all()
        np.testing.assert_allclose(model.model_.base, Y[5], rtol=1e-4)


@pytest.mark.parametrize("engine", ON_CPU)
def test_rows_of_more_weight_are_fitted_better(engine):
    X, Y, _ = some(n=400, d=5)
    heavy = np.arange(400) < 200
    model = MultiOutputBooster(engine=engine, n_estimators=20).fit(X, Y, np.where(heavy, 20.0, 1.0))
    errors = (model.predict(X) - Y) ** 2
    assert errors[heavy].mean() < 0.8 * errors[~heavy].mean()
    equal = (MultiOutputBooster(engine=engine, n_estimators=20).fit(X, Y).predict(X) - Y) ** 2
    assert errors[heavy].mean() < equal[heavy].mean()


def test_the_smallest_leaf_counts_rows():
    X = np.arange(10, dtype=np.float32)[:, None]
    Y = (X == 9).astype(np.float32)
    weights = np.where(X[:, 0] == 9, 100.0, 1.0)
    model = grown(X, Y, weights, n_estimators=1, max_depth=1, min_samples_leaf=3)
    assert model.threshold[0] == 6.0


def test_top_outputs_are_those_of_repeated_rows():
    rng = np.random.default_rng(0)
    gradients, times = rng.normal(size=(200, 40)).astype(np.float32), rng.integers(1, 6, 200)
    repeated = top_outputs(np.repeat(gradients, times, axis=0), 7)
    np.testing.assert_array_equal(top_outputs(gradients, 7, times.astype(float)), repeated)
    assert set(repeated) != set(top_outputs(gradients, 7))


def test_weights_are_left_alone_and_any_array_will_do():
    X, Y, weights = some(n=60, d=2)
    before = weights.copy()
    models = [MultiOutputBooster(n_estimators=3).fit(X, Y, w) for w in (weights, list(weights))]
    assert bits(models[0].model_) == bits(models[1].model_) and (weights == before).all()
    by_name = MultiOutputBooster(n_estimators=3).fit(X, Y, sample_weight=weights)
    assert bits(by_name.model_) == bits(models[0].model_)


@pytest.mark.parametrize("engine", ON_CPU)
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
def test_weights_that_are_none_are_refused_in_one_line(engine, weights, message):
    X, Y = np.arange(4.0)[:, None], np.arange(4.0)
    with pytest.raises(InputError, match=message) as caught:
        MultiOutputBooster(engine=engine).fit(X, Y, weights)
    assert "\n" not in str(caught.value)
