"""The hist engine against the exact engine, a naive float64 search, XGBoost, and its properties."""

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.boosting import exact, histogram
from rapids_pipeline.boosting.sketch import Sketch
from rapids_pipeline.boosting.training import Settings, Watch

pytest.importorskip("numba")

DEFAULTS = Settings(
    n_estimators=3,
    learning_rate=0.3,
    max_depth=4,
    min_samples_leaf=1,
    colsample=1.0,
    subsample=1.0,
    reg_lambda=1.0,
    max_bins=256,
    early_stopping_rounds=None,
    seed=0,
    device="cpu",
    n_jobs=1,
)
KINDS = ("numbers", "levels", "constant", "duplicate", "missing", "all missing", "missing or not")
NEAR_TIE = 1e-6


def options_of(changes):
    return Settings(**(vars(DEFAULTS) | changes))


def grown(X, Y, sketch=None, **changes):
    return histogram.fit(X, Y, options_of(changes), Watch(), sketch=sketch).model


@pytest.fixture(autouse=True)
def histograms_everywhere(monkeypatch):
    """No node is left to the exact engine, and histograms are kept from 2 rows a bin on."""
    monkeypatch.setattr(histogram, "SMALL_NODE", 1)
    monkeypatch.setattr(histogram, "KEPT_ROWS_A_BIN", 2)


def columns_of(kinds, n, rng):
    made = []
    for kind in kinds:
        column = rng.normal(size=n)
        if kind == "levels":
            column = rng.integers(0, 3, size=n).astype(float)
        elif kind == "constant":
            column[:] = 2.5
        elif kind == "duplicate" and made:
            column = made[0].copy()
        elif kind == "missing":
            column[rng.random(n) < 0.3] = np.nan
        elif kind == "all missing":
            column[:] = np.nan
        elif kind == "missing or not":
            column = np.where(rng.random(n) < 0.5, np.nan, 1.0)
        made.append(column)
    return np.stack(made, axis=1).astype(np.float32)


