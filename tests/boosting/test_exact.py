"""The exact engine against a naive float64 tree builder and scikit-learn, and its properties, weights among them."""

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.tree import DecisionTreeRegressor

from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.boosting import MultiOutputBooster
from rapids_pipeline.boosting.exact.bins import Mirrors, QuantileBins
from rapids_pipeline.boosting.exact.engine import sample
from tests.boosting.naive_trees import (
    DEFAULTS,
    KINDS,
    WEIGHTS,
    bits,
    check_against_naive,
    columns_of,
    goes_left,
    grown,
    problems,
    some,
    weights_of,
)


@settings(max_examples=250, deadline=None)
@given(problems(), st.sampled_from((None, None, None, *WEIGHTS)), st.integers(0, 1000))
def test_every_split_and_leaf_equals_a_naive_search(problem, kind, seed):
    X, Y, options = problem
    weights = None if kind is None else weights_of(kind, len(X), np.random.default_rng(seed))
    check_against_naive(X, Y, options, weights)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("min_leaf", [1, 2, 3])
@pytest.mark.parametrize(("n", "d", "reg_lambda"), [(24, 45, 1.0), (30, 3, 0.0), (45, 70, 2.5)])
def test_nodes_of_few_rows_and_many_columns(n, d, reg_lambda, min_leaf, weighted):
    """With 70 columns, nodes of up to eight rows are searched by the table over all sets of rows."""
    rng = np.random.default_rng(n)
    X = columns_of(["numbers"] * 50 + ["levels", "missing", "constant", "duplicate"] * 5, n, rng)
    Y = rng.normal(size=(n, d)).astype(np.float32)
    changes = {"max_depth": 6, "n_estimators": 1, "min_samples_leaf": min_leaf, "reg_lambda": reg_lambda}
    weights = weights_of("far apart", n, rng) if weighted else None
    assert check_against_naive(X, Y, vars(DEFAULTS) | changes, weights) == 0


@pytest.mark.parametrize(
    ("n", "d", "weighted"), [(300, 45, True), (700, 45, False), (400, 100, True), (1500, 5, False)]
)
def test_larger_problems_have_the_very_splits_of_a_naive_search(n, d, weighted):
    rng = np.random.default_rng(n + d)
    X = columns_of(["numbers"] * 6 + ["levels", "missing"], n, rng)
    Y = (np.sin(2 * X[:, :3]) @ rng.normal(size=(3, d)) + rng.normal(size=(n, d))).astype(np.float32)
    options = vars(DEFAULTS) | {"max_depth": 5, "n_estimators": 2}
    weights = np.exp(rng.normal(size=n)) if weighted else None
    assert check_against_naive(X, Y, options, weights) <= 2  # so few are near ties


def test_equal_columns_the_first_one_wins_and_equal_thresholds_the_lowest():
    rng = np.random.default_rng(1)
    column = rng.normal(size=200).astype(np.float32)
    X = np.stack([column, column, -column], axis=1)
    Y = (np.sign(column)[:, None] * np.ones(20) + 0.1 * rng.normal(size=(200, 20))).astype(np.float32)
    model = grown(X, Y, max_depth=6)
    assert set(model.feature) == {0}
    X, Y = np.arange(4, dtype=np.float32)[:, None], np.array([[1.0], [-1.0], [-1.0], [1.0]], dtype=np.float32)
    model = grown(X, Y, max_depth=1, reg_lambda=0.0, n_estimators=1)
    assert model.threshold[0] == 0.0


def test_constant_targets_and_features_do_not_split():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(50, 3)).astype(np.float32)
    model = grown(X, np.full((50, 7), 0.1, dtype=np.float32))
    assert len(model.feature) == 0 and model.n_trees == 3
    np.testing.assert_array_equal(model.predict(X), np.full((50, 7), np.float32(0.1)))
    model = grown(np.ones_like(X), rng.normal(size=(50, 7)).astype(np.float32))
    assert len(model.feature) == 0


@pytest.mark.parametrize("exponent", [-100, -30, 30, 100])
def test_targets_in_another_unit_give_the_same_trees(exponent):
    rng = np.random.default_rng(0)
    X, Y = rng.normal(size=(150, 5)).astype(np.float32), rng.normal(size=(150, 20)).astype(np.float32)
    plain, scaled = grown(X, Y), grown(X, np.ldexp(Y, exponent))
    assert plain.threshold.tobytes() == scaled.threshold.tobytes() and len(plain.feature) > 20
    assert np.ldexp(plain.leaves, exponent).tobytes() == scaled.leaves.tobytes()
    assert np.isfinite(scaled.gain).all()


def test_a_depth_beyond_the_rows_is_no_limit():
    X = np.arange(12, dtype=np.float32)[:, None]
    Y = np.float32(2.0) ** X
    options = {"reg_lambda": 0.0, "learning_rate": 1.0, "n_estimators": 1}
    deep, deepest = (grown(X, Y, max_depth=depth, **options) for depth in (12, 10**9))
    np.testing.assert_allclose(deepest.predict(X), Y, rtol=1e-6)
    assert len(deepest.leaves) == 12 and deep.predict(X).tobytes() == deepest.predict(X).tobytes()


