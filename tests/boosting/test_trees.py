"""The tree arrays: prediction against a loop over nodes, state, and what is refused."""

from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.backend.state import StateReader
from rapids_pipeline.boosting import MultiOutputBooster
from rapids_pipeline.boosting import trees as trees_module
from rapids_pipeline.boosting.trees import Tree, TreeEnsemble
from tests.boosting.naive_trees import bits


def random_tree(rng, depth):
    """Children of a random tree, in preorder."""
    children, leaves = [], 0

    def grow(level):
        nonlocal leaves
        if level == depth or rng.random() < 0.3:
            leaves += 1
            return -leaves
        node = len(children)
        children.append([0, 0])
        for side in range(2):
            children[node][side] = grow(level + 1)
        return node

    grow(0)
    return np.array(children, dtype=np.int32).reshape(-1, 2)


def ensemble(seed=0, n_trees=5, depth=4, d=3, p=4):
    rng = np.random.default_rng(seed)
    trees = []
    for _ in range(n_trees):
        children = random_tree(rng, depth)
        n_nodes = len(children)
        threshold = rng.integers(-2, 3, size=n_nodes).astype(np.float32)
        threshold[rng.random(n_nodes) < 0.1] = -np.inf
        trees.append(
            Tree(
                rng.integers(0, p, size=n_nodes).astype(np.int32),
                threshold,
                rng.random(n_nodes) < 0.5,
                children,
                rng.random(n_nodes).astype(np.float32),
                rng.normal(size=(n_nodes + 1, d)).astype(np.float32),
            )
        )
    return TreeEnsemble.of(trees, rng.normal(size=d).astype(np.float32), p)


def rows(n=200, p=4, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.integers(-3, 4, size=(n, p)).astype(np.float32)  # values on the thresholds, too
    X[rng.random(X.shape) < 0.1] = np.nan
    return X


def naive(trees, X):
    out = []
    for x in X:
        total = trees.base.copy()
        for tree in range(trees.n_trees):
            first, last = trees.node_offset[tree : tree + 2]
            at = first if first < last else -1 - trees.leaf_offset[tree]
            while at >= 0:
                value = x[trees.feature[at]]
                right = not trees.nan_left[at] if np.isnan(value) else value > trees.threshold[at]
                at = trees.children[at, int(right)]
            total = total + trees.leaves[-1 - at]
        out.append(total)
    return np.array(out)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 7), st.integers(0, 5), st.integers(1, 40))
def test_prediction_equals_a_loop_over_nodes_to_the_bit_in_threads_or_alone(seed, n_trees, depth, d):
    trees, X = ensemble(seed, n_trees, depth, d), rows(70, seed=seed)
    expected = naive(trees, X)
    assert len(X) <= trees_module.FEW_ROWS
    assert trees.predict(X).tobytes() == expected.tobytes()
    with mock.patch.object(trees_module, "FEW_ROWS", 0):  # by numba
        assert trees.predict(X).tobytes() == expected.tobytes()
        assert trees.predict(X, n_threads=3).tobytes() == expected.tobytes()
    alone = np.vstack([trees.predict(x[None]) for x in X[:20]])
    assert alone.tobytes() == expected[:20].tobytes()


def test_the_first_trees_are_an_ensemble():
    trees, X = ensemble(n_trees=6), rows()
    leaves = [trees.first(k).predict(X) for k in range(7)]
    assert leaves[0].tobytes() == np.repeat(trees.base[None], len(X), axis=0).tobytes()
    assert leaves[6].tobytes() == trees.predict(X).tobytes() != leaves[5].tobytes()
    assert leaves[3].tobytes() == naive(trees.first(3), X).tobytes()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 6))
def test_nodes_in_any_order_become_a_tree_in_preorder(seed, depth):
    rng, trees = np.random.default_rng(seed), ensemble(seed, n_trees=1, depth=depth)
    node, leaf = rng.permutation(len(trees.feature)), rng.permutation(len(trees.leaves))  # place → node, leaf
    at_node, at_leaf, old = np.argsort(node), np.argsort(leaf), trees.children
    links = np.array([[at_node[c] if c >= 0 else -1 - at_leaf[-1 - c] for c in pair] for pair in old[node]])
    parts = [part[node] for part in (trees.feature, trees.threshold, trees.nan_left, trees.gain)]
    root = int(at_node[0]) if len(node) else -1 - int(at_leaf[0])
    again = Tree.ordered(root, links.reshape(-1, 2).astype(int), *parts, trees.leaves[leaf])
    assert bits(TreeEnsemble.of([again], trees.base, 4)) == bits(trees)


