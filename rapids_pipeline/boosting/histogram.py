r"""The `hist` engine: greedy trees with vector leaves by histograms for many rows, on a CPU.

The trees are those of the exact engine (same bins, splits, ties, leaves and draws, see `exact.py`). With residuals r_i
of a node's m rows, T = Σ r_i, N = m + 2λ and the histogram of a column

    n_b = |{i: code_i = b}|        h_b = Σ_{i: code_i = b} (r_i − T/N)     (n_b in a lane of ones beside the outputs)
    H_c = −λT/N + Σ_{b ≤ c} h_b                gain = |H_c|² · N / ((n_L + λ)(n_R + λ)) − λ|T|² / ((m + λ) N)

so adding up costs rows × columns × outputs a level, in the order of the rows, and looking costs bins × columns ×
outputs a node. Depth first, for every node of more than `SMALL_NODE` rows:

1.  its residuals are gathered, 16 outputs at a time; then, for a block of columns, tile by tile of rows, they are added
    to the histograms, so that sums stay in the first cache and rows in the second;
2.  of two children of a large node only the smaller is added up, and subtracted from the parent's histograms;
3.  the scores of all splits, in float32, from h_b = Σ r_i less n_b T/N;
4.  splits within 1e-3 of the best are judged in float64, from the rows of the node; equal ones go to the first column
    and the lowest threshold.

Nodes of at most `SMALL_NODE` rows have too few rows for so many bins: their rows are sorted by code and the exact
engine grows the rest. Last, leaves are summed in float64 from the residuals of all outputs. Neither blocks of columns
nor tiles of rows change a bit of the result: each sum has the order of its rows.

With a `Sketch`, all but the leaves see the sketched residuals (n, k).

With weights (see `exact.py`) the histograms are of w_i r_i, with a lane of the weights beside that of ones, and W_L and
W_R are added up from either end. They are never subtracted from one another: what heavy rows round off would be left
to light ones.

Memory beside the codes, and residuals twice: kept histograms of waiting nodes, at most `KEPT_BYTES` (nodes that find no
room are added up), one block of columns, at most `BLOCK_BYTES` or four columns, scores and one column in float64;
orders of a small node, 12 bytes · columns · SMALL_NODE.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Any

import numpy as np

from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.boosting.exact import allocated as exact_work
from rapids_pipeline.boosting.rounds import (
    LANES,
    Rows,
    aligned,
    boosted,
    least_gain,
    padded,
    sample,
    tree_space,
    vectors_and_passes,
)
from rapids_pipeline.boosting.sketch import Sketch
from rapids_pipeline.boosting.training import Floats, Settings, Trained, Watch, Weights

SMALL_NODE = 2048
TILE_ROWS = 1024
BLOCK_BYTES = 1 << 19
KEPT_BYTES = 1 << 28
KEPT_ROWS_A_BIN = 8
"""Histograms are kept for subtraction of nodes with at least so many rows times bins: reading them costs memory."""
MOST_ROWS = 1 << 24


def fit(
    X: Floats,
    Y: Floats,
    settings: Settings,
    watch: Watch,
    validation: tuple[Floats, Floats] | None = None,
    sketch: Sketch | None = None,
    weights: Weights | None = None,
) -> Trained:
    """Grow trees on `X` (n, p), NaN allowed, and `Y` (n, d), both float32, `weights` (n,) above 0; see the module.

    Raises
    ------
    InputError
        There are 2^24 rows or more.
    """
    if len(X) >= MOST_ROWS:
        raise InputError(f"the hist engine takes fewer than {MOST_ROWS:,} rows, not {len(X):,}")
    return boosted(X, Y, settings, watch, validation, partial(_Grower.start, Y.shape[1], sketch), weights)


@dataclass(frozen=True)
class _Small:
    """What the exact engine grows small nodes in: its work arrays for `SMALL_NODE` rows."""

    work: Any
    rules: Any
    orders: Any
    tree: Any

    @classmethod
    def start(
        cls, n: int, p: int, outputs: int, settings: Settings, least: float, *, weighted: bool
    ) -> "_Small":
        from rapids_pipeline.boosting.exact_search import SLACK, Rules

        vectors, passes = vectors_and_passes(outputs)
        most = min(n, SMALL_NODE)
        stride = -(-most // LANES) * LANES + SLACK
        rules = Rules(float(settings.reg_lambda), settings.min_samples_leaf, least, vectors, passes, stride)
        row_weight = np.ones(most) if weighted else None
        work = exact_work(np.zeros((most, padded(outputs)), np.float32), row_weight, p, rules, most)
        tree = tree_space(most, settings.max_depth, padded(outputs))
        return cls(work, rules, np.zeros(p * stride, np.uint32), tree)

    def grow(self, search: Any, rows: Any, columns: Any, depth: int) -> tuple[int, int]:
        """Grow a tree of at most `depth` on some rows; return (inner nodes, leaves)."""
        from rapids_pipeline.boosting.exact_kernels import grow_tree
        from rapids_pipeline.boosting.exact_search import SLACK
        from rapids_pipeline.boosting.histogram_kernels import sort_small

        m, work = len(rows), self.work
        sort_small(search, rows, columns, work.residual, self.orders, self.rules.stride)
        if search.row_weight is not None:
            work.row_weight[:m] = search.row_weight[rows]
        here = work._replace(
            residual=work.residual[:m],
            factor=work.factor[: m + SLACK],
            zeros=work.zeros[: m + SLACK],
            bit=work.bit[:m],
            side=work.side[:m],
        )
        here.rows[:m] = np.arange(m)
        local = np.arange(len(columns), dtype=np.int32)
        found: tuple[int, int] = grow_tree(
            self.orders, local, m, here, self.rules, min(depth, m), 1.0, self.tree
        )
        return found


@dataclass(frozen=True)
class _Grower:
    """All that a fit keeps between trees."""

    rows: Rows
    search: Any
    limits: Any
    small: _Small
    tree: Any
    settings: Settings
    n_outputs: int
    sketch: Sketch | None
    numbers: Iterator[int]

    @classmethod
    def start(cls, n_outputs: int, sketch: Sketch | None, rows: Rows, settings: Settings) -> "_Grower":
        from rapids_pipeline.boosting.histogram_search import Limits
        from rapids_pipeline.boosting.histogram_vectors import COLUMNS

        p, n = rows.codes.shape
        searched = n_outputs if sketch is None else sketch.width(n_outputs)
        least, weighted = least_gain(rows), rows.weights is not None
        chunks, bins = (searched + weighted) // LANES + 1, int(rows.codes.max()) + 1
        column_bytes = chunks * bins * LANES * 4
        taken = len(sample(np.random.default_rng(0), p, settings.colsample)) + COLUMNS - 1
        block = max(1, min(taken, BLOCK_BYTES // column_bytes) // COLUMNS) * COLUMNS
        most_kept = 0 if weighted else KEPT_BYTES
        slots = min(settings.max_depth + 1, most_kept // (column_bytes * (taken // COLUMNS * COLUMNS)))
        limits = Limits(
            float(settings.reg_lambda),
            settings.min_samples_leaf,
            least,
            min(settings.max_depth, n),
            searched,
            chunks,
            bins,
            block,
            TILE_ROWS,
            SMALL_NODE,
            KEPT_ROWS_A_BIN * bins,
            slots,
        )
        small = _Small.start(n, p, searched, settings, least, weighted=weighted)
        values = rows.residual if searched == n_outputs else np.zeros((n, padded(searched)), np.float32)
        tree = tree_space(n, settings.max_depth, rows.residual.shape[1])
        search = allocated(rows, values, limits, taken)
        return cls(rows, search, limits, small, tree, settings, n_outputs, sketch, count())

    def grow(self, rng: np.random.Generator) -> tuple[Any, int]:
        """Sample columns and rows, and grow a tree on them; return its arrays and how many inner nodes it has."""
        from rapids_pipeline.boosting.histogram_kernels import fill_leaves

        p, n = self.rows.codes.shape
        columns = sample(rng, p, self.settings.colsample)
        rows = sample(rng, n, self.settings.subsample)
        self._sketch_residuals()
        self.search.rows[: len(rows)] = rows
        nodes = self._structure(columns, len(rows))
        tree = in_preorder(self.tree, nodes)
        rate, lam = self.settings.learning_rate, float(self.settings.reg_lambda)
        fill_leaves(self.search, self.rows.residual, nodes, rows, lam, rate, tree)
        return tree, nodes

    def _sketch_residuals(self) -> None:
        if self.sketch is not None and self.limits.outputs < self.n_outputs:
            seed = self.settings.seed, next(self.numbers)
            sketched = self.sketch.of(self.rows.residual[:, : self.n_outputs], seed, self.rows.weights)
            self.search.values[:, : self.limits.outputs] = sketched

    def _structure(self, columns: Any, rows: int) -> int:
        """Grow the nodes on rows[: rows], large ones from histograms; return how many inner ones there are."""
        from rapids_pipeline.boosting.histogram_kernels import grow_top

        tree, search = self.tree, self.search
        waiting = np.zeros((rows // (2 * self.limits.min_leaf) + 1, 7), np.int64)
        nodes, leaves, left_over = grow_top(search, self.limits, columns, rows, tree, waiting)
        for low, high, depth, parent, which, *_ in waiting[:left_over].tolist():
            inner, ends = self.small.grow(
                search, search.rows[low:high], columns, self.limits.max_depth - depth
            )
            grown, after = self.small.tree, slice(nodes, nodes + inner)
            tree.feature[after] = columns[grown.feature[:inner]]
            tree.cut[after], tree.gain[after] = grown.cut[:inner], grown.gain[:inner]
            children = grown.children[:inner]
            tree.children[after] = np.where(children >= 0, children + nodes, children - leaves)
            if parent >= 0:
                tree.children[parent, which] = nodes if inner else -1 - leaves
            nodes, leaves = nodes + inner, leaves + ends
        return int(nodes)


def allocated(rows: Rows, values: Floats, limits: Any, columns: int) -> Any:
    """Return the arrays that nodes are searched in."""
    from rapids_pipeline.boosting.histogram_search import Search

    (p, n), codes = rows.codes.shape, rows.codes
    gathered = aligned(limits.chunks * n * LANES)
    gathered.reshape(-1, n, LANES)[limits.outputs // LANES, :, limits.outputs % LANES] = 1.0
    floats = limits.chunks * limits.bins * LANES * (limits.slots * columns + limits.block)
    return Search(
        values=values,
        codes=codes,
        n_codes=codes.max(axis=1).astype(np.int64) + 1,
        rows=np.zeros(n, np.int32),
        spare=np.zeros(n, np.int32),
        gathered=gathered,
        tile_codes=np.zeros(limits.block * limits.tile, np.uint8),
        histogram=aligned(floats),
        sums=np.zeros(limits.bins, np.float32),
        counts=np.zeros(limits.bins, np.float32),
        weights=np.zeros(limits.bins, np.float32),
        scores=np.zeros((p, limits.bins), np.float32),
        best=np.zeros(p, np.float32),
        total=np.zeros(values.shape[1]),
        mean=np.zeros(limits.chunks * LANES, np.float32),
        start=np.zeros(limits.chunks * LANES, np.float32),
        held=np.zeros((limits.bins, values.shape[1])),
        held_weight=np.zeros(limits.bins),
        row_weight=rows.weights,
    )


def in_preorder(tree: Any, nodes: int) -> Any:
    """Return the tree with its nodes, and its leaves, numbered depth first, left before right."""
    order, new, leaf = np.zeros(nodes, np.int64), np.zeros((nodes, 2), np.int32), 0
    waiting, place = ([(0, -1, 0)] if nodes else []), 0
    children = tree.children[:nodes].tolist()
    while waiting:
        at, parent, which = waiting.pop()
        if at < 0:
            new[parent, which] = -1 - leaf
            leaf += 1
            continue
        if parent >= 0:
            new[parent, which] = place
        order[place] = at
        waiting += [(children[at][1], place, 1), (children[at][0], place, 0)]
        place += 1
    for array in (tree.feature, tree.cut, tree.gain):
        array[:nodes] = array[order]
    tree.children[:nodes] = new
    return tree
