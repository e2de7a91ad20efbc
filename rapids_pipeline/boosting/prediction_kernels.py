"""The compiled walk of rows down trees."""

from typing import Any

from rapids_pipeline.boosting.compilation import compiled_and_cached

ROWS = 64


@compiled_and_cached
def add_trees(
    X: Any,
    feature: Any,
    threshold: Any,
    nan_left: Any,
    children: Any,
    node_offset: Any,
    leaf_offset: Any,
    leaves: Any,
    out: Any,
    start: int,
    stop: int,
) -> None:
    """Add trees start … stop − 1 at `X` to `out`; 64 rows at a time, so that their sums stay in cache."""
    n, d = out.shape
    for first in range(0, n, ROWS):
        last = min(n, first + ROWS)
        for tree in range(start, stop):
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
