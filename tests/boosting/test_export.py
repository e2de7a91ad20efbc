"""Trees as ONNX: the attributes walked by hand, and the file run by onnxruntime."""

import subprocess
import sys

import numpy as np
import pytest

from rapids_pipeline.backend.errors import InputError, UnavailableError
from rapids_pipeline.boosting import MultiOutputBooster, export

pytest.importorskip("numba")


def trained(d=5, **options):
    """Trees on rows with NaN, which is a reason of its own: some thresholds are −inf; and rows that meet thresholds."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(250, 6)).astype(np.float32)
    X[rng.random(X.shape) < 0.15] = np.nan
    Y = np.nan_to_num(X[:, :3]) @ rng.normal(size=(3, d)) + 3 * np.isnan(X[:, :1]) + rng.normal(size=(250, d))
    model = MultiOutputBooster(**{"n_estimators": 12, "learning_rate": 0.3} | options).fit(X, Y)
    new = rng.normal(size=(100, 6)).astype(np.float32)
    new[rng.random(new.shape) < 0.3] = np.nan
    return model.model_, np.vstack([X[:100], new])


CASES = {
    "exact": {"engine": "exact"},
    "xgboost": {"engine": "xgboost"},  # NaN goes left or right
    "one output": {"d": 1},
    "no split": {"min_samples_leaf": 250},
}


def walked(attributes, X):
    """The operator by its definition, row by row and tree by tree."""
    at = {
        key: i
        for i, key in enumerate(zip(attributes["nodes_treeids"], attributes["nodes_nodeids"], strict=True))
    }
    leaves = {}
    names = ("target_treeids", "target_nodeids", "target_ids", "target_weights")
    for tree, node, target, weight in zip(*(attributes[name] for name in names), strict=True):
        leaves.setdefault((tree, node), {})[target] = weight
    out = np.tile(np.array(attributes["base_values"]), (len(X), 1))
    for row, x in enumerate(X):
        for tree in sorted(set(attributes["nodes_treeids"])):
            node = 0
            while attributes["nodes_modes"][at[tree, node]] != "LEAF":
                i = at[tree, node]
                value = x[attributes["nodes_featureids"][i]]
                true = value <= attributes["nodes_values"][i]
                if np.isnan(value):
                    true = attributes["nodes_missing_value_tracks_true"][i] == 1
                node = attributes["nodes_truenodeids" if true else "nodes_falsenodeids"][i]
            for target, weight in leaves[tree, node].items():
                out[row, target] += weight
    return out


@pytest.mark.parametrize("case", CASES)
def test_the_attributes_are_the_trees(case):
    if case == "xgboost":
        pytest.importorskip("xgboost")
    trees, X = trained(**CASES[case])
    assert case != "exact" or np.isneginf(trees.threshold).any()
    assert case != "xgboost" or len(set(trees.nan_left.tolist())) == 2
    np.testing.assert_allclose(walked(export.regressor_attributes(trees), X), trees.predict(X), atol=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_onnxruntime_predicts_the_same(case, tmp_path):
    pytest.importorskip("onnx", reason="onnx is not installed: pip install onnx onnxruntime")
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    if case == "xgboost":
        pytest.importorskip("xgboost")
    trees, X = trained(**CASES[case])
    export.to_onnx(trees, tmp_path / "trees.onnx")
    session = runtime.InferenceSession(tmp_path / "trees.onnx", providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(None, {"X": X})[0], trees.predict(X), atol=1e-5)
    alone = np.vstack([session.run(None, {"X": row[None]})[0] for row in X[:20]])
    np.testing.assert_allclose(alone, trees.predict(X[:20]), atol=1e-5)
    assert [path.name for path in tmp_path.iterdir()] == ["trees.onnx"]


def test_what_cannot_be_exported_is_refused(monkeypatch, tmp_path):
    trees, _ = trained()
    monkeypatch.setattr(export, "find_spec", lambda name: name)
    monkeypatch.setattr(export, "MOST_LEAF_VALUES", 10)
    with pytest.raises(
        InputError, match="an ONNX file holds at most 10 values in leaves, and these trees have"
    ):
        export.to_onnx(trees, tmp_path / "trees.onnx")
    monkeypatch.setattr(export, "find_spec", lambda name: None)
    with pytest.raises(UnavailableError, match="exporting trees needs onnx: pip install onnx"):
        export.to_onnx(trees, tmp_path / "trees.onnx")
    assert not list(tmp_path.iterdir())


def test_the_package_of_boosting_does_not_import_it():
    code = "import sys, rapids_pipeline.boosting; print('onnx' in sys.modules)"
    printed = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert printed.split() == ["False"]
