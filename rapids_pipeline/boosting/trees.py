"""Trees with a vector in every leaf, as plain arrays: every engine's model ends as one `TreeEnsemble`.

    prediction(x) = base + Σ_t leaves[leaf that x reaches in tree t]        float32, summed in the order of the trees

At an inner node x goes right if x[feature] > threshold, left if not; NaN goes left where `nan_left` says so. Inner
nodes of all trees stand one after the other, each tree's in preorder, so a child always stands after its parent.
A threshold of −inf sends every number right: it splits NaN from the rest.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from functools import cache
from typing import Any

import numpy as np

from rapids_pipeline.backend.arrays import Codes, Float32, Float64, Mask
from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.backend.state import State, StateReader

COMPILED: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": {"contract", "nsz"}}
"""How numba compiles the loops of boosting."""
OF_NODES = ("feature", "threshold", "nan_left", "gain")
FEW_ROWS = 100
"""Rows up to which trees are walked without numba."""
ROWS_A_THREAD = 128
ROWS_AT_ONCE = 64


@dataclass(frozen=True)
class Tree:
    """One tree, its inner nodes and leaves in preorder; a child is an inner node c ≥ 0, or leaf −1 − c where c < 0."""

    feature: Codes
    threshold: Float32
    nan_left: Mask
    children: Codes
    gain: Float32
    leaves: Float32

    @classmethod
    def ordered(
        cls, root: int, links: Any, feature: Any, threshold: Any, nan_left: Any, gain: Any, leaves: Any
    ) -> "Tree":
        """Make the tree below `root` of nodes and leaves in any order; `links` (nodes, 2) are the nodes' children."""
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
        node, leaf = np.zeros(len(links), np.int64), np.zeros(len(leaves), np.int64)
        node[inner], leaf[ends] = np.arange(len(inner)), -1 - np.arange(len(ends))
        below = np.asarray(links)[inner]
        children = np.where(below >= 0, node[np.maximum(below, 0)], leaf[np.maximum(-1 - below, 0)])
        return cls(
            np.asarray(feature, np.int32)[inner],
            threshold[inner],
            nan_left[inner],
            children.astype(np.int32).reshape(-1, 2),
            gain[inner],
            leaves[ends],
        )