@st.composite
def problems(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n = draw(st.one_of(st.integers(1, 12), st.integers(13, 400)))
    X = columns_of(draw(st.lists(st.sampled_from(KINDS), min_size=1, max_size=7)), n, rng)
    d = draw(st.sampled_from((1, 2, 15, 16, 45, 48, 70)))
    Y = rng.normal(size=(n, d)) * draw(st.sampled_from((1e-3, 1.0, 1e4))) + draw(st.sampled_from((0.0, 50.0)))
    if draw(st.booleans()):
        Y += 3 * np.nan_to_num(X[:, :1]) * rng.normal(size=d)
    if draw(st.booleans()):
        Y[:, 0] = 1.0
    options = {
        "max_depth": draw(st.integers(1, 7)),
        "min_samples_leaf": draw(st.sampled_from((1, 1, 2, 5))),
        "reg_lambda": draw(st.sampled_from((0.0, 1.0, 3.5))),
        "max_bins": draw(st.sampled_from((3, 8, 32, 256))),
        "learning_rate": draw(st.sampled_from((1.0, 0.3, 0.01))),
        "colsample": draw(st.sampled_from((1.0, 0.5))),
        "subsample": draw(st.sampled_from((1.0, 0.7))),
        "seed": draw(st.integers(0, 5)),
    }
    return X, Y.astype(np.float32), options


def assert_same_trees(ours, theirs):
    """The same nodes and leaves; from a near tie on, trees may differ and are not compared. Return the ties."""
    ties = 0
    np.testing.assert_array_equal(ours.base, theirs.base)
    for tree in range(ours.n_trees):
        roots = [
            model.node_offset[tree]
            if model.node_offset[tree] < model.node_offset[tree + 1]
            else -1 - model.leaf_offset[tree]
            for model in (ours, theirs)
        ]
        waiting = [tuple(roots)]
        while waiting and not ties:
            a, b = waiting.pop()
            if a < 0 and b < 0:
                np.testing.assert_array_equal(ours.leaves[-1 - a], theirs.leaves[-1 - b])
                continue
            assert a >= 0 and b >= 0
            assert ours.gain[a] == pytest.approx(theirs.gain[b], rel=NEAR_TIE)
            if (ours.feature[a], ours.threshold[a]) != (theirs.feature[b], theirs.threshold[b]):
                ties += 1
                continue
            waiting += zip(ours.children[a], theirs.children[b], strict=True)
        if ties:  # the trees after it see other residuals
            break
    return ties


@settings(max_examples=150, deadline=None)
@given(problems())
def test_the_trees_are_those_of_the_exact_engine(problem):
    X, Y, options = problem
    theirs = exact.fit(X, Y, options_of(options), Watch()).model
    assert_same_trees(grown(X, Y, **options), theirs)


@pytest.mark.parametrize("small", [1, 20, 300, 10_000])
@pytest.mark.parametrize(("n", "d", "depth"), [(1500, 45, 7), (4000, 3, 12), (700, 130, 5)])
def test_larger_problems_have_the_very_trees_of_the_exact_engine(monkeypatch, n, d, depth, small):
    monkeypatch.setattr(histogram, "SMALL_NODE", small)
    rng = np.random.default_rng(n)
    X = columns_of(["numbers"] * 6 + ["levels", "missing", "duplicate", "missing or not"], n, rng)
    Y = (np.sin(2 * X[:, :3]) @ rng.normal(size=(3, d)) + rng.normal(size=(n, d))).astype(np.float32)
    options = {"max_depth": depth, "colsample": 0.8, "subsample": 0.9, "min_samples_leaf": 3, "max_bins": 64}
    theirs = exact.fit(X, Y, options_of(options), Watch()).model
    ours = grown(X, Y, **options)
    assert all(ours.arrays()[name].tobytes() == kept.tobytes() for name, kept in theirs.arrays().items())


def naive_gain(residual, left, lam):
    def value(rows):
        return np.sum(rows.sum(axis=0) ** 2) / (len(rows) + lam)

    return value(residual[left]) + value(residual[~left]) - value(residual)


@pytest.mark.parametrize(("n", "d", "lam", "min_leaf"), [(60, 4, 1.0, 1), (90, 17, 0.0, 4), (25, 1, 2.5, 2)])
def test_splits_and_leaves_equal_a_naive_float64_search(n, d, lam, min_leaf):
    rng = np.random.default_rng(n)
    X = columns_of(["numbers", "levels", "missing", "constant", "missing or not"], n, rng)
    Y = rng.normal(size=(n, d)).astype(np.float32)
    model = grown(X, Y, n_estimators=1, reg_lambda=lam, min_samples_leaf=min_leaf)
    residual = Y.astype(float) - model.base
    waiting = [(0, np.arange(n), 0)]
    while waiting:
        at, rows, depth = waiting.pop()
        best = 0.0
        for column in X.T if depth < DEFAULTS.max_depth else ():
            for threshold in (-np.inf, *np.unique(column[~np.isnan(column)])):
                left = np.isnan(column[rows]) | (column[rows] <= threshold)
                if min(left.sum(), (~left).sum()) >= min_leaf:
                    best = max(best, naive_gain(residual[rows], left, lam))
        if at < 0:
            assert best <= 1e-12 * np.sum(residual**2) * (1 + 1e-6)
            leaf = 0.3 * residual[rows].sum(axis=0) / (len(rows) + lam)
            np.testing.assert_allclose(model.leaves[-1 - at], leaf, rtol=1e-5, atol=1e-6)
            continue
        x = X[rows, model.feature[at]]
        left = np.isnan(x) | (x <= model.threshold[at])
        assert min(left.sum(), (~left).sum()) >= min_leaf
        assert naive_gain(residual[rows], left, lam) == pytest.approx(best, rel=NEAR_TIE)
        assert model.gain[at] == pytest.approx(best, rel=1e-5)
        waiting += [
            (model.children[at, 0], rows[left], depth + 1),
            (model.children[at, 1], rows[~left], depth + 1),
        ]


def mixed(n=1200, d=20, seed=0):
    rng = np.random.default_rng(seed)
    X = columns_of(KINDS + ("numbers",) * 6, n, rng)
    Y = np.nan_to_num(X[:, -3:]) @ rng.normal(size=(3, d)) + rng.normal(size=(n, d))
    return X, Y.astype(np.float32)


def bits(model):
    return b"".join(array.tobytes() for array in model.arrays().values())


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("TILE_ROWS", (1, 7, 100)),
        ("BLOCK_BYTES", (0, 1 << 16)),
        ("KEPT_BYTES", (0, 1 << 18)),
        ("SMALL_NODE", (50,)),
    ],
)
def test_blocks_tiles_and_memory_do_not_change_the_trees(monkeypatch, name, values):
    X, Y = mixed()
    options = {"max_depth": 7, "max_bins": 32, "colsample": 0.8}
    whole = bits(grown(X, Y, **options))
    for value in values:
        monkeypatch.setattr(histogram, name, value)
        assert bits(grown(X, Y, **options)) == whole


