"""A naive float64 tree builder, and problems to compare engines with it on.

Every tree of a fit is walked node by node, on the residuals that the fit's own trees before it leave; each split is
compared with a search over all thresholds by the definition of the gain, with weights w_i,

    |Σ_L w r|²/(W_L + λ) + |Σ_R w r|²/(W_R + λ) − |Σ w r|²/(W + λ)
"""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import strategies as st

from rapids_pipeline.boosting.engines import Settings, Watch
from rapids_pipeline.boosting.exact.engine import fit, sample

DEFAULTS = Settings(
    n_estimators=3,
    learning_rate=0.3,
    max_depth=4,
    min_samples_leaf=1,
    colsample=1.0,
    subsample=1.0,
    reg_lambda=1.0,
    max_bins=256,
    seed=0,
    device="cpu",
    n_jobs=1,
)


def grown(X, Y, weights=None, **changes):
    return fit(X, Y, replace(DEFAULTS, **changes), Watch(), weights=weights).model


def bits(model):
    return b"".join(array.tobytes() for array in model.state().values())


def columns_of(kinds, n, rng):
    """Columns of every awkward kind."""
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


KINDS = ("numbers", "levels", "constant", "duplicate", "missing", "all missing", "missing or not")


@st.composite
def problems(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n = draw(st.one_of(st.integers(1, 12), st.integers(13, 90)))
    X = columns_of(draw(st.lists(st.sampled_from(KINDS), min_size=1, max_size=7)), n, rng)
    d = draw(st.sampled_from((1, 2, 16, 17, 45, 63, 65, 90, 130)))
    Y = rng.normal(size=(n, d)) * draw(st.sampled_from((1e-3, 1.0, 1e4))) + draw(st.sampled_from((0.0, 50.0)))
    if draw(st.booleans()):
        Y += np.nan_to_num(X[:, :1]) * rng.normal(size=d)
    if draw(st.booleans()):
        Y[:, 0] = 1.0
    options = {
        "max_depth": draw(st.integers(1, 6)),
        "min_samples_leaf": draw(st.sampled_from((1, 1, 2, 5))),
        "reg_lambda": draw(st.sampled_from((0.0, 1.0, 3.5))),
        "max_bins": draw(st.sampled_from((3, 8, 256))),
        "learning_rate": draw(st.sampled_from((1.0, 0.3, 0.01))),
        "colsample": draw(st.sampled_from((1.0, 0.5))),
        "subsample": draw(st.sampled_from((1.0, 0.7))),
    }
    return X, Y.astype(np.float32), options


def borders_of(column, max_bins):
    numbers = np.sort(column[~np.isnan(column)])
    borders = np.unique(numbers)[:-1]
    if len(borders) > max_bins - 2:
        borders = np.unique(numbers[(np.linspace(0, 1, max_bins) * len(numbers))[1:-1].astype(int)])
    return borders


def goes_left(column, threshold, nan_left):
    return np.where(np.isnan(column), nan_left, column <= threshold)


def naive_gains(residual, weights, left, lam):
    """The gains of splits in float64, by their definition; `left` has a row for each split, True where it goes left."""

    def values(rows):
        return np.sum((rows @ (weights[:, None] * residual)) ** 2, axis=1) / (rows @ weights + lam)

    return values(left) + values(~left) - values(np.ones((1, len(weights)), bool))


def naive_best(X, residual, weights, rows, columns, thresholds, lam, min_leaf):
    """The best split of a node by every threshold, NaN on either side: (gain, column, rows that go left)."""
    best = (0.0, None, None)
    absent = np.isnan(X[rows]).any(axis=0)
    for nan_left in (True, False):
        for column in columns if nan_left else [column for column in columns if absent[column]]:
            left = goes_left(X[rows, column], np.asarray(thresholds[column])[:, None], nan_left)
            left = left[np.minimum(left.sum(axis=1), (~left).sum(axis=1)) >= min_leaf]
            for split, gain in zip(left, naive_gains(residual[rows], weights[rows], left, lam), strict=True):
                if gain > best[0] * (1 + 1e-12):
                    best = (gain, column, split)
    return best


def check_leaf(leaf, residual, weights, options):
    sums = options["learning_rate"] / (weights.sum() + options["reg_lambda"])
    expected = sums * (weights[:, None] * residual).sum(axis=0)
    scale = sums * np.abs(weights[:, None] * residual).sum(axis=0)
    np.testing.assert_array_less(np.abs(leaf - expected), 1e-6 * scale + 1e-30)


def check_tree(model, tree, X, residual, weights, rows, columns, thresholds, options, least):
    """Compare one tree with the naive search node by node; return its prediction for all rows, and the near ties."""
    lam, min_leaf = options["reg_lambda"], options["min_samples_leaf"]
    predicted, differing = np.zeros(residual.shape), 0
    first, last = model.node_offset[tree : tree + 2]
    root = first if first < last else -1 - model.leaf_offset[tree]
    waiting = [(root, rows, np.arange(len(X)), 0)]
    while waiting:
        at, here, everyone, depth = waiting.pop()
        searched = depth < options["max_depth"] and len(here) >= max(2, 2 * min_leaf)
        best = (0.0, None, None)
        if searched:
            best = naive_best(X, residual, weights, here, columns, thresholds, lam, min_leaf)
        if at < 0:
            squares = np.sum(weights[here, None] * residual[here] ** 2)
            assert best[0] <= least * (1 + 1e-6) + 1e-13 * squares
            check_leaf(model.leaves[-1 - at], residual[here], weights[here], options)
            predicted[everyone] = model.leaves[-1 - at]
            continue
        assert searched
        feature, threshold = model.feature[at], model.threshold[at]
        left = goes_left(X[here, feature], threshold, model.nan_left[at])
        assert min(left.sum(), (~left).sum()) >= min_leaf
        [gain] = naive_gains(residual[here], weights[here], left[None], lam)
        total = (weights[here, None] * residual[here]).sum(axis=0)
        resolution = 1e-13 * np.sum(total**2) / (weights[here].sum() + lam)
        if (left != best[2]).any():
            differing += 1
            assert gain == pytest.approx(best[0], rel=1e-6, abs=resolution)
        elif feature != best[1]:  # the same rows by another column
            assert gain == pytest.approx(best[0], rel=1e-10, abs=resolution)
        assert model.gain[at] == pytest.approx(gain, rel=1e-5, abs=resolution)
        side = goes_left(X[everyone, feature], threshold, model.nan_left[at])
        waiting.append((model.children[at, 0], here[left], everyone[side], depth + 1))
        waiting.append((model.children[at, 1], here[~left], everyone[~side], depth + 1))
    return predicted, differing


def check_against_naive(X, Y, options, weights=None):
    """Every tree of a fit, each on the residuals that the fit's own trees before it leave; return the near ties."""
    model = grown(X, Y, weights, **options)
    weights = np.ones(len(X)) if weights is None else weights
    n, p = X.shape
    thresholds = [[-np.inf, *borders_of(X[:, f], options["max_bins"])] for f in range(p)]
    base = np.average(Y.astype(float), axis=0, weights=weights)
    np.testing.assert_allclose(model.base, base, rtol=1e-6, atol=1e-6 * np.abs(Y).max())
    predicted = np.repeat(model.base[None].astype(float), n, axis=0)
    least = 1e-12 * np.sum(weights[:, None] * (Y - model.base).astype(float) ** 2)
    rng, differing = np.random.default_rng(options.get("seed", DEFAULTS.seed)), 0
    for tree in range(model.n_trees):
        columns = sample(rng, p, options["colsample"])
        rows = sample(rng, n, options["subsample"])
        residual = (Y - predicted).astype(np.float32).astype(float)
        added, ties = check_tree(model, tree, X, residual, weights, rows, columns, thresholds, options, least)
        predicted += added
        differing += ties
    spread = np.abs(Y).max() + 1e-30
    np.testing.assert_allclose(model.predict(X), predicted, atol=1e-5 * spread)
    return differing


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


def problem(n=200, p=8, n_outputs=4, seed=0, missing=0.0, noise=0.1):
    """Output t is the sign of column t and column t + 1, NaN counting as 0, and noise."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, p)).astype(np.float32)
    X[rng.random(X.shape) < missing] = np.nan
    known = np.nan_to_num(X)
    signal = np.stack([np.sign(known[:, t]) + known[:, t + 1] for t in range(n_outputs)], axis=1)
    return X, (signal + noise * rng.normal(size=signal.shape)).astype(np.float32)


def some(n=300, d=20, seed=0, kinds=KINDS + ("numbers",) * 6):
    rng = np.random.default_rng(seed)
    X = columns_of(kinds, n, rng)
    Y = np.nan_to_num(X[:, -3:]) @ rng.normal(size=(3, d)) + rng.normal(size=(n, d))
    return X, Y.astype(np.float32), np.exp(rng.normal(size=n))