@dataclass(frozen=True, eq=False)
class TreeEnsemble:
    """Trees for d outputs on `n_features` columns.

    Attributes
    ----------
    feature : ndarray of int32, (n_nodes,)
        Column an inner node looks at.
    threshold : ndarray of float32, (n_nodes,)
    nan_left : ndarray of bool, (n_nodes,)
    children : ndarray of int32, (n_nodes, 2)
        Left and right child: an inner node c ≥ 0, or leaf −1 − c where c < 0; positions in the whole ensemble.
    gain : ndarray of float32, (n_nodes,)
        By how much the split lowered the engine's objective.
    node_offset, leaf_offset : ndarray of int32, (n_trees + 1,)
        Tree t has inner nodes node_offset[t] : node_offset[t + 1], the first of them its root, and leaves likewise;
        a tree without inner nodes is its one leaf.
    leaves : ndarray of float32, (n_leaves, d)
        Unit of the targets, learning rate included.
    base : ndarray of float32, (d,)
    n_features : int
    """

    feature: Codes
    threshold: Float32
    nan_left: Mask
    children: Codes
    gain: Float32
    node_offset: Codes
    leaf_offset: Codes
    leaves: Float32
    base: Float32
    n_features: int

    @classmethod
    def of(cls, trees: Sequence[Tree], base: Float32, n_features: int) -> "TreeEnsemble":
        """Make the ensemble of some trees, at least one."""
        nodes = np.cumsum([0, *(len(tree.feature) for tree in trees)])
        leaves = np.cumsum([0, *(len(tree.feature) + 1 for tree in trees)])
        children = [
            np.where(tree.children >= 0, tree.children + first_node, tree.children - first_leaf)
            for tree, first_node, first_leaf in zip(trees, nodes, leaves, strict=False)
        ]
        return cls(
            **{
                name: np.concatenate([getattr(tree, name) for tree in trees])
                for name in (*OF_NODES, "leaves")
            },
            children=np.concatenate(children).astype(np.int32),
            node_offset=nodes.astype(np.int32),
            leaf_offset=leaves.astype(np.int32),
            base=base,
            n_features=n_features,
        )

    @property
    def n_trees(self) -> int:
        """Number of trees."""
        return len(self.node_offset) - 1

    @property
    def n_outputs(self) -> int:
        """Number of outputs d."""
        return len(self.base)

    def predict(self, X: Float32, *, n_threads: int = 1) -> Float32:
        """Return float32 (n, d) predictions for `X` (n, p) float32, NaN allowed, of `n_threads` threads.

        The result of a row depends on that row alone and is the same, to the last bit, whatever the threads.

        Raises
        ------
        InputError
            `X` has another number of columns.
        """
        if X.ndim != 2 or X.shape[1] != self.n_features:
            raise InputError(f"X must be (n, {self.n_features}), not {X.shape}")
        walk = _walk_few if len(X) <= FEW_ROWS else _compiled_walk()
        X = np.ascontiguousarray(X, dtype=np.float32)
        predicted = np.repeat(self.base[None], len(X), axis=0)
        nodes = self.feature, self.threshold, self.nan_left, self.children
        offsets = self.node_offset, self.leaf_offset

        def block(rows: slice) -> None:
            walk(X[rows], nodes, offsets, self.leaves, predicted[rows])

        size = max(ROWS_A_THREAD, -(-len(X) // max(n_threads, 1)))
        blocks = [slice(first, first + size) for first in range(0, len(X), size)]
        if len(blocks) == 1:
            block(blocks[0])
        elif blocks:
            with ThreadPoolExecutor(n_threads) as pool:
                list(pool.map(block, blocks))
        return predicted

    def first(self, n_trees: int) -> "TreeEnsemble":
        """Return the ensemble of the first `n_trees` trees."""
        nodes, leaves = int(self.node_offset[n_trees]), int(self.leaf_offset[n_trees])
        return replace(
            self,
            **{name: getattr(self, name)[:nodes] for name in (*OF_NODES, "children")},
            node_offset=self.node_offset[: n_trees + 1],
            leaf_offset=self.leaf_offset[: n_trees + 1],
            leaves=self.leaves[:leaves],
        )

    def importances(self) -> Float64:
        """Return each column's share of the summed gains; zeros where nothing splits."""
        sums = np.bincount(self.feature, weights=self.gain.astype(np.float64), minlength=self.n_features)
        total = float(sums.sum())
        return np.asarray(sums / total if total > 0 else sums, dtype=np.float64)

    def state(self) -> State:
        """Return everything the ensemble is; `from_state` is the inverse."""
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        return found | {"n_features": np.array([self.n_features], dtype=np.int64)}

    @classmethod
    def from_state(cls, reader: StateReader) -> "TreeEnsemble":
        """Make it of its state; InputError where that holds no trees."""
        n_features = int(reader.array("n_features", np.int64, (1,))[0])
        feature = reader.codes("feature", (None,), n_features)
        n_nodes = len(feature)
        base = reader.array("base", np.float32, (None,))
        node_offset = reader.array("node_offset", np.int32, (None,))
        if not len(base) or not len(node_offset):
            raise reader.fault("there are no outputs or no offsets")
        found = cls(
            feature=feature,
            threshold=reader.array("threshold", np.float32, (n_nodes,), finite=False),
            nan_left=reader.array("nan_left", np.bool_, (n_nodes,)),
            children=reader.array("children", np.int32, (n_nodes, 2)),
            gain=reader.array("gain", np.float32, (n_nodes,)),
            node_offset=node_offset,
            leaf_offset=reader.array("leaf_offset", np.int32, (len(node_offset),)),
            leaves=reader.array("leaves", np.float32, (None, len(base))),
            base=base,
            n_features=n_features,
        )
        fault = "a threshold is NaN" if np.isnan(found.threshold).any() else found._fault_of_links()
        if fault:
            raise reader.fault(fault)
        return found

    def _fault_of_links(self) -> str | None:
        """Say in a clause what keeps offsets and children from being trees, or return None."""
        nodes, leaves = self.node_offset.astype(np.int64), self.leaf_offset.astype(np.int64)
        counts = (("node_offset", nodes, len(self.feature)), ("leaf_offset", leaves, len(self.leaves)))
        for name, offset, count in counts:
            if offset[0] != 0 or offset[-1] != count or (np.diff(offset) < 0).any():
                return f"{name} does not rise from 0 to {count}"
        if (np.diff(leaves) != np.diff(nodes) + 1).any():
            return "a tree has not one leaf more than inner nodes"
        tree = np.repeat(np.arange(len(nodes) - 1), np.diff(nodes))[:, None]
        child, parent = self.children.astype(np.int64), np.arange(len(self.feature))[:, None]
        within = np.where(
            child >= 0,
            (child > parent) & (child < nodes[tree + 1]),
            (-1 - child >= leaves[tree]) & (-1 - child < leaves[tree + 1]),
        )
        if not within.all():
            return (
                f"a child of node {int(np.flatnonzero(~within.all(axis=1))[0])} is not after it in its tree"
            )
        return "two nodes share a child" if len(np.unique(child)) != child.size else None


def compiled_and_cached(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile with numba, cached beside the source or in the user's cache folder, where one can be written."""
    from numba import njit

    try:
        return njit(cache=True, **COMPILED)(function)  # type: ignore[no-any-return]
    except RuntimeError:  # numba: "cannot cache function ...: no locator available"
        return njit(**COMPILED)(function)  # type: ignore[no-any-return]


def _walk_few(X: Float32, nodes: Any, offsets: Any, leaves: Float32, out: Float32) -> None:
    """Do as `_walk`, to the last bit, all trees at once: for few rows, as loading numba takes half a second."""
    feature, threshold, nan_left, children = nodes
    node_offset, leaf_offset = offsets
    root = np.where(np.diff(node_offset) > 0, node_offset[:-1], -1 - leaf_offset[:-1])
    at = np.repeat(root[None], len(X), axis=0)  # (n, n_trees)
    while (going := at >= 0).any():
        node = at[going]
        x = X[going.nonzero()[0], feature[node]]
        right = (x > threshold[node]) | (np.isnan(x) & ~nan_left[node])
        at[going] = children[node, right.astype(np.intp)]
    for leaf in (-1 - at).T:  # tree by tree: sums of float32 depend on their order
        out += leaves[leaf]


@cache
def _compiled_walk() -> Callable[..., Any]:
    return compiled_and_cached(_walk)


def _walk(X: Any, nodes: Any, offsets: Any, leaves: Any, out: Any) -> None:
    """Add all trees at `X` to `out`; 64 rows at a time, so that their sums stay in cache."""
    feature, threshold, nan_left, children = nodes
    node_offset, leaf_offset = offsets
    n, d = out.shape
    for first in range(0, n, ROWS_AT_ONCE):
        last = min(n, first + ROWS_AT_ONCE)
        for tree in range(node_offset.size - 1):
            root = node_offset[tree]
            if root == node_offset[tree + 1]:
                root = -1 - leaf_offset[tree]
            for row in range(first, last):
                at = root
                while at >= 0:
                    x = X[row, feature[at]]
                    right = x > threshold[at] or (x != x and not nan_left[at])
                    at = children[at, 1] if right else children[at, 0]
                leaf = -1 - at
                for output in range(d):
                    out[row, output] += leaves[leaf, output]
