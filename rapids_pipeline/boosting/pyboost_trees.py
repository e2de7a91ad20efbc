"""Py-Boost's trained trees as a `TreeEnsemble`, exactly: numpy arrays in, numpy arrays out, no GPU and no Py-Boost.

    prediction(x)[j] = base_score[j] + Σ_steps values[leaf that x reaches in group group_index[j], j]   float32, in orde

A boosting step has one or more groups of outputs, each with a tree of its own, and becomes one tree of ours a group,
with zeros in its leaves for the outputs of other groups. Its nodes are rows of four float32, `test_format`:

    ±(feature + 1), threshold, left, right         left, right: a node c ≥ 0 of the group, or leaf −1 − c where c < 0

x goes right if x > threshold. NaN goes right where the first number is positive and left where it is negative (so the
kernel, `comp_float`, and `Tree.reformat`; the docstring of `Tree` has it the other way round). A group without splits
is a node whose children are both leaf 0. Leaf values include the learning rate.

Source: Py-Boost 0.5.2, `py_boost/gpu/tree.py` (`Tree`, `Tree.reformat`) and `py_boost/gpu/utils.py`
(`generic_tree_prediction_leaves_kernel`, `tree_prediction_values_kernel`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.boosting.training import Floats
from rapids_pipeline.boosting.trees import TreeEnsemble, placed

SOURCE = "the Py-Boost model"


@dataclass(frozen=True)
class Step:
    """One boosting step, on the host.

    Attributes
    ----------
    nodes : ndarray of float32, (m, 4)
        Py-Boost's `test_format`, the groups one after the other.
    offsets : ndarray of int, (n_groups,)
        First node of every group.
    values : ndarray of float32, (most leaves of a group, d)
    group_index : ndarray of int, (d,)
        The group that predicts an output.
    gains : ndarray of float32, (m,)
        By how much each split lowered the objective; anything at a node that is none.
    """

    nodes: Floats
    offsets: NDArray[np.int64]
    values: Floats
    group_index: NDArray[np.int64]
    gains: Floats

    @classmethod
    def read(cls, tree: Any) -> "Step":
        """Read a `py_boost.gpu.tree.Tree` whose arrays are on the host, after its `reformat`.

        Without `debug=True` Py-Boost forgets the gains of single splits and keeps each column's sum in a step; then
        every split on a column is given the mean, which leaves the importances what they are.
        """
        nodes = np.asarray(tree.test_format, dtype=np.float32).reshape(-1, 4)
        offsets = np.asarray(tree.test_format_offsets, dtype=np.int64)
        if tree.gains is None:
            times = np.maximum(np.asarray(tree.feature_importance_split), 1)
            column = np.abs(nodes[:, 0]).astype(np.int64) - 1
            gains = (np.asarray(tree.feature_importance_gain) / times)[column]
        else:
            gains = np.zeros(len(nodes), dtype=np.float32)
            for group, first in enumerate(offsets):
                kept = tree.gains[group][tree.feats[group] >= 0]
                gains[first : first + len(kept)] = kept
        return cls(
            nodes,
            offsets,
            np.asarray(tree.values, dtype=np.float32),
            np.asarray(tree.group_index).astype(np.int64),
            gains.astype(np.float32),
        )


def to_tree_ensemble(model: Any) -> TreeEnsemble:
    """Return the trees of a trained `GradientBoosting` or `SketchBoost` with squared error as ours.

    The model's arrays are moved to the host, as they are when it is pickled.

    Raises
    ------
    InputError
        The model was trained with another loss, or its leaves are not finite.
    """
    loss = type(model.loss).__name__
    if loss != "MSELoss":
        raise InputError(f"only Py-Boost models of squared error (MSELoss) can be converted, not of {loss}")
    model.to_cpu()
    steps = [Step.read(tree) for tree in model.models]
    return converted(steps, np.asarray(model.base_score), len(model.models[0].feature_importance_split))


def converted(steps: Sequence[Step], base_score: NDArray[Any], n_features: int) -> TreeEnsemble:
    """Return the ensemble of all groups of all `steps`, one after the other, from `base_score` (d,)."""
    trees = [_Tree.read(step, group) for step in steps for group in range(len(step.offsets))]
    children, node_offset, leaf_offset = placed([tree.children for tree in trees])
    arrays = {
        "feature": np.concatenate([tree.feature for tree in trees]),
        "threshold": np.concatenate([tree.threshold for tree in trees]),
        "nan_left": np.concatenate([tree.nan_left for tree in trees]),
        "children": children,
        "gain": np.concatenate([tree.gain for tree in trees]),
        "node_offset": node_offset,
        "leaf_offset": leaf_offset,
        "leaves": np.concatenate([tree.leaves for tree in trees]),
        "base": np.array(base_score, dtype=np.float32),
        "n_features": np.array([n_features], dtype=np.int64),
    }
    return TreeEnsemble.from_arrays(arrays, SOURCE)


@dataclass(frozen=True)
class _Tree:
    """The tree of one group, its inner nodes and leaves in preorder."""

    feature: NDArray[np.int32]
    threshold: Floats
    nan_left: NDArray[np.bool_]
    children: NDArray[np.int32]
    gain: Floats
    leaves: Floats

    @classmethod
    def read(cls, step: Step, group: int) -> "_Tree":
        own = slice(step.offsets[group], [*step.offsets, len(step.nodes)][group + 1])
        nodes, links = step.nodes[own], step.nodes[own, 2:].astype(np.int64)
        stump = bool(links[0, 0] == links[0, 1])
        inner, ends = _preorder(links, root=-1 if stump else 0)
        place = np.zeros(len(nodes), dtype=np.int64)
        place[inner] = np.arange(len(inner))
        leaf_place = np.zeros(len(step.values), dtype=np.int64)
        leaf_place[ends] = -1 - np.arange(len(ends))
        to_node, to_leaf = place[np.maximum(links, 0)], leaf_place[np.maximum(-1 - links, 0)]
        first = nodes[inner, 0].astype(np.int64)
        return cls(
            (np.abs(first) - 1).astype(np.int32),
            nodes[inner, 1],
            first < 0,
            np.where(links >= 0, to_node, to_leaf)[inner].astype(np.int32),
            step.gains[own][inner],
            np.where(step.group_index == group, step.values[ends], np.float32(0)),
        )


def _preorder(links: NDArray[np.int64], root: int) -> tuple[list[int], list[int]]:
    """Return the inner nodes and the leaves below `root` in the order in which preorder meets them."""
    inner: list[int] = []
    ends: list[int] = []
    waiting = [root]
    while waiting:
        at = waiting.pop()
        if at < 0:
            ends.append(-1 - at)
        else:
            inner.append(at)
            waiting += [int(links[at, 1]), int(links[at, 0])]
    return inner, ends