def test_same_seed_same_bits_in_threads_or_not():
    rng = np.random.default_rng(0)
    X, Y = columns_of(KINDS, 200, rng), rng.normal(size=(200, 45)).astype(np.float32)

    def arrays(seed):
        return bits(grown(X, Y, seed=seed, colsample=0.5, subsample=0.8, n_estimators=20, max_depth=6))

    alone = [arrays(seed) for seed in range(6)]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(arrays, range(6))) == alone
    assert len(set(alone)) == 6 and [arrays(seed) for seed in range(2)] == alone[:2]


def test_a_fit_holds_no_gil():
    rng = np.random.default_rng(0)
    X, Y = rng.normal(size=(1500, 200)).astype(np.float32), rng.normal(size=(1500, 60)).astype(np.float32)
    grown(X[:50], Y[:50], n_estimators=1)
    with ThreadPoolExecutor(1) as pool:
        fit = pool.submit(grown, X, Y, n_estimators=10, max_depth=8)
        turns = 0
        while not fit.done():
            turns += 1
            time.sleep(1e-3)
        fit.result()
    assert turns > 10  # this thread ran beside it


def test_rows_and_columns_are_sampled_without_replacement():
    rng = np.random.default_rng(0)
    for share, count in ((1.0, 10), (0.5, 5), (0.01, 1)):
        drawn = sample(rng, 10, share)
        assert len(np.unique(drawn)) == count == len(drawn) and (np.diff(drawn) > 0).all()
    X, Y = rng.normal(size=(100, 8)).astype(np.float32), rng.normal(size=(100, 3)).astype(np.float32)
    model = grown(X, Y, colsample=0.25, n_estimators=12)
    used = [set(model.feature[a:b]) for a, b in zip(model.node_offset, model.node_offset[1:], strict=False)]
    assert all(len(columns) <= 2 for columns in used) and len(set().union(*used)) > 2


def test_bins_follow_the_rule_of_py_boost():
    x = np.array([3.0, np.nan, 1.0, 1.0, 2.0, -5.0], dtype=np.float32)
    bins = QuantileBins.fit(x[:, None], 256)
    np.testing.assert_array_equal(bins.of(0), [-5.0, 1.0, 2.0])
    np.testing.assert_array_equal(bins.codes(x[:, None])[0], [4, 0, 2, 2, 3, 1])
    np.testing.assert_array_equal(bins.codes(np.array([[9.0], [-9.0], [1.5]], np.float32))[0], [4, 1, 3])
    many = np.random.default_rng(0).normal(size=2000).astype(np.float32)
    quantiles = np.sort(many)[(np.linspace(0, 1, 256) * 2000)[1:-1].astype(int)]
    bins = QuantileBins.fit(many[:, None], 256)
    np.testing.assert_array_equal(bins.of(0), quantiles)  # 254 borders
    assert bins.codes(many[:, None]).max() == 255
    for max_bins in (3, 10, 100):
        assert len(QuantileBins.fit(many[:, None], max_bins).of(0)) == max_bins - 2
    empty = QuantileBins.fit(np.full((4, 1), np.nan, np.float32), 256)
    assert not empty.of(0).size and not empty.codes(np.full((4, 1), np.nan, np.float32)).any()


@pytest.mark.parametrize("max_bins", [3, 17, 256])
def test_codes_and_thresholds_say_the_same(max_bins):
    rng = np.random.default_rng(0)
    X = columns_of(KINDS, 300, rng)
    bins = QuantileBins.fit(X, max_bins)
    codes = bins.codes(X)
    mirrors = Mirrors.of(codes)
    whole = mirrors.beside(codes)
    mixed = np.isnan(X).any(axis=0) & ~np.isnan(X).all(axis=0)
    assert (
        mirrors.columns.tolist() == np.flatnonzero(mixed).tolist() and len(whole) == len(codes) + mixed.sum()
    )
    for searched in range(len(whole)):
        for cut in range(255):
            splits = mirrors.resolved(np.array([searched], np.int32), np.array([cut], np.int32))
            [threshold], [nan_left] = bins.thresholds(*splits[:2]), splits[2]
            column = X[:, splits[0][0]]
            np.testing.assert_array_equal(whole[searched] <= cut, goes_left(column, threshold, nan_left))


def test_mirrors_are_searched_with_their_columns():
    mirrors = Mirrors(np.array([1, 4], np.int32), 6)
    assert mirrors.searched(np.array([0, 1, 2], np.int32)).tolist() == [0, 1, 2, 6]
    assert mirrors.searched(np.array([4, 1], np.int32)).tolist() == [4, 1, 6, 7]
    assert mirrors.searched(np.array([0, 5], np.int32)).tolist() == [0, 5]


