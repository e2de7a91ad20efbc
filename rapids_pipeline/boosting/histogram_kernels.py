"""Growing the upper part of a tree from histograms, and its leaves; notation of `histogram.py`."""

from collections.abc import Callable
from typing import Any

import numpy as np

from rapids_pipeline.boosting.compilation import compiled, compiled_and_cached, source_stamp
from rapids_pipeline.boosting.exact_kernels import GrownTree
from rapids_pipeline.boosting.exact_search import CODE, Node
from rapids_pipeline.boosting.histogram_search import (
    Limits,
    Search,
    best_split,
    fill_slot,
    prepare,
    slot_size,
)
from rapids_pipeline.boosting.row_weights import weight_at, weight_of

MOST_SHRUNK = 64
"""A histogram made by subtractions is of at least this share of the rows that were added up."""


@compiled
def _split_rows(s: Search, node: Node, codes: Any, cut: int) -> None:
    """Put the rows with codes up to `cut` before the others, both in order."""
    kept, moved = node.low, 0
    for i in range(node.low, node.high):
        row = s.rows[i]
        if codes[row] <= cut:
            s.rows[kept] = row
            kept += 1
        else:
            s.spare[moved] = row
            moved += 1
    s.rows[kept : kept + moved] = s.spare[:moved]


@compiled
def _splittable(limits: Limits, rows: int, depth: int) -> bool:
    return depth < limits.max_depth and rows >= max(2, 2 * limits.min_leaf)


@compiled
def _taken(free: Any) -> int:
    """Return a free slot, no longer free; −1 where there is none."""
    for slot in range(free.size):
        if free[slot]:
            free[slot] = False
            return slot
    return -1


@compiled
def _halved(
    s: Search,
    limits: Limits,
    node: Node,
    middle: int,
    columns: Any,
    free: Any,
    slot: int,
    origin: int,
    depth: int,
) -> tuple[int, int]:
    """Turn a node's slot into its children's, left and right: added up for the smaller one, the rest is the larger.

    −1 for none: where the larger one is too small to be worth it, or so much smaller than the node whose rows were
    added up (`origin` rows) that rounding would show, or no slot is free.
    """
    if slot < 0:
        return -1, -1
    left, right = middle - node.low, node.high - middle
    larger = max(left, right)
    other = -1
    if _splittable(limits, larger, depth + 1) and larger >= limits.kept and origin <= MOST_SHRUNK * larger:
        other = _taken(free)
    if other < 0:
        free[slot] = True
        return -1, -1
    first, last = (node.low, middle) if left <= right else (middle, node.high)
    fill_slot(s, limits, Node(first, last, 0.0), columns, other)
    size = slot_size(limits, columns.size)
    here, less = s.histogram[slot * size : (slot + 1) * size], s.histogram[other * size : (other + 1) * size]
    for k in range(size):
        here[k] -= less[k]
    if not _splittable(limits, min(left, right), depth + 1) or min(left, right) <= limits.small:
        free[other] = True
        other = -1
    return (other, slot) if left <= right else (slot, other)


def _kernels_from(stamp: int) -> tuple[Callable[..., Any], ...]:
    """Return the compiled functions; numba's cache takes the enclosed stamp as part of what it looks up."""

    def grow_top(
        s: Search, limits: Limits, columns: Any, count: int, tree: GrownTree, small: Any
    ) -> tuple[int, int, int]:
        """Grow from rows[: count] down to leaves and small nodes; return (inner nodes, leaves, small nodes).

        `small` (int64, (…, 7)) gets (low, high, depth, parent, which child, …) of nodes that are left to be grown.
        """
        stack, free = np.empty((limits.max_depth + 2, 7), np.int64), np.ones(limits.slots, np.bool_)
        stack[0] = (0, count, 0, -1, 0, -1, 0)
        waiting, nodes, leaves, left_over = 1, 0, 0, 0
        while waiting > 0:
            waiting -= 1
            low, high, depth, parent, which, slot, origin = stack[waiting]
            node, m = Node(low, high, weight_of(s.row_weight, s.rows[low:high])), high - low
            feature, cut, left, gain = -1, 0, 0, 0.0
            if _splittable(limits, m, depth):
                if m <= limits.small:
                    small[left_over] = stack[waiting]
                    left_over += 1
                    continue
                if slot < 0 and m >= limits.kept and depth + 1 < limits.max_depth:
                    slot, origin = _taken(free), m
                    if slot >= 0:
                        fill_slot(s, limits, node, columns, slot)
                square, lam = prepare(s, limits, node), limits.reg_lambda
                feature, cut, left, score = best_split(s, limits, node, columns, slot, square)
                gain = score - lam * square / ((node.weight + lam) * (node.weight + 2.0 * lam))
            if left == 0 or not gain > limits.least_gain:
                if parent >= 0:
                    tree.children[parent, which] = -1 - leaves
                leaves += 1
                if slot >= 0:
                    free[slot] = True
                continue
            tree.feature[nodes], tree.cut[nodes], tree.gain[nodes] = feature, cut, gain
            if parent >= 0:
                tree.children[parent, which] = nodes
            _split_rows(s, node, s.codes[feature], cut)
            middle = low + left
            slots = _halved(s, limits, node, middle, columns, free, slot, origin, depth)
            stack[waiting] = (middle, high, depth + 1, nodes, 1, slots[1], origin)
            stack[waiting + 1] = (low, middle, depth + 1, nodes, 0, slots[0], origin)
            waiting += 2
            nodes += 1
        _ = stamp
        return nodes, leaves, left_over

    def sort_small(s: Search, rows: Any, columns: Any, values: Any, orders: Any, stride: int) -> None:
        """Copy the values of a small node's rows, and sort them by the code of every column, in order."""
        ends = np.zeros(257, np.int64)
        for i in range(rows.size):
            values[i] = s.values[rows[i]]
        for f in range(columns.size):
            codes, order = s.codes[columns[f]], orders[f * stride : (f + 1) * stride]
            ends[:] = 0
            for row in rows:
                ends[codes[row] + 1] += 1
            for code in range(256):
                ends[code + 1] += ends[code]
            for i in range(rows.size):
                code = codes[rows[i]]
                order[ends[code]] = np.uint32(code) << CODE | np.uint32(i)
                ends[code] += 1
        _ = stamp

    def finish(
        s: Search, residual: Any, nodes: int, rows: Any, reg_lambda: float, rate: float, tree: GrownTree
    ) -> None:
        """Write rate · T / (W + λ) into all leaves, T over the given rows of the residuals of all outputs."""
        sums = np.zeros((nodes + 1, residual.shape[1]))
        weights = np.zeros(nodes + 1)
        for row in rows:
            at = 0 if nodes > 0 else -1
            while at >= 0:
                at = tree.children[at, 1 if s.codes[tree.feature[at], row] > tree.cut[at] else 0]
            total, value, weight = sums[-1 - at], residual[row], weight_at(s.row_weight, row)
            weights[-1 - at] += weight
            for k in range(total.size):
                total[k] += weight * value[k]
        for leaf in range(nodes + 1):
            share = rate / (weights[leaf] + reg_lambda)
            for k in range(residual.shape[1]):
                tree.leaves[leaf, k] = np.float32(share * sums[leaf, k])
        _ = stamp

    return tuple(compiled_and_cached(kernel) for kernel in (grow_top, sort_small, finish))


grow_top, sort_small, fill_leaves = _kernels_from(source_stamp())
