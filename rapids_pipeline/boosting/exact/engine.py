r"""The exact engine: greedy trees with vector leaves by exact search over presorted codes, on a CPU.

With residuals r_i = y_i − F(x_i) of a node's n rows, T = Σ r_i, and G_L the sum over the rows that go left:

    gain = |G_L|²/(n_L + λ) + |T − G_L|²/(n_R + λ) − |T|²/(n + λ)          leaf = learning_rate · T/(n + λ)

With N = n + 2λ and H_L = G_L − (n_L + λ) T/N this is, exactly,

    gain = |H_L|² · N / ((n_L + λ)(n_R + λ)) − λ|T|² / ((n + λ) N)

and its last term is the same for all splits of a node. H_L is a running sum: it starts from −λT/N and a row adds
h_i = r_i − T/N. So the scan of a column needs one sum of vectors and its square length a row, no products with T, and
nothing large cancels.

With weights w_i all of this holds for Σ w_i|r_i|²: T and G_L are sums of w_i r_i, the weights W, W_L and W_R of the
rows stand for the numbers n, n_L and n_R of them, and h_i = w_i (r_i − T/N). Only the smallest leaf still counts rows.

Order of work: round t grows a tree on the residuals y − F and adds its leaves to F, which starts from the weighted
column means of Y. For every tree:

1.  the orders of all columns, sorted once before the first tree (stable, by code), are copied;
2.  depth first, for every node: a table of the factors N/((n_L + λ)(n_R + λ)), with weights one for every column,
    then for every column that is not constant in the node the scan (`kernels`), in float32;
3.  the columns whose best float32 score is within rounding of the best of all are scanned again and their splits judged
    in float64, so the split is that of an exact search; equal scores go to the first column and the lowest threshold;
4.  nodes of at most 10 rows have few sets of rows: a float64 table of their scores, then one look a step;
5.  every column's order is partitioned stably, from one of two buffers into the other.

A fit is one thread, holds no GIL, and gives the same bits every time. NaN is code 0, below all numbers, so it goes
left. A column with NaN has a mirror among the columns that are searched, in which NaN is above all numbers and goes
right (`bins`): the side that gains more is taken, left where both are equal. A split must lower Σ w|r|² by more than
1e-12 of what that was before the first tree. Predictions are float64, residuals float32; both are in units of the power
of two next above max |Y − F_0|, so float32 neither overflows nor loses small targets; weights and λ are in units of the
power of two that brings the largest weight to [1, 2).
Memory: 12 bytes · columns · rows for the orders.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from rapids_pipeline.backend.arrays import Bins, Codes, Float32, Float64
from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.boosting.engines import (
    Settings,
    Trained,
    Watch,
    in_units_of_the_largest,
    rescaled,
    weighted_mean,
)
from rapids_pipeline.boosting.exact.bins import Mirrors, QuantileBins
from rapids_pipeline.boosting.exact.kernels import (
    LANES,
    ROW_BITS,
    checksum,
    compiled,
    vectors_and_passes,
    weight_of,
)
from rapids_pipeline.boosting.exact.search import (
    CODE,
    ROW,
    SLACK,
    Node,
    Rules,
    Work,
    add_rows,
    allocated,
    best_small_split,
    best_split,
    is_small,
    prepare,
)
from rapids_pipeline.boosting.trees import Tree, TreeEnsemble, compiled_and_cached

LEAST_GAIN = 1e-12
"""A split must lower Σ w|r|² by more than this share of what that was before the first tree."""


def require() -> None:
    """Do nothing: the engine needs no more than the package does."""


def fit(
    X: Float32,
    Y: Float32,
    settings: Settings,
    watch: Watch,
    validation: tuple[Float32, Float32] | None = None,
    weights: Float64 | None = None,
) -> Trained:
    """Grow trees on `X` (n, p), NaN allowed, and `Y` (n, d), both float32, `weights` (n,) above 0; see the module.

    Raises
    ------
    InputError
        There are 2^24 rows or more.
    """
    if len(X) >= 1 << ROW_BITS:
        raise InputError(f"the exact engine takes fewer than {1 << ROW_BITS:,} rows, not {len(X):,}")
    bins = QuantileBins.fit(X, settings.max_bins)
    base = weighted_mean(Y, weights)
    exponent = int(np.frexp(np.abs(Y.astype(np.float64) - base).max())[1])
    weights, settings, weight_exponent = in_units_of_the_largest(weights, settings)
    vectors, passes = vectors_and_passes(Y.shape[1])
    codes = bins.codes(X)
    mirrors = Mirrors.of(codes)
    rows = Rows.start(mirrors.beside(codes), Y, base, exponent, vectors * passes * LANES)
    held_out = None
    if validation is not None:
        held_out = Rows.start(
            mirrors.beside(bins.codes(validation[0])), validation[1], base, exponent, Y.shape[1]
        )
    grower = Grower.start(rows, mirrors, weights, settings, vectors, passes)
    rng = np.random.default_rng(settings.seed)
    trees: list[Tree] = []
    for _ in range(settings.n_estimators):
        nodes = grower.grow(rng)
        _go_down(rows.codes, grower.tree, nodes, rows.targets, rows.predicted, rows.residual)
        score = None
        if held_out is not None:
            moved = held_out.targets, held_out.predicted, held_out.residual
            total = _go_down(held_out.codes, grower.tree, nodes, *moved)
            score = float(np.ldexp(np.sqrt(total / held_out.targets.size), exponent))
        trees.append(grower.tree.copied(nodes, bins, mirrors, Y.shape[1], exponent, weight_exponent))
        if watch.stops_after(score):
            break
    return watch.trained(TreeEnsemble.of(trees, base, X.shape[1]))


class Rows(NamedTuple):
    """Rows on their way: codes (p, n), targets and predictions (n, d), residuals (n, width)."""

    codes: Bins
    targets: Float64
    predicted: Float64
    residual: Float32

    @classmethod
    def start(cls, codes: Bins, Y: Float32, base: Float32, exponent: int, width: int) -> "Rows":
        """Make rows that are predicted to be `base`."""
        targets = np.ldexp(Y.astype(np.float64), -exponent)
        predicted = np.repeat(np.ldexp(base[None].astype(np.float64), -exponent), len(Y), axis=0)
        residual = np.zeros((len(Y), width), np.float32)
        residual[:, : Y.shape[1]] = targets - predicted
        return cls(codes, targets, predicted, residual)


class GrownTree(NamedTuple):
    """Arrays a tree is written into, as long as the largest possible tree; `cut` is the last code that goes left."""

    feature: Any  # int32 (nodes)
    cut: Any  # int32 (nodes)
    children: Any  # int32 (nodes, 2)
    gain: Any  # float32 (nodes)
    leaves: Any  # float32 (leaves, outputs, padded)

    @classmethod
    def empty(cls, rows: int, max_depth: int, width: int) -> "GrownTree":
        """Return room for any tree on so many rows, its leaves `width` wide."""
        nodes = min(2 ** min(max_depth, 30) - 1, max(rows - 1, 1))
        return cls(
            feature=np.zeros(nodes, np.int32),
            cut=np.zeros(nodes, np.int32),
            children=np.zeros((nodes, 2), np.int32),
            gain=np.zeros(nodes, np.float32),
            leaves=np.zeros((nodes + 1, width), np.float32),
        )

    def copied(
        self,
        nodes: int,
        bins: QuantileBins,
        mirrors: Mirrors,
        outputs: int,
        exponent: int,
        weight_exponent: int,
    ) -> Tree:
        """Return the tree with cuts as thresholds and numbers in the units of targets and weights."""
        feature, cut, nan_left = mirrors.resolved(self.feature[:nodes].copy(), self.cut[:nodes])
        return Tree(
            feature,
            bins.thresholds(feature, cut),
            nan_left,
            self.children[:nodes].copy(),
            rescaled(self.gain[:nodes], 2 * exponent + weight_exponent),
            np.ldexp(self.leaves[: nodes + 1, :outputs], exponent),
        )


def sample(rng: np.random.Generator, count: int, share: float) -> Codes:
    """Return round(share · count), at least one, of 0 … count − 1, rising; all of them draw nothing."""
    if share >= 1.0:
        return np.arange(count, dtype=np.int32)
    chosen = rng.choice(count, size=max(1, round(share * count)), replace=False)
    return np.sort(chosen).astype(np.int32)


@dataclass(frozen=True)
class Grower:
    """All that a fit keeps between trees: `root` holds every column's order, flat (p, stride)."""

    root: Any
    mirrors: Mirrors
    work: Work
    rules: Rules
    tree: GrownTree
    settings: Settings

    @classmethod
    def start(
        cls,
        rows: Rows,
        mirrors: Mirrors,
        weights: Float64 | None,
        settings: Settings,
        vectors: int,
        passes: int,
    ) -> "Grower":
        """Sort the columns of the rows; trees are grown on their residuals, which change from tree to tree."""
        p, n = rows.codes.shape
        stride = -(-n // LANES) * LANES + SLACK
        root = np.zeros((p, stride), np.uint32)
        for feature, codes in enumerate(rows.codes):
            order = np.argsort(codes, kind="stable").astype(np.uint32)
            root[feature, :n] = codes[order].astype(np.uint32) << np.uint32(ROW_BITS) | order
        squares = rows.residual.astype(np.float64) ** 2
        rules = Rules(
            reg_lambda=float(settings.reg_lambda),
            learning_rate=settings.learning_rate,
            max_depth=min(settings.max_depth, n),
            min_leaf=settings.min_samples_leaf,
            least_gain=LEAST_GAIN * float(np.sum(squares if weights is None else weights[:, None] * squares)),
            vectors=vectors,
            passes=passes,
            stride=stride,
        )
        tree = GrownTree.empty(n, settings.max_depth, rows.residual.shape[1])
        work = allocated(rows.residual, weights, p, rules)
        return cls(root.reshape(-1), mirrors, work, rules, tree, settings)

    def grow(self, rng: np.random.Generator) -> int:
        """Sample columns and rows, and grow `tree` on them; return how many inner nodes it has."""
        columns = self.mirrors.searched(sample(rng, self.mirrors.p, self.settings.colsample))
        rows = sample(rng, len(self.work.rows), self.settings.subsample)
        self.work.rows[: len(rows)] = rows
        self.work.side[:] = 0
        self.work.side[rows] = 1
        return int(_grow_tree(self.root, columns, len(rows), self.work, self.rules, self.tree))


# --- growing one tree -------------------------------------------------------------------------------------------------


@compiled
def _grow(root: Any, columns: Any, count: int, work: Work, rules: Rules, tree: GrownTree) -> int:
    """Grow a tree on rows[: count] (side = 1 for these) and the columns given; return how many inner nodes it has."""
    _fill_orders(root, work, rules.stride, count, columns)
    n_active = np.zeros(rules.max_depth + 1, np.int64)
    work.active[0, : columns.size] = columns
    n_active[0] = columns.size
    fewest = max(2, 2 * rules.min_leaf)
    stack = np.empty((rules.max_depth + 2, 5), np.int64)
    stack[0] = (0, count, 0, -1, 0)
    waiting, nodes, leaves = 1, 0, 0
    while waiting > 0:
        waiting -= 1
        low, high, depth, parent, which = stack[waiting]
        node, m = Node(low, high, weight_of(work.row_weight, work.rows[low:high])), high - low
        source, target = work.orders[0], work.orders[1]
        if depth % 2 == 1:
            source, target = target, source
        feature, left, gain, varying = -1, 0, 0.0, 0
        if depth < rules.max_depth and m >= fewest:
            feature, left, gain, varying = _search(work, rules, source, node, depth, n_active[depth])
        if left == 0 or not gain > rules.least_gain:
            _write_leaf(work, rules, node, tree.leaves[leaves])
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
        if depth + 1 < rules.max_depth:
            n_active[depth + 1] = varying
            if max(left, m - left) >= fewest:
                _partition(source, target, work, rules.stride, node, left, work.active[depth + 1, :varying])
        stack[waiting] = (low + left, high, depth + 1, nodes, 1)
        stack[waiting + 1] = (low, low + left, depth + 1, nodes, 0)
        waiting += 2
        nodes += 1
    return nodes


@compiled
def _search(
    work: Work, rules: Rules, order: Any, node: Node, depth: int, count: int
) -> tuple[int, int, float, int]:
    """Return (column, rows left, gain) of a node's best split and how many columns are left to the nodes below it."""
    square = prepare(work, rules, node)
    columns, kept = work.active[depth, :count], work.active[depth + 1]
    if is_small(node.high - node.low, count):
        kept[:count] = columns
        feature, left, score = best_small_split(work, rules, order, node, columns)
    else:
        count = _varying(order, rules.stride, node, columns, kept)
        feature, left, score = best_split(work, rules, order, node, kept[:count])
    W, lam = node.weight, rules.reg_lambda
    return feature, left, score - lam * square / ((W + lam) * (W + 2.0 * lam)), count


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
def _fill_orders(root: Any, work: Work, stride: int, count: int, columns: Any) -> None:
    """Copy the chosen columns' orders of the sampled rows (side = 1) to the first of the two orders."""
    n = work.side.size
    for column in columns:
        at = column * stride
        here, kept, to = root[at : at + n], work.orders[0][at : at + n], np.uint64(0)
        if count == n:
            kept[:] = here
        else:
            for entry in here:
                kept[to] = entry
                to += np.uint64(work.side[entry & ROW])


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
def _write_leaf(work: Work, rules: Rules, node: Node, leaf: Any) -> None:
    """Write learning_rate · T / (W + λ)."""
    add_rows(work.residual, work.row_weight, work.rows[node.low : node.high], work.total)
    share = rules.learning_rate / (node.weight + rules.reg_lambda)
    for k in range(work.total.size):
        leaf[k] = np.float32(share * work.total[k])


@compiled_and_cached
def _go_down(codes: Any, tree: GrownTree, nodes: int, targets: Any, predicted: Any, residual: Any) -> float:
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
    return total


def _cached(stamp: int) -> Callable[..., Any]:
    """Return `_grow`, cached on disk; numba takes the enclosed checksum as part of what it looks up."""

    def grow_tree(root: Any, columns: Any, count: int, work: Work, rules: Rules, tree: GrownTree) -> int:
        _ = stamp
        return _grow(root, columns, count, work, rules, tree)  # type: ignore[no-any-return]

    return compiled_and_cached(grow_tree)


_grow_tree = _cached(checksum())