def test_subtracted_histograms_lead_to_the_same_splits(monkeypatch):
    """Kept from the first node to the last, with a mean far from zero in the nodes."""
    monkeypatch.setattr(histogram, "KEPT_ROWS_A_BIN", 0)
    rng = np.random.default_rng(0)
    X = rng.normal(size=(3000, 8)).astype(np.float32)
    Y = (1000 * np.sign(X[:, :1]) + rng.normal(size=(3000, 20))).astype(np.float32)
    options = {"max_depth": 8, "reg_lambda": 0.0, "min_samples_leaf": 8}
    theirs = exact.fit(X, Y, options_of(options), Watch()).model
    assert bits(grown(X, Y, **options)) == bits(theirs)


def test_same_seed_same_bits_in_threads_or_not():
    X, Y = mixed()
    sketches = (None, Sketch("random_projection", 3), Sketch("top_outputs", 3))

    def trees(seed):
        return bits(grown(X, Y, sketches[seed % 3], seed=seed, colsample=0.5, subsample=0.8))

    alone = [trees(seed) for seed in range(6)]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(trees, range(6))) == alone
    assert len(set(alone)) == 6


def test_a_fit_holds_no_gil():
    X, Y = mixed(n=4000, d=60)
    grown(X[:50], Y[:50], n_estimators=1)
    with ThreadPoolExecutor(1) as pool:
        fit = pool.submit(grown, X, Y, n_estimators=2, max_depth=8)
        turns = 0
        while not fit.done():
            turns += 1
            time.sleep(1e-3)
        fit.result()
    assert turns > 10  # this thread ran beside it


def test_one_row_and_constant_targets_do_not_split():
    X, Y = mixed(n=1)
    assert len(grown(X, Y).feature) == 0
    X, Y = mixed(n=40)
    model = grown(X, np.full((40, 7), 0.1, np.float32))
    assert len(model.feature) == 0 and model.n_trees == 3
    np.testing.assert_array_equal(model.predict(X), np.full((40, 7), np.float32(0.1)))


@pytest.mark.parametrize("exponent", [-100, 100])
def test_targets_in_another_unit_give_the_same_trees(exponent):
    X, Y = mixed(n=300)
    plain, scaled = grown(X, Y), grown(X, np.ldexp(Y, exponent))
    assert plain.threshold.tobytes() == scaled.threshold.tobytes() and len(plain.feature) > 20
    assert np.ldexp(plain.leaves, exponent).tobytes() == scaled.leaves.tobytes()


