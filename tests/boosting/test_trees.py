"""The tree arrays: prediction against a loop over nodes, every array library, storage, and what is refused."""

import array_api_strict
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rapids_pipeline.backend.errors import InputError, UnavailableError
from rapids_pipeline.boosting import MultiOutputBooster, prediction
from rapids_pipeline.boosting.prediction import add_by_array_api
from rapids_pipeline.boosting.trees import TreeEnsemble, placed

safetensors_numpy = pytest.importorskip("safetensors.numpy")


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
    children, node_offset, leaf_offset = placed([random_tree(rng, depth) for _ in range(n_trees)])
    n_nodes = len(children)
    threshold = rng.integers(-2, 3, size=n_nodes).astype(np.float32)
    threshold[rng.random(n_nodes) < 0.1] = -np.inf
    return TreeEnsemble(
        rng.integers(0, p, size=n_nodes).astype(np.int32),
        threshold,
        rng.random(n_nodes) < 0.5,
        children,
        rng.random(n_nodes).astype(np.float32),
        node_offset,
        leaf_offset,
        rng.normal(size=(leaf_offset[-1], d)).astype(np.float32),
        rng.normal(size=d).astype(np.float32),
        p,
    )


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
def test_prediction_equals_a_loop_over_nodes_to_the_bit_on_every_way(seed, n_trees, depth, d):
    trees, X = ensemble(seed, n_trees, depth, d), rows(70, seed=seed)
    expected = naive(trees, X)
    start = np.repeat(trees.base[None], len(X), axis=0)
    assert trees.predict(X).tobytes() == expected.tobytes()
    assert trees.predict(X, n_threads=3).tobytes() == expected.tobytes()
    assert add_by_array_api(trees, X, start, 0, n_trees).tobytes() == expected.tobytes()
    strict = trees.predict(array_api_strict.asarray(X))
    assert np.asarray(strict).tobytes() == expected.tobytes()
    alone = np.vstack([trees.predict(x[None]) for x in X[:20]])
    assert alone.tobytes() == expected[:20].tobytes()


def test_torch_predicts_the_same_bits():
    torch = pytest.importorskip("torch")
    trees, X = ensemble(n_trees=100), rows()
    assert trees.predict(torch.asarray(X)).numpy().tobytes() == trees.predict(X).tobytes()


def test_without_numba_the_array_api_predicts(monkeypatch):
    trees, X = ensemble(n_trees=70), rows()
    expected = trees.predict(X)
    monkeypatch.setattr(prediction, "find_spec", lambda name: None)
    assert trees.predict(X).tobytes() == expected.tobytes()
    assert [stage.tobytes() for stage in trees.staged_predict(X)][-1] == expected.tobytes()


def test_stages_are_the_predictions_of_the_first_trees():
    trees, X = ensemble(n_trees=6), rows()
    stages = list(trees.staged_predict(X))
    assert len(stages) == 6
    for k, stage in enumerate(stages, start=1):
        assert stage.tobytes() == trees.first(k).predict(X).tobytes()
    assert trees.first(0).predict(X).tobytes() == np.repeat(trees.base[None], len(X), axis=0).tobytes()


def test_importances():
    trees = ensemble()
    gains, splits = np.zeros(4), np.zeros(4)
    for feature, gain in zip(trees.feature, trees.gain, strict=True):
        gains[feature] += gain
        splits[feature] += 1
    np.testing.assert_allclose(trees.importances("gain"), gains / gains.sum())
    np.testing.assert_allclose(trees.importances("split"), splits / splits.sum())
    assert not ensemble(depth=0).importances().any()


def test_wrong_width_is_refused():
    with pytest.raises(InputError, match=r"X must be \(n, 4\), not \(200, 3\)"):
        ensemble().predict(rows(p=3))


