"""`TreeEnsemble`: trees with a vector in every leaf, as plain arrays; every engine's model ends as one.

    prediction(x) = base + Σ_t leaves[leaf that x reaches in tree t]        float32, summed in the order of the trees

At an inner node x goes right if x[feature] > threshold, left if not; NaN goes left where `nan_left` says so. Inner
nodes of all trees stand one after the other, each tree's in preorder, so a child always stands after its parent.
A threshold of −inf sends every number right: it splits NaN from the rest.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from rapids_pipeline.backend.arrays import Array
from rapids_pipeline.backend.errors import InputError, UnavailableError
from rapids_pipeline.backend.files import written_atomically
from rapids_pipeline.boosting.prediction import add_trees

FORMAT = "rapids-perturb trees 1"
SAFETENSORS_REMEDY = "saved models need safetensors: pip install safetensors"


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

    feature: NDArray[np.int32]
    threshold: NDArray[np.float32]
    nan_left: NDArray[np.bool_]
    children: NDArray[np.int32]
    gain: NDArray[np.float32]
    node_offset: NDArray[np.int32]
    leaf_offset: NDArray[np.int32]
    leaves: NDArray[np.float32]
    base: NDArray[np.float32]
    n_features: int

    @property
    def n_trees(self) -> int:
        """Number of trees."""
        return len(self.node_offset) - 1

    @property
    def n_outputs(self) -> int:
        """Number of outputs d."""
        return len(self.base)

    def predict(self, X: Array, *, n_threads: int = 1) -> Array:
        """Return float32 (n, d) predictions for `X` (n, p) float32, NaN allowed, in the library of `X`.

        On the host by numba where it is installed, in `n_threads` threads; otherwise by array API calls. The result
        of a row depends on that row alone and is the same, to the last bit, on all of these ways.
        """
        out = self._start(X)
        return add_trees(self, X, out, 0, self.n_trees, n_threads)

    def staged_predict(self, X: Array, *, n_threads: int = 1) -> Iterator[Array]:
        """Yield the predictions after 1, 2, … all trees, each an array of its own."""
        out = self._start(X)
        for tree in range(self.n_trees):
            out = add_trees(self, X, out, tree, tree + 1, n_threads)
            yield out + 0

    def first(self, n_trees: int) -> "TreeEnsemble":
        """Return the ensemble of the first `n_trees` trees."""
        nodes, leaves = int(self.node_offset[n_trees]), int(self.leaf_offset[n_trees])
        return TreeEnsemble(
            self.feature[:nodes],
            self.threshold[:nodes],
            self.nan_left[:nodes],
            self.children[:nodes],
            self.gain[:nodes],
            self.node_offset[: n_trees + 1],
            self.leaf_offset[: n_trees + 1],
            self.leaves[:leaves],
            self.base,
            self.n_features,
        )

    def importances(self, kind: Literal["gain", "split"] = "gain") -> NDArray[np.float64]:
        """Return each column's share of the summed gains, or of the number of splits; zeros where nothing splits."""
        weights = self.gain.astype(np.float64) if kind == "gain" else np.ones(len(self.feature))
        sums = np.bincount(self.feature, weights=weights, minlength=self.n_features)
        total = float(sums.sum())
        return np.asarray(sums / total if total > 0 else sums, dtype=np.float64)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return everything the ensemble is, by name; `from_arrays` is the inverse."""
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        return found | {"n_features": np.array([self.n_features], dtype=np.int64)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]], source: str = "the model") -> "TreeEnsemble":
        """Make an ensemble of named arrays; InputError, naming `source`, where they are no trees."""
        problem = _first_fault(arrays)
        if problem:
            raise InputError(f"{source} holds no usable trees: {problem}")
        kept = {field.name: arrays[field.name] for field in fields(cls)}
        return cls(**kept | {"n_features": int(arrays["n_features"][0])})  # type: ignore[arg-type]

    def save(self, path: Path) -> None:
        """Write a safetensors file, whole or not at all."""
        safetensors = _safetensors()
        arrays = {name: np.ascontiguousarray(array) for name, array in self.arrays().items()}
        with written_atomically(Path(path)) as temporary:
            safetensors.numpy.save_file(arrays, temporary, metadata={"format": FORMAT})

    @classmethod
    def load(cls, path: Path) -> "TreeEnsemble":
        """Read what `save` wrote; InputError, naming the file, for anything else."""
        safetensors = _safetensors()
        try:
            with safetensors.safe_open(path, framework="numpy") as stream:
                kind = (stream.metadata() or {}).get("format")
                arrays = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
        except (OSError, ValueError, safetensors.SafetensorError) as error:
            raise InputError(f"{path} cannot be read as a model: {' '.join(str(error).split())}") from error
        if kind != FORMAT:
            raise InputError(f"{path} is no model of this version: format {kind!r}, expected {FORMAT!r}")
        return cls.from_arrays(arrays, str(path))

    def _start(self, X: Array) -> Array:
        if X.ndim != 2 or X.shape[1] != self.n_features:
            raise InputError(f"X must be (n, {self.n_features}), not {tuple(X.shape)}")
        if isinstance(X, np.ndarray):
            return np.repeat(self.base[None], len(X), axis=0)
        from rapids_pipeline.boosting.prediction import like

        return like(X, np.repeat(self.base[None], X.shape[0], axis=0))


def placed(
    children: list[NDArray[np.int32]],
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]:
    """Turn children within each of several trees into positions in the ensemble; add both offsets."""
    nodes = np.cumsum([0, *(len(tree) for tree in children)])
    leaves = np.cumsum([0, *(len(tree) + 1 for tree in children)])
    moved = [
        np.where(tree >= 0, tree + first_node, tree - first_leaf)
        for tree, first_node, first_leaf in zip(children, nodes, leaves, strict=False)
    ]
    return np.concatenate(moved).astype(np.int32), nodes.astype(np.int32), leaves.astype(np.int32)


_KINDS: dict[str, tuple[type[np.generic], int]] = {
    "feature": (np.int32, 1),
    "threshold": (np.float32, 1),
    "nan_left": (np.bool_, 1),
    "children": (np.int32, 2),
    "gain": (np.float32, 1),
    "node_offset": (np.int32, 1),
    "leaf_offset": (np.int32, 1),
    "leaves": (np.float32, 2),
    "base": (np.float32, 1),
    "n_features": (np.int64, 1),
}


def _first_fault(arrays: Mapping[str, NDArray[Any]]) -> str | None:
    """Say in a clause what keeps the arrays from being trees, or return None."""
    for name, (kind, dimensions) in _KINDS.items():
        if name not in arrays:
            return f"{name} is missing"
        if arrays[name].dtype != kind or arrays[name].ndim != dimensions:
            found = f"{arrays[name].dtype} with {arrays[name].ndim} dimensions"
            return f"{name} must be {np.dtype(kind)} with {dimensions}, not {found}"
    n_nodes, n_leaves, n_outputs = len(arrays["feature"]), len(arrays["leaves"]), len(arrays["base"])
    shapes = {
        "threshold": (n_nodes,),
        "nan_left": (n_nodes,),
        "children": (n_nodes, 2),
        "gain": (n_nodes,),
        "leaves": (n_leaves, n_outputs),
        "leaf_offset": arrays["node_offset"].shape,
        "n_features": (1,),
    }
    for name, shape in shapes.items():
        if arrays[name].shape != shape:
            return f"{name} must be {shape}, not {arrays[name].shape}"
    if not n_outputs or len(arrays["node_offset"]) < 1:
        return "there are no outputs or no offsets"
    if not all(np.isfinite(arrays[name]).all() for name in ("leaves", "base", "gain")):
        return "leaves, base or gain hold values that are not finite"
    if np.isnan(arrays["threshold"]).any():
        return "a threshold is NaN"
    feature = arrays["feature"]
    if n_nodes and not (feature.min() >= 0 and feature.max() < arrays["n_features"][0]):
        return f"a node looks at a column outside 0 … {int(arrays['n_features'][0]) - 1}"
    return _fault_of_links(arrays, n_nodes, n_leaves)


def _fault_of_links(arrays: Mapping[str, NDArray[Any]], n_nodes: int, n_leaves: int) -> str | None:
    nodes, leaves = arrays["node_offset"].astype(np.int64), arrays["leaf_offset"].astype(np.int64)
    for name, offset, count in (("node_offset", nodes, n_nodes), ("leaf_offset", leaves, n_leaves)):
        if offset[0] != 0 or offset[-1] != count or (np.diff(offset) < 0).any():
            return f"{name} does not rise from 0 to {count}"
    if (np.diff(leaves) != np.diff(nodes) + 1).any():
        return "a tree has not one leaf more than inner nodes"
    tree = np.repeat(np.arange(len(nodes) - 1), np.diff(nodes))[:, None]
    child, parent = arrays["children"].astype(np.int64), np.arange(n_nodes)[:, None]
    inner = child >= 0
    within = np.where(
        inner,
        (child > parent) & (child < nodes[tree + 1]),
        (-1 - child >= leaves[tree]) & (-1 - child < leaves[tree + 1]),
    )
    if not within.all():
        return f"a child of node {int(np.flatnonzero(~within.all(axis=1))[0])} is not after it in its tree"
    if len(np.unique(child)) != child.size:
        return "two nodes share a child"
    return None


def _safetensors() -> Any:
    try:
        import safetensors.numpy
    except ImportError as error:
        raise UnavailableError(SAFETENSORS_REMEDY) from error
    return safetensors