@pytest.mark.parametrize("weights", [None, "far apart"])
def test_nan_learns_the_side_that_gains_more(weights):
    """One split suffices where NaN belongs to the high numbers; new rows follow it."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(400, 3)).astype(np.float32)
    X[rng.random(400) < 0.3, 1] = np.nan
    Y = np.where(np.isnan(X[:, 1]) | (X[:, 1] > 0.5), 2.0, -1.0).astype(np.float32)[:, None]
    given = None if weights is None else weights_of(weights, 400, rng)
    options = {"max_depth": 1, "n_estimators": 1, "learning_rate": 1.0, "reg_lambda": 0.0}
    model = grown(X, Y, given, **options)
    assert not model.nan_left[0] and model.feature[0] == 1
    np.testing.assert_allclose(model.predict(X), Y, atol=1e-5)
    new = np.array([[0, np.nan, 0], [0, 9, 0], [0, -9, 0]], np.float32)
    np.testing.assert_allclose(model.predict(new)[:, 0], [2, 2, -1], atol=1e-5)
    mirrored = grown(-X, Y, given, **options)
    assert mirrored.nan_left[0], "the same with the low numbers"
    np.testing.assert_allclose(mirrored.predict(-X), Y, atol=1e-5)
    apart = grown(X, np.isnan(X[:, 1:2]).astype(np.float32), given, **options)
    assert apart.nan_left[0] and apart.threshold[0] == -np.inf, "left where both sides gain the same"


def test_too_many_rows_are_refused(monkeypatch):
    monkeypatch.setattr("rapids_pipeline.boosting.exact.engine.ROW_BITS", 4)
    with pytest.raises(InputError, match="fewer than 16 rows, not 20"):
        grown(np.zeros((20, 1), np.float32), np.zeros((20, 1), np.float32))


# --- weights ----------------------------------------------------------------------------------------------------------


def test_weights_of_one_give_the_bits_of_no_weights():
    X, Y, _ = some(n=800, d=30)
    for changes in ({"max_depth": 7}, {"colsample": 0.5, "subsample": 0.7, "min_samples_leaf": 4}):
        assert bits(grown(X, Y, np.ones(len(X)), **changes)) == bits(grown(X, Y, **changes))


def test_one_tree_is_that_of_scikit_learn():
    X, Y, weights = some(kinds=["numbers"] * 8, d=6, n=200)
    model = grown(X, Y, weights, n_estimators=1, learning_rate=1.0, reg_lambda=0.0, max_depth=5)
    theirs = DecisionTreeRegressor(max_depth=5, random_state=0).fit(X, Y, sample_weight=weights)
    np.testing.assert_allclose(model.predict(X), theirs.predict(X), atol=1e-5)


def test_whole_weights_are_repeated_rows():
    rng = np.random.default_rng(0)
    X = rng.integers(0, 40, size=(300, 6)).astype(np.float32)  # few values: repeated rows have the same bins
    X[rng.random(X.shape) < 0.1] = np.nan
    Y = (np.nan_to_num(X[:, :3]) @ rng.normal(size=(3, 17)) + rng.normal(size=(300, 17))).astype(np.float32)
    times = rng.integers(0, 5, len(X))
    options = {"n_estimators": 6, "max_depth": 6, "colsample": 0.7, "learning_rate": 0.3}
    weighted = MultiOutputBooster(**options).fit(X, Y, times).model_
    repeated = (
        MultiOutputBooster(**options).fit(np.repeat(X, times, axis=0), np.repeat(Y, times, axis=0)).model_
    )
    np.testing.assert_array_equal(weighted.feature, repeated.feature)
    np.testing.assert_array_equal(weighted.threshold, repeated.threshold)
    np.testing.assert_allclose(weighted.gain, repeated.gain, rtol=1e-5)
    np.testing.assert_allclose(weighted.leaves, repeated.leaves, atol=1e-5)
    assert len(weighted.feature) > 100


def test_rows_that_vanish_beside_another():
    X, Y, _ = some()
    for least in (1e-300, 1e-21, 1e-19, 1e-9):
        weights = np.where(np.arange(len(X)) == 5, 1.0, least)
        for lam in (0.0, 1.0):
            model = MultiOutputBooster(n_estimators=3, reg_lambda=lam, subsample=0.5)
            assert np.isfinite(model.fit(X, Y, weights).predict(X)).all()
        np.testing.assert_allclose(model.model_.base, Y[5], rtol=1e-4)


def test_the_smallest_leaf_counts_rows():
    X = np.arange(10, dtype=np.float32)[:, None]
    Y = (X == 9).astype(np.float32)
    weights = np.where(X[:, 0] == 9, 100.0, 1.0)
    model = grown(X, Y, weights, n_estimators=1, max_depth=1, min_samples_leaf=3)
    assert model.threshold[0] == 6.0
