"""Trees as an ONNX file, for programs that have an ONNX runtime and not this package.

One node, `ai.onnx.ml.TreeEnsembleRegressor`: Y (rows, d) = base + Σ of the leaf vectors that X (rows, p) reaches,
x ≤ threshold to the left, NaN to where the node sends it. A runtime adds in float32 in an order of its own, so its
predictions are ours to rounding, not to the last bit. The file names tree, leaf and output beside each value of a leaf:
about three times the bytes of `TreeEnsemble.save`, and nothing that reads it back as a `TreeEnsemble`.

Source: https://onnx.ai/onnx/operators/onnx_aionnxml_TreeEnsembleRegressor.html, version 3 of the operator.
"""

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from rapids_pipeline.backend.errors import InputError, UnavailableError
from rapids_pipeline.backend.files import written_atomically
from rapids_pipeline.boosting.trees import TreeEnsemble

REMEDY = "exporting trees needs onnx: pip install onnx"
MOST_LEAF_VALUES = 100_000_000
"""An ONNX file holds 2 GiB, and a value of a leaf takes about 14 bytes of it."""


def to_onnx(trees: TreeEnsemble, path: Path) -> None:
    """Write an ONNX file with input X (rows, p) and output Y (rows, d), both float32, whole or not at all.

    Raises
    ------
    UnavailableError
        onnx is not installed.
    InputError
        The trees are too large for the format.
    """
    if find_spec("onnx") is None:
        raise UnavailableError(REMEDY)
    if trees.leaves.size > MOST_LEAF_VALUES:
        raise InputError(
            f"an ONNX file holds at most {MOST_LEAF_VALUES:,} values in leaves, and these trees have "
            f"{trees.leaves.size:,}; use TreeEnsemble.save"
        )
    onnx = import_module("onnx")
    make, number = onnx.helper, onnx.TensorProto.FLOAT
    node = make.make_node(
        "TreeEnsembleRegressor", ["X"], ["Y"], domain="ai.onnx.ml", **regressor_attributes(trees)
    )
    shapes = {"X": trees.n_features, "Y": trees.n_outputs}
    ends = {name: make.make_tensor_value_info(name, number, ["rows", size]) for name, size in shapes.items()}
    opsets = [make.make_opsetid("", 17), make.make_opsetid("ai.onnx.ml", 3)]
    graph = make.make_graph([node], "trees", [ends["X"]], [ends["Y"]])
    model = make.make_model(graph, opset_imports=opsets, ir_version=8, producer_name="rapids-perturb")
    onnx.checker.check_model(model)
    with written_atomically(Path(path)) as temporary:
        temporary.write_bytes(model.SerializeToString())


def regressor_attributes(trees: TreeEnsemble) -> dict[str, Any]:
    """Return the attributes of the operator: every tree's inner nodes from 0 on, its leaves after them."""
    inner, ends = np.diff(trees.node_offset), np.diff(trees.leaf_offset)
    n_nodes, n_leaves, d = len(trees.feature), len(trees.leaves), trees.n_outputs
    tree = np.concatenate([np.repeat(np.arange(trees.n_trees), count) for count in (inner, ends)])
    number = np.arange(n_nodes + n_leaves)
    number[:n_nodes] -= np.repeat(trees.node_offset[:-1], inner)
    number[n_nodes:] -= n_nodes + np.repeat(trees.leaf_offset[:-1] - inner, ends)
    child = number[np.where(trees.children >= 0, trees.children, n_nodes - 1 - trees.children)]
    order = np.lexsort((number, tree))
    value_of = np.repeat(np.arange(n_nodes, n_nodes + n_leaves), d)

    def of_all(of_inner: Any, of_leaves: Any) -> list[Any]:
        found: list[Any] = np.concatenate([of_inner, np.full(n_leaves, of_leaves)])[order].tolist()
        return found

    return {
        "n_targets": d,
        "aggregate_function": "SUM",
        "base_values": trees.base.tolist(),
        "nodes_treeids": tree[order].tolist(),
        "nodes_nodeids": number[order].tolist(),
        "nodes_modes": of_all(np.full(n_nodes, "BRANCH_LEQ"), "LEAF"),
        "nodes_featureids": of_all(trees.feature, 0),
        "nodes_values": of_all(trees.threshold, np.float32(0)),
        "nodes_truenodeids": of_all(child[:, 0], 0),
        "nodes_falsenodeids": of_all(child[:, 1], 0),
        "nodes_missing_value_tracks_true": of_all(trees.nan_left.astype(np.int64), 0),
        "target_treeids": tree[value_of].tolist(),
        "target_nodeids": number[value_of].tolist(),
        "target_ids": np.tile(np.arange(d), n_leaves).tolist(),
        "target_weights": trees.leaves.reshape(-1).tolist(),
    }
