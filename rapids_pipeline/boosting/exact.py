r"""The `exact` engine: greedy trees with vector leaves by exact search over presorted codes, on a CPU.

With residuals r_i = y_i − F(x_i) of a node's n rows, T = Σ r_i, and G_L the sum over the rows that go left:

    gain = |G_L|²/(n_L + λ) + |T − G_L|²/(n_R + λ) − |T|²/(n + λ)          leaf = learning_rate · T/(n + λ)

With N = n + 2λ and H_L = G_L − (n_L + λ) T/N this is, exactly,

    gain = |H_L|² · N / ((n_L + λ)(n_R + λ)) − λ|T|² / ((n + λ) N)

and its last term is the same for all splits of a node. H_L is a running sum: it starts from −λT/N and a row adds
h_i = r_i − T/N. So the scan of a column needs one sum of vectors and its square length a row, no products with T, and
nothing large cancels.

With weights w_i all of this holds for Σ w_i|r_i|²: T and G_L are sums of w_i r_i, the weights W, W_L and W_R of the
rows stand for the numbers m, n_L and n_R of them, and h_i = w_i (r_i − T/N). Only the smallest leaf still counts rows.
Loops without weights are compiled as if there were none (`row_weights`).

Order of work, for every tree:

1.  the orders of all columns, sorted once before the first tree (stable, by code), are copied;
2.  depth first, for every node: a table of the factors N/((n_L + λ)(n_R + λ)), with weights one for every column,
    then for every column that is not constant in the node the scan (`exact_vectors`), in float32;
3.  the columns whose best float32 score is within rounding of the best of all are scanned again and their splits judged
    in float64, so the split is that of an exact search; equal scores go to the first column and the lowest threshold;
4.  nodes of at most 10 rows have few sets of rows: a float64 table of their scores, then one look a step;
5.  every column's order is partitioned stably, from one of two buffers into the other.

A fit is one thread, holds no GIL, and gives the same bits every time. Starting value: the weighted column means of Y.
NaN is code 0, below all numbers, so it always goes left. A split must lower Σ w|r|² by more than 1e-12 of what that
was before the first tree. Targets are scaled by a power of two on the way in and leaves on the way out, so float32
neither overflows nor loses small targets. Memory: 12 bytes · columns · rows for the orders.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.boosting.rounds import (
    LANES,
    Rows,
    aligned,
    boosted,
    least_gain,
    sample,
    tree_space,
    vectors_and_passes,
)
from rapids_pipeline.boosting.training import Floats, Settings, Trained, Watch, Weights


def fit(
    X: Floats,
    Y: Floats,
    settings: Settings,
    watch: Watch,
    validation: tuple[Floats, Floats] | None = None,
    weights: Weights | None = None,
) -> Trained:
    """Grow trees on `X` (n, p), NaN allowed, and `Y` (n, d), both float32, `weights` (n,) above 0; see the module.

    Raises
    ------
    InputError
        There are 2^24 rows or more.
    """
    return boosted(X, Y, settings, watch, validation, _Grower.start, weights)


@dataclass(frozen=True)
class _Grower:
    """All that a fit keeps between trees."""

    rows: Rows
    root: NDArray[np.uint32]
    work: Any
    rules: Any
    tree: Any
    settings: Settings

    @classmethod
    def start(cls, rows: Rows, settings: Settings) -> "_Grower":
        from rapids_pipeline.boosting.exact_search import SLACK, Rules
        from rapids_pipeline.boosting.exact_vectors import ROW_BITS

        p, n = rows.codes.shape
        if n >= 1 << ROW_BITS:
            raise InputError(f"the exact engine takes fewer than {1 << ROW_BITS:,} rows, not {n:,}")
        vectors, passes = vectors_and_passes(rows.targets.shape[1])
        stride = -(-n // LANES) * LANES + SLACK
        root = np.zeros((p, stride), np.uint32)
        for feature, codes in enumerate(rows.codes):
            order = np.argsort(codes, kind="stable").astype(np.uint32)
            root[feature, :n] = codes[order].astype(np.uint32) << np.uint32(ROW_BITS) | order
        least = least_gain(rows)
        rules = Rules(float(settings.reg_lambda), settings.min_samples_leaf, least, vectors, passes, stride)
        work = allocated(rows.residual, rows.weights, p, rules, min(settings.max_depth, n))
        tree = tree_space(n, settings.max_depth, rows.residual.shape[1])
        return cls(rows, root.reshape(-1), work, rules, tree, settings)

    def grow(self, rng: np.random.Generator) -> tuple[Any, int]:
        """Sample columns and rows, and grow a tree on them; return its arrays and how many inner nodes it has."""
        from rapids_pipeline.boosting.exact_kernels import grow_tree

        p, n = self.rows.codes.shape
        settings, work = self.settings, self.work
        columns = sample(rng, p, settings.colsample)
        rows = sample(rng, n, settings.subsample)
        work.rows[: len(rows)] = rows
        work.side[:] = 0
        work.side[rows] = 1
        nodes, _ = grow_tree(
            self.root,
            columns,
            len(rows),
            work,
            self.rules,
            min(settings.max_depth, n),
            settings.learning_rate,
            self.tree,
        )
        return self.tree, nodes


def allocated(residual: Floats, row_weight: Weights | None, p: int, rules: Any, max_depth: int) -> Any:
    """Return the work arrays of a fit, those of vectors aligned to 64 bytes."""
    from rapids_pipeline.boosting.exact_search import GROUP, MASK_ROWS, SLACK, Work

    n, width = residual.shape
    return Work(
        residual=residual,
        h=aligned(n * width),
        start=aligned(width),
        factor=np.zeros(n + SLACK, np.float32),
        zeros=np.zeros(n + SLACK, np.float32),
        sums=np.zeros(GROUP * (n + SLACK), np.float32),
        best=np.zeros(p, np.float32),
        total=np.zeros(width),
        spread=np.zeros(width, np.float32),
        held=np.zeros((MASK_ROWS + 1, width)),
        table=np.zeros(1 << MASK_ROWS),
        set_weight=np.zeros(1 << MASK_ROWS),
        bit=np.zeros(n, np.uint64),
        side=np.zeros(n, np.uint8),
        rows=np.zeros(n, np.int32),
        spare=np.zeros(n, np.int32),
        orders=(np.zeros(p * rules.stride, np.uint32), np.zeros(p * rules.stride, np.uint32)),
        active=np.zeros((max_depth + 1, p), np.int32),
        row_weight=row_weight,
    )
