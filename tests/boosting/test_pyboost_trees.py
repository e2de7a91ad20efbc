"""Py-Boost's trees as ours: against its own recorded predictions, and naive loops of its prediction rules."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.boosting.pyboost_trees import Step, converted, to_tree_ensemble

RECORDED = Path(__file__).parent / "data" / "pyboost.npz"
MODELS = {"plain": 6, "groups": 3, "stumps": 2, "sketch": 4}


def recorded(name):
    """Return a recorded model as Py-Boost would hand it over, with rows and its predictions for them."""
    with np.load(RECORDED) as stream:
        arrays = {key[len(name) + 1 :]: stream[key] for key in stream if key.startswith(f"{name}/")}
    trees = [
        SimpleNamespace(**{key.split("/")[1]: arrays[key] for key in arrays if key.startswith(f"{step}/")})
        for step in range(MODELS[name])
    ]
    loss = type("MSELoss", (), {})()
    model = SimpleNamespace(
        models=trees, base_score=arrays["base_score"], loss=loss, to_cpu=lambda: None, params={}
    )
    return model, arrays["X"], arrays["predicted"]


@pytest.mark.parametrize("name", MODELS)
def test_a_recorded_model_converts_to_its_own_predictions_bit_for_bit(name):
    model, X, predicted = recorded(name)
    ours = to_tree_ensemble(model)
    np.testing.assert_array_equal(ours.predict(X), predicted)
    assert ours.n_trees == sum(len(tree.test_format_offsets) for tree in model.models)
    if name != "stumps":
        assert np.isnan(X).any() and np.isin(ours.threshold, X).sum() > 10  # rows exactly at thresholds
        assert not ours.nan_left.all()


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("kept", ["gains", "sums"])
def test_importances_are_py_boosts(name, kept):
    model, _, _ = recorded(name)
    by_gain = sum(tree.feature_importance_gain.astype(float) for tree in model.models)
    by_split = sum(tree.feature_importance_split.astype(float) for tree in model.models)
    if kept == "sums":  # as without debug=True
        for tree in model.models:
            tree.gains = tree.feats = None
    ours = to_tree_ensemble(model)
    np.testing.assert_allclose(ours.importances("gain"), by_gain / (by_gain.sum() or 1), rtol=1e-5)
    np.testing.assert_allclose(ours.importances("split"), by_split / (by_split.sum() or 1), rtol=1e-6)


def by_the_arrays_of_training(tree, X, predicted):
    """Add one step, row by row (`node_index_kernel` and `apply_values_kernel` of `py_boost/gpu/utils.py`)."""
    for row, x in enumerate(X):
        for out, group in enumerate(tree.group_index.astype(int)):
            node = 0
            while tree.feats[group, node] >= 0:
                value = x[tree.feats[group, node]]
                if np.isnan(value):
                    right = 1 - int(tree.nans[group, node])
                else:
                    right = int(value > tree.val_splits[group, node])
                node = tree.split[group, node, right]
            predicted[row, out] += tree.values[tree.leaves[node, group], out]


@pytest.mark.parametrize("name", MODELS)
def test_a_recorded_model_agrees_with_its_arrays_of_training(name):
    model, X, _ = recorded(name)
    expected = np.repeat(model.base_score[None], len(X), axis=0)
    for tree in model.models:
        by_the_arrays_of_training(tree, X, expected)
    np.testing.assert_array_equal(to_tree_ensemble(model).predict(X), expected)


def random_step(rng, p, d, max_depth):
    """Return arrays in the layout of `Tree.reformat`: level by level, thresholds of every kind."""
    group_index = rng.integers(0, 3, size=d) if d > 1 else np.zeros(1, int)
    nodes, offsets, most = [], [], 1
    for _ in range(group_index.max() + 1):
        offsets.append(len(nodes))
        own, leaves, waiting = [], 0, [0]
        while waiting:  # the depths of the nodes that have numbers but are not written yet
            depth, links = waiting.pop(0), []
            for _ in range(2):
                if depth + 1 < max_depth and rng.random() < 0.7:
                    waiting.append(depth + 1)
                    links.append(len(own) + len(waiting))
                else:
                    leaves += 1
                    links.append(-leaves)
            threshold = rng.choice([-np.inf, np.inf, *np.arange(-3, 4)], p=[0.05, 0.05, *[0.9 / 7] * 7])
            own.append([rng.choice([-1, 1]) * rng.integers(1, p + 1), threshold, *links])
        nodes += own if rng.random() > 0.1 else [[1, 0, -1, -1]]
        most = max(most, leaves)
    values = rng.normal(size=(most, d)).astype(np.float32)
    nodes = np.array(nodes, dtype=np.float32)
    return Step(nodes, np.array(offsets), values, group_index, rng.random(len(nodes)).astype(np.float32))


def by_the_kernels(steps, base, X):
    """Predict row by row (`generic_tree_prediction_leaves_kernel`, `tree_prediction_values_kernel`)."""
    predicted = np.repeat(base[None], len(X), axis=0)
    for step in steps:
        for row, x in enumerate(X):
            for out, group in enumerate(step.group_index):
                node = 0
                while node >= 0:
                    feature, threshold, left, right = step.nodes[step.offsets[group] + node]
                    value = x[abs(int(feature)) - 1]
                    goes_right = feature > 0 if np.isnan(value) else value > threshold
                    node = int(right if goes_right else left)
                predicted[row, out] += step.values[-node - 1, out]
    return predicted


@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.integers(1, 4), st.integers(1, 6))
def test_random_trees_predict_what_the_kernels_would(seed, p, d, max_depth):
    rng = np.random.default_rng(seed)
    steps = [random_step(rng, p, d, max_depth) for _ in range(2)]
    base = rng.normal(size=d).astype(np.float32)
    X = np.concatenate([rng.integers(-4, 5, size=(15, p)), rng.normal(size=(5, p))]).astype(np.float32)
    X[rng.random(X.shape) < 0.2] = np.nan
    ours = converted(steps, base, p)
    np.testing.assert_array_equal(ours.predict(X), by_the_kernels(steps, base, X))
    assert (ours.children[ours.children >= 0].size + ours.leaves.shape[0]) > 0


def test_only_squared_error_and_finite_leaves_are_converted():
    model, _, _ = recorded("plain")
    model.models[0].values = np.full_like(model.models[0].values, np.nan)
    with pytest.raises(InputError, match="the Py-Boost model holds no usable trees: leaves"):
        to_tree_ensemble(model)
    model.loss = type("BCELoss", (), {})()
    with pytest.raises(InputError, match=r"squared error.*BCELoss"):
        to_tree_ensemble(model)
