"""Growing one tree of the exact engine, and letting rows go down it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from rapids_pipeline.boosting.compilation import compiled, compiled_and_cached, source_stamp
from rapids_pipeline.boosting.exact_search import (
    CODE,
    ROW,
    Node,
    Rules,
    Work,
    add_rows,
    best_split,
    prepare,
)
from rapids_pipeline.boosting.exact_small import best_small_split, is_small
from rapids_pipeline.boosting.row_weights import weight_of

__all__ = ["GrownTree", "Rules", "Work", "go_down", "grow_tree"]


class GrownTree(NamedTuple):
    """Arrays a tree is written into, as long as the largest possible tree; `cut` is the last code that goes left."""

    feature: Any  # int32 (nodes)
    cut: Any  # int32 (nodes)
    children: Any  # int32 (nodes, 2)
    gain: Any  # float32 (nodes)
    leaves: Any  # float32 (leaves, outputs, padded)


@compiled
def _partition(
    source: Any, target: Any, work: Work, stride: int, node: Node, left: int, columns: Any
) -> None:
    """Write every column's order of the node into `target`, rows that go left first, both sides in order."""
    m = node.high - node.low
    for column in columns:
        at = column * stride + node.low
        here, sorted_apart = source[at : at + m], target[at : at + m]
        to_left, to_right = np.uint64(0), np.uint64(left)
        for j in range(m):
            entry = here[j]
            goes_left = work.side[entry & ROW] != 0
            sorted_apart[to_left if goes_left else to_right] = entry
            to_left += np.uint64(goes_left)
            to_right += np.uint64(not goes_left)


@compiled
def _split_rows(order: Any, work: Work, at: int, node: Node, left: int) -> None:
    """Mark which rows go left, the first of the order from `at`, and put them before the others, both rising."""
    for j in range(node.high - node.low):
        work.side[order[at + j] & ROW] = 1 if j < left else 0
    to_left, to_right = node.low, node.low + left
    for i in range(node.low, node.high):
        row = work.rows[i]
        if work.side[row]:
            work.spare[to_left] = row
            to_left += 1
        else:
            work.spare[to_right] = row
            to_right += 1
    for i in range(node.low, node.high):
        work.rows[i] = work.spare[i]


@compiled
def _varying(order: Any, stride: int, node: Node, columns: Any, kept: Any) -> int:
    """Copy the columns that are not constant in the node to `kept`; return how many."""
    count = 0
    for column in columns:
        at = column * stride
        if order[at + node.low] >> CODE != order[at + node.high - 1] >> CODE:
            kept[count] = column
            count += 1
    return count


@compiled
def _write_leaf(work: Work, rules: Rules, node: Node, rate: float, leaf: Any) -> None:
    """Write rate · T / (W + λ)."""
    add_rows(work.residual, work.row_weight, work.rows[node.low : node.high], work.total)
    share = rate / (node.weight + rules.reg_lambda)
    for k in range(work.total.size):
        leaf[k] = np.float32(share * work.total[k])


@compiled
def _fill_orders(root: Any, work: Work, stride: int, n: int, count: int, columns: Any) -> None:
    """Copy the chosen columns' orders of the sampled rows (side = 1) to the first of the two orders."""
    for column in columns:
        at = column * stride
        here, kept, to = root[at : at + n], work.orders[0][at : at + n], np.uint64(0)
        if count == n:
            kept[:] = here
        else:
            for entry in here:
                kept[to] = entry
                to += np.uint64(work.side[entry & ROW])


def _kernels_from(stamp: int) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Return the compiled functions; numba's cache takes the enclosed stamp as part of what it looks up."""

    def grow_tree(
        root: Any,
        columns: Any,
        count: int,
        work: Work,
        rules: Rules,
        max_depth: int,
        rate: float,
        tree: GrownTree,
    ) -> tuple[int, int]:
        """Grow a tree on rows[: count] (side = 1 for these) and the columns given; return (inner nodes, leaves)."""
        _fill_orders(root, work, rules.stride, work.side.size, count, columns)
        n_active = np.zeros(max_depth + 1, np.int64)
        work.active[0, : columns.size] = columns
        n_active[0] = columns.size
        stack = np.empty((max_depth + 2, 5), np.int64)
        stack[0] = (0, count, 0, -1, 0)
        waiting, nodes, leaves = 1, 0, 0
        while waiting > 0:
            waiting -= 1
            low, high, depth, parent, which = stack[waiting]
            node, m = Node(low, high, weight_of(work.row_weight, work.rows[low:high])), high - low
            feature, left, gain, small = -1, 0, 0.0, False
            source, target = work.orders[0], work.orders[1]
            if depth % 2 == 1:
                source, target = target, source
            if depth < max_depth and m >= max(2, 2 * rules.min_leaf):
                square = prepare(work, rules, node)
                columns_here = work.active[depth, : n_active[depth]]
                small = is_small(m, columns_here.size)
                if small:
                    varying = columns_here
                    feature, left, score = best_small_split(work, rules, source, node, varying)
                else:
                    kept = work.active[depth + 1]
                    varying = kept[: _varying(source, rules.stride, node, columns_here, kept)]
                    feature, left, score = best_split(work, rules, source, node, varying)
                W, lam = node.weight, rules.reg_lambda
                gain = score - lam * square / ((W + lam) * (W + 2.0 * lam))
            if left == 0 or not gain > rules.least_gain:
                _write_leaf(work, rules, node, rate, tree.leaves[leaves])
                if parent >= 0:
                    tree.children[parent, which] = -1 - leaves
                leaves += 1
                continue
            at = feature * rules.stride + low
            tree.feature[nodes], tree.gain[nodes] = feature, gain
            tree.cut[nodes] = source[at + left - 1] >> CODE
            if parent >= 0:
                tree.children[parent, which] = nodes
            _split_rows(source, work, at, node, left)
            if depth + 1 < max_depth:
                if small:
                    work.active[depth + 1, : varying.size] = varying
                n_active[depth + 1] = varying.size
                if max(left, m - left) >= max(2, 2 * rules.min_leaf):
                    _partition(source, target, work, rules.stride, node, left, varying)
            stack[waiting] = (low + left, high, depth + 1, nodes, 1)
            stack[waiting + 1] = (low, low + left, depth + 1, nodes, 0)
            waiting += 2
            nodes += 1
        _ = stamp
        return nodes, leaves

    def go_down(
        codes: Any, tree: GrownTree, nodes: int, targets: Any, predicted: Any, residual: Any
    ) -> float:
        """Add the tree's leaf to every row's prediction; write the residuals, return the sum of their squares."""
        total = 0.0
        for row in range(predicted.shape[0]):
            at = 0 if nodes > 0 else -1
            while at >= 0:
                at = tree.children[at, 1 if codes[tree.feature[at], row] > tree.cut[at] else 0]
            leaf, sums, wanted, left = tree.leaves[-1 - at], predicted[row], targets[row], residual[row]
            for k in range(sums.size):
                sums[k] += leaf[k]
                rest = wanted[k] - sums[k]
                left[k] = np.float32(rest)
                total += rest * rest
        _ = stamp
        return total

    return compiled_and_cached(grow_tree), compiled_and_cached(go_down)


grow_tree, go_down = _kernels_from(source_stamp())