def test_early_stopping_and_progress_are_those_of_the_exact_engine():
    X, Y = mixed(n=300)
    outcomes = []
    for engine in (histogram, exact):
        seen = []
        watch = Watch(4, lambda *news, seen=seen: seen.append(news))
        options = options_of({"n_estimators": 40, "early_stopping_rounds": 4, "max_depth": 6})
        trained = engine.fit(X[:200], Y[:200], options, watch, (X[200:], Y[200:]))
        assert trained.model.n_trees == watch.best < len(trained.validation_scores) < 40
        outcomes.append((seen, trained.validation_scores, bits(trained.model)))
    assert outcomes[0] == outcomes[1]


@pytest.mark.parametrize("small", [1, 200])
def test_a_sketch_of_all_outputs_is_no_sketch(monkeypatch, small):
    monkeypatch.setattr(histogram, "SMALL_NODE", small)
    X, Y = mixed(n=500, d=6)
    for kind in ("random_projection", "top_outputs"):
        assert bits(grown(X, Y, Sketch(kind, 6))) == bits(grown(X, Y))


@pytest.mark.parametrize("small", [1, 200])
def test_leaves_of_a_sketched_tree_are_those_of_all_outputs(monkeypatch, small):
    monkeypatch.setattr(histogram, "SMALL_NODE", small)
    X, Y = mixed(n=500, d=30)
    for kind in ("random_projection", "top_outputs"):
        model = grown(X, Y, Sketch(kind, 3), n_estimators=1, learning_rate=1.0, reg_lambda=0.0)
        predicted = model.predict(X)
        _, leaf = np.unique(predicted, axis=0, return_inverse=True)
        for at in range(leaf.max() + 1):
            np.testing.assert_allclose(predicted[leaf == at][0], Y[leaf == at].mean(axis=0), atol=1e-5)
        assert leaf.max() > 5


def test_top_outputs_split_as_those_outputs_alone_would():
    X, Y = mixed(n=400, d=12)
    Y[:, [2, 7]] *= 50
    sketched = grown(X, Y, Sketch("top_outputs", 2), n_estimators=1)
    alone = grown(X, Y[:, [2, 7]], n_estimators=1)
    assert sketched.feature.tobytes() == alone.feature.tobytes()
    assert sketched.threshold.tobytes() == alone.threshold.tobytes()


def test_too_many_rows_are_refused(monkeypatch):
    monkeypatch.setattr(histogram, "MOST_ROWS", 16)
    with pytest.raises(InputError, match="fewer than 16 rows, not 20"):
        grown(np.zeros((20, 1), np.float32), np.zeros((20, 1), np.float32))


def test_the_error_is_that_of_xgboost(monkeypatch):
    """20,000 rows, 30 columns, 10 outputs: held-out RMSE within 1 % of `multi_output_tree`, or lower."""
    xgboost = pytest.importorskip("xgboost")
    from rapids_pipeline.boosting.xgboost import parameters

    monkeypatch.undo()
    rng = np.random.default_rng(0)
    X = rng.normal(size=(25_000, 30)).astype(np.float32)
    signal = np.sin(2 * X[:, :8]) @ rng.normal(size=(8, 10)) + np.sign(X[:, 8:12]) @ rng.normal(size=(4, 10))
    Y = (signal + rng.normal(size=signal.shape)).astype(np.float32)
    options = options_of({"n_estimators": 20, "max_depth": 6, "max_bins": 64})
    train, test = slice(20_000), slice(20_000, None)
    data = xgboost.QuantileDMatrix(X[train], Y[train], max_bin=64, nthread=1)
    theirs = xgboost.train(parameters(options), data, num_boost_round=20).predict(xgboost.DMatrix(X[test]))
    errors = []
    for predicted in (histogram.fit(X[train], Y[train], options, Watch()).model.predict(X[test]), theirs):
        errors.append(np.sqrt(np.mean((Y[test] - predicted) ** 2)))
    assert errors[0] <= 1.01 * errors[1] and errors[0] < 0.8 * Y[test].std()