def test_importances():
    trees = ensemble()
    gains = np.zeros(4)
    for feature, gain in zip(trees.feature, trees.gain, strict=True):
        gains[feature] += gain
    np.testing.assert_allclose(trees.importances(), gains / gains.sum())
    assert not ensemble(depth=0).importances().any()


def test_wrong_width_is_refused():
    with pytest.raises(InputError, match=r"X must be \(n, 4\), not \(200, 3\)"):
        ensemble().predict(rows(p=3))


def test_a_state_keeps_every_bit():
    rng = np.random.default_rng(0)
    fitted = MultiOutputBooster(n_estimators=5).fit(rng.normal(size=(60, 4)), rng.normal(size=(60, 3))).model_
    for trees in (ensemble(), fitted, fitted.first(3), ensemble(depth=0)):
        again = TreeEnsemble.from_state(StateReader(trees.state(), "the bundle"))
        assert bits(again) == bits(trees)
        assert again.predict(rows()).tobytes() == trees.predict(rows()).tobytes()


def changed(name, at, value):
    def change(arrays):
        arrays[name] = arrays[name].copy()
        arrays[name][at] = value

    return change


FAULTS = {
    "a child of node 0 is not after it": changed("children", (0, 0), 0),
    "a child of node 2 is not after it": changed("children", (2, 1), 1),
    "a child of node 1 is not after it in its tree": changed("children", (1, 1), 10**6),
    "a child of node 0 is not after it in its tree": changed("children", (0, 0), -(10**6)),
    "feature has numbers outside 0 … 3": changed("feature", 1, 4),
    "feature has numbers outside 0 … 3 ": changed("feature", 1, -1),
    "a threshold is NaN": changed("threshold", 0, np.nan),
    "leaves holds values that are not finite": changed("leaves", (0, 0), np.inf),
    "base holds values that are not finite": changed("base", 0, np.nan),
    "gain holds values that are not finite": changed("gain", 0, np.inf),
    "node_offset does not rise": changed("node_offset", -1, 3),
    "leaf_offset does not rise": changed("leaf_offset", 1, -1),
    "one leaf more": changed("leaf_offset", 1, 1),
    "gain is missing": lambda arrays: arrays.pop("gain"),
    "gain is no array": lambda arrays: arrays.update(gain=[1.0]),
    "threshold must be float32": lambda arrays: arrays.update(threshold=arrays["threshold"].astype(float)),
    "leaves must be": lambda arrays: arrays.update(leaves=arrays["leaves"][:, :2]),
    "children must be": lambda arrays: arrays.update(children=arrays["children"][:-1]),
    "no outputs": lambda arrays: arrays.update(base=arrays["base"][:0], leaves=arrays["leaves"][:, :0]),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_state_that_holds_no_trees_is_refused_in_one_line(fault):
    arrays = dict(ensemble(seed=5).state())
    FAULTS[fault](arrays)
    with pytest.raises(InputError, match=fault.strip()) as caught:
        TreeEnsemble.from_state(StateReader(arrays, "DIR/model: trees"))
    assert str(caught.value).startswith("DIR/model: trees: ") and "\n" not in str(caught.value)


def test_two_nodes_may_not_share_a_child():
    arrays = ensemble(seed=5).state()
    children = arrays["children"].copy()
    ends = np.argwhere(children[: arrays["node_offset"][1]] < 0)
    children[tuple(ends[0])] = children[tuple(ends[1])]
    with pytest.raises(InputError, match="the bundle: two nodes share a child"):
        TreeEnsemble.from_state(StateReader(arrays | {"children": children}, "the bundle"))


def test_every_flipped_byte_is_either_refused_or_harmless():
    whole, X = dict(ensemble(n_trees=2, depth=3).state()), rows(20)
    rng = np.random.default_rng(0)
    for _ in range(300):
        name = rng.choice(list(whole))
        flipped = bytearray(whole[name].tobytes())
        flipped[rng.integers(len(flipped))] ^= 0xFF
        array = np.frombuffer(bytes(flipped), whole[name].dtype).reshape(whole[name].shape)
        try:
            trees = TreeEnsemble.from_state(StateReader(whole | {name: array}, "the bundle"))
        except InputError:
            continue
        if trees.n_features == 4:
            assert trees.predict(X).shape[0] == 20