def test_storage_keeps_every_bit(tmp_path):
    trees = ensemble()
    trees.save(tmp_path / "model.safetensors")
    again = TreeEnsemble.load(tmp_path / "model.safetensors")
    assert [array.tobytes() for array in again.arrays().values()] == [
        array.tobytes() for array in trees.arrays().values()
    ]
    assert again.predict(rows()).tobytes() == trees.predict(rows()).tobytes()
    rng = np.random.default_rng(0)
    fitted = MultiOutputBooster(n_estimators=5).fit(rng.normal(size=(60, 4)), rng.normal(size=(60, 3))).model_
    fitted.first(3).save(tmp_path / "fitted.safetensors")
    loaded = TreeEnsemble.load(tmp_path / "fitted.safetensors")
    assert loaded.predict(rows()).tobytes() == fitted.first(3).predict(rows()).tobytes()


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
    "a column outside 0 … 3": changed("feature", 1, 4),
    "a column outside 0 … 3 ": changed("feature", 1, -1),
    "a threshold is NaN": changed("threshold", 0, np.nan),
    "not finite": changed("leaves", (0, 0), np.inf),
    "not finite ": changed("base", 0, np.nan),
    "node_offset does not rise": changed("node_offset", -1, 3),
    "leaf_offset does not rise": changed("leaf_offset", 1, -1),
    "one leaf more": changed("leaf_offset", 1, 1),
    "gain is missing": lambda arrays: arrays.pop("gain"),
    "threshold must be float32": lambda arrays: arrays.update(threshold=arrays["threshold"].astype(float)),
    "leaves must be": lambda arrays: arrays.update(leaves=arrays["leaves"][:, :2]),
    "children must be": lambda arrays: arrays.update(children=arrays["children"][:-1]),
    "no outputs": lambda arrays: arrays.update(base=arrays["base"][:0], leaves=arrays["leaves"][:, :0]),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_arrays_that_are_no_trees_are_refused_in_one_line(fault, tmp_path):
    arrays, path = ensemble(seed=5).arrays(), tmp_path / "bad.safetensors"
    FAULTS[fault](arrays)
    arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    safetensors_numpy.save_file(arrays, path, metadata={"format": "rapids-perturb trees 1"})
    with pytest.raises(InputError, match=fault.strip()) as caught:
        TreeEnsemble.load(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_two_nodes_may_not_share_a_child():
    arrays = ensemble(seed=5).arrays()
    children = arrays["children"].copy()
    ends = np.argwhere(children[: arrays["node_offset"][1]] < 0)
    children[tuple(ends[0])] = children[tuple(ends[1])]
    with pytest.raises(InputError, match="the bundle holds no usable trees: two nodes share a child"):
        TreeEnsemble.from_arrays(arrays | {"children": children}, "the bundle")


@pytest.mark.parametrize("kind", ["cut", "text", "empty", "absent", "another format"])
def test_a_file_that_is_no_model_is_refused_in_one_line(kind, tmp_path):
    path = tmp_path / "model.safetensors"
    ensemble().save(path)
    if kind == "cut":
        path.write_bytes(path.read_bytes()[:-40])
    elif kind == "text":
        path.write_text("not a model\n" * 20)
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "absent":
        path.unlink()
    else:
        safetensors_numpy.save_file({"x": np.zeros(3)}, path)
    with pytest.raises(InputError) as caught:
        TreeEnsemble.load(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_every_flipped_byte_is_either_refused_or_harmless(tmp_path):
    path, X = tmp_path / "model.safetensors", rows(20)
    ensemble(n_trees=2, depth=2).save(path)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for place in rng.integers(0, len(whole), size=300):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        try:
            trees = TreeEnsemble.load(path)
        except InputError:
            continue
        if trees.n_features == 4:
            assert trees.predict(X).shape[0] == 20


def test_storage_without_safetensors_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "safetensors.numpy", None)
    monkeypatch.delattr("safetensors.numpy", raising=False)
    with pytest.raises(UnavailableError, match="pip install safetensors"):
        ensemble().save(tmp_path / "model.safetensors")
