"""Walking rows down the trees of a `TreeEnsemble`: compiled for the host, and in array API calls for any library.

Both add the leaf vectors to float32 sums in the order of the trees, so they agree to the last bit.
"""

from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rapids_pipeline.backend.arrays import Array, namespace

if TYPE_CHECKING:
    from rapids_pipeline.boosting.trees import TreeEnsemble

ROWS_A_BLOCK = 128
TREES_AT_ONCE = 64


def add_trees(
    trees: "TreeEnsemble", X: Array, out: Array, start: int, stop: int, n_threads: int = 1
) -> Array:
    """Return `out` (n, d) plus trees start … stop − 1 at `X` (n, p) float32; numpy's `out` is changed in place."""
    if isinstance(X, np.ndarray) and find_spec("numba") is not None:
        _add_compiled(trees, X, out, start, stop, n_threads)
        return out
    for first in range(start, stop, TREES_AT_ONCE):
        out = add_by_array_api(trees, X, out, first, min(stop, first + TREES_AT_ONCE))
    return out


def add_by_array_api(trees: "TreeEnsemble", X: Array, out: Array, start: int, stop: int) -> Array:
    """Return `out` plus trees start … stop − 1: all rows and trees go down one level at a time."""
    if start == stop:
        return out
    xp = namespace(X)
    n, p = X.shape
    empty = trees.node_offset[start:stop] == trees.node_offset[start + 1 : stop + 1]
    roots = np.where(empty, -1 - trees.leaf_offset[start:stop], trees.node_offset[start:stop])
    at = like(X, np.broadcast_to(roots.astype(np.int64), (n, stop - start)).reshape(-1))
    if trees.feature.size:
        feature, children = (
            like(X, trees.feature.astype(np.int64)),
            like(X, trees.children.reshape(-1).astype(np.int64)),
        )
        threshold, nan_left = like(X, trees.threshold), like(X, trees.nan_left)
        values = xp.reshape(X, (-1,))
        rows = like(X, np.repeat(np.arange(n, dtype=np.int64) * p, stop - start))
        while bool(xp.any(at >= 0)):
            node = xp.where(at >= 0, at, 0)
            x = xp.take(values, rows + xp.take(feature, node))
            missing = xp.isnan(x) & ~xp.take(nan_left, node)
            right = (x > xp.take(threshold, node)) | missing
            child = xp.take(children, 2 * node + xp.astype(right, xp.int64))
            at = xp.where(at >= 0, child, at)
    leaf, leaves = xp.reshape(-1 - at, (n, stop - start)), like(X, trees.leaves)
    for tree in range(stop - start):
        out = out + xp.take(leaves, leaf[:, tree], axis=0)
    return out


def like(X: Array, array: NDArray[Any]) -> Array:
    """Return `array` in the library and on the device of `X`."""
    if isinstance(X, np.ndarray):
        return array
    from array_api_compat import device

    return namespace(X).asarray(np.ascontiguousarray(array), device=device(X))


def _add_compiled(
    trees: "TreeEnsemble",
    X: NDArray[np.float32],
    out: NDArray[np.float32],
    start: int,
    stop: int,
    n_threads: int,
) -> None:
    walk = import_module("rapids_pipeline.boosting.prediction_kernels").add_trees
    X = np.ascontiguousarray(X, dtype=np.float32)
    arrays = (trees.feature, trees.threshold, trees.nan_left, trees.children)
    offsets = trees.node_offset, trees.leaf_offset, trees.leaves

    def block(rows: slice) -> None:
        walk(X[rows], *arrays, *offsets, out[rows], start, stop)

    size = max(ROWS_A_BLOCK, -(-len(X) // max(n_threads, 1)))
    blocks = [slice(first, first + size) for first in range(0, len(X), size)]
    if len(blocks) <= 1:
        for rows in blocks:
            block(rows)
        return
    with ThreadPoolExecutor(n_threads) as pool:
        list(pool.map(block, blocks))
