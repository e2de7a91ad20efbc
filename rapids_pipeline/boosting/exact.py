r"""The `exact` engine: greedy trees with vector leaves by exact search over presorted codes, on a CPU.

With residuals r_i = y_i − F(x_i) of a node's n rows, T = Σ r_i, and G_L the sum over the rows that go left:

    gain = |G_L|²/(n_L + λ) + |T − G_L|²/(n_R + λ) − |T|²/(n + λ)          leaf = learning_rate · T/(n + λ)

With N = n + 2λ and H_L = G_L − (n_L + λ) T/N this is, exactly,

    gain = |H_L|² · N / ((n_L + λ)(n_R + λ)) − λ|T|² / ((n + λ) N)

and its last term is the same for all splits of a node. H_L is a running sum: it starts from −λT/N and a row adds
h_i = r_i − T/N. So the scan of a column needs one sum of vectors and its square length a row, no products with T, and
nothing large cancels.

Order of work, for every tree:

1.  the orders of all columns, sorted once before the first tree (stable, by code), are copied;
2.  depth first, for every node: a table of the weights N/((n_L + λ)(n_R + λ)), then for every column that is not
    constant in the node the scan (`exact_vectors`), in float32;
3.  the columns whose best float32 score is within rounding of the best of all are scanned again and their splits judged
    in float64, so the split is that of an exact search; equal scores go to the first column and the lowest threshold;
4.  nodes of at most 10 rows have few sets of rows: a float64 table of their scores, then one look a step;
5.  every column's order is partitioned stably, from one of two buffers into the other.

A fit is one thread, holds no GIL, and gives the same bits every time. Starting value: the mean of every column of Y.
NaN is code 0, below all numbers, so it always goes left. A split must lower Σ|r|² by more than 1e-12 of what that
was before the first tree. Targets are scaled by a power of two on the way in and leaves on the way out, so float32
neither overflows nor loses small targets. Memory: 12 bytes · columns · rows for the orders.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.boosting.binning import QuantileBins
from rapids_pipeline.boosting.training import Floats, Settings, Trained, Watch
from rapids_pipeline.boosting.trees import TreeEnsemble, placed

LEAST_SHARE = 1e-12


def fit(
    X: Floats, Y: Floats, settings: Settings, watch: Watch, validation: tuple[Floats, Floats] | None = None
) -> Trained:
    """Grow trees on `X` (n, p), NaN allowed, and `Y` (n, d), both float32; see the module's docstring.

    Raises
    ------
    InputError
        There are 2^24 rows or more.
    """
    from rapids_pipeline.boosting.exact_kernels import go_down

    bins = QuantileBins.fit(X, settings.max_bins)
    codes = bins.codes(X)
    base = Y.mean(axis=0, dtype=np.float64).astype(np.float32)
    exponent = int(np.frexp(np.abs(Y.astype(np.float64) - base).max())[1])
    grower = _Grower.start(codes, Y, base, exponent, settings)
    held_out = validation and _Rows.start(bins.codes(validation[0]), validation[1], base, exponent)
    rng = np.random.default_rng(settings.seed)
    grown: list[_Tree] = []
    for _ in range(settings.n_estimators):
        tree, nodes = grower.grow(rng)
        go_down(codes, tree, nodes, grower.rows.targets, grower.rows.predicted, grower.rows.residual)
        score = None
        if held_out is not None:
            total = go_down(
                held_out.codes, tree, nodes, held_out.targets, held_out.predicted, held_out.residual
            )
            score = float(np.ldexp(np.sqrt(total / held_out.targets.size), exponent))
        grown.append(_Tree.copied(tree, nodes, Y.shape[1], exponent))
        if watch.stops_after(score):
            break
    return watch.trained(_ensemble(grown, bins, base, X.shape[1]))


@dataclass(frozen=True)
class _Rows:
    """Rows on their way: codes (p, n), targets and predictions (n, d) float64, residuals (n, padded) float32.

    The last three are in units of 2^exponent.
    """

    codes: NDArray[np.uint8]
    targets: NDArray[np.float64]
    predicted: NDArray[np.float64]
    residual: Floats

    @classmethod
    def start(
        cls, codes: NDArray[np.uint8], Y: Floats, base: Floats, exponent: int, width: int | None = None
    ) -> "_Rows":
        targets = np.ldexp(Y.astype(np.float64), -exponent)
        predicted = np.repeat(np.ldexp(base[None].astype(np.float64), -exponent), len(Y), axis=0)
        residual = np.zeros((len(Y), width or Y.shape[1]), np.float32)
        residual[:, : Y.shape[1]] = targets - predicted
        return cls(codes, targets, predicted, residual)


@dataclass(frozen=True)
class _Grower:
    """All that a fit keeps between trees."""

    rows: _Rows
    root: NDArray[np.uint32]
    work: Any
    rules: Any
    tree: Any
    settings: Settings

    @classmethod
    def start(
        cls, codes: NDArray[np.uint8], Y: Floats, base: Floats, exponent: int, settings: Settings
    ) -> "_Grower":
        from rapids_pipeline.boosting.exact_search import SLACK, Rules
        from rapids_pipeline.boosting.exact_vectors import LANES, MOST_VECTORS, ROW_BITS

        p, n = codes.shape
        if n >= 1 << ROW_BITS:
            raise InputError(f"the exact engine takes fewer than {1 << ROW_BITS:,} rows, not {n:,}")
        needed = -(-Y.shape[1] // LANES)
        passes = -(-needed // MOST_VECTORS)
        vectors = -(-needed // passes)
        rows = _Rows.start(codes, Y, base, exponent, passes * vectors * LANES)
        stride = -(-n // LANES) * LANES + SLACK
        root = np.zeros((p, stride), np.uint32)
        for feature in range(p):
            order = np.argsort(codes[feature], kind="stable").astype(np.uint32)
            root[feature, :n] = codes[feature][order].astype(np.uint32) << np.uint32(ROW_BITS) | order
        least = LEAST_SHARE * float(np.sum(rows.residual.astype(np.float64) ** 2))
        rules = Rules(float(settings.reg_lambda), settings.min_samples_leaf, least, vectors, passes, stride)
        work = allocated(rows.residual, p, rules, min(settings.max_depth, n))
        return cls(rows, root.reshape(-1), work, rules, _tree_space(n, rows, settings), settings)

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


def sample(rng: np.random.Generator, count: int, share: float) -> NDArray[np.int32]:
    """Return round(share · count), at least one, of 0 … count − 1, rising; all of them draw nothing."""
    if share >= 1.0:
        return np.arange(count, dtype=np.int32)
    chosen = rng.choice(count, size=max(1, round(share * count)), replace=False)
    return np.sort(chosen).astype(np.int32)


def allocated(residual: Floats, p: int, rules: Any, max_depth: int) -> Any:
    """Return the work arrays of a fit, those of vectors aligned to 64 bytes."""
    from rapids_pipeline.boosting.exact_search import GROUP, MASK_ROWS, SLACK, Work

    n, width = residual.shape
    return Work(
        residual=residual,
        h=_aligned(n * width),
        start=_aligned(width),
        weight=np.zeros(n + SLACK, np.float32),
        zeros=np.zeros(n + SLACK, np.float32),
        sums=np.zeros(GROUP * (n + SLACK), np.float32),
        best=np.zeros(p, np.float32),
        total=np.zeros(width),
        spread=np.zeros(width, np.float32),
        held=np.zeros((MASK_ROWS + 1, width)),
        table=np.zeros(1 << MASK_ROWS),
        bit=np.zeros(n, np.uint64),
        side=np.zeros(n, np.uint8),
        rows=np.zeros(n, np.int32),
        spare=np.zeros(n, np.int32),
        orders=(np.zeros(p * rules.stride, np.uint32), np.zeros(p * rules.stride, np.uint32)),
        active=np.zeros((max_depth + 1, p), np.int32),
    )


def _aligned(length: int) -> Floats:
    room = np.zeros(length + 16, np.float32)
    skip = (-room.ctypes.data % 64) // 4
    return room[skip : skip + length]


def _tree_space(n: int, rows: _Rows, settings: Settings) -> Any:
    from rapids_pipeline.boosting.exact_kernels import GrownTree

    nodes = min(2 ** min(settings.max_depth, 30) - 1, max(n - 1, 1))
    return GrownTree(
        np.zeros(nodes, np.int32),
        np.zeros(nodes, np.int32),
        np.zeros((nodes, 2), np.int32),
        np.zeros(nodes, np.float32),
        np.zeros((nodes + 1, rows.residual.shape[1]), np.float32),
    )


@dataclass(frozen=True)
class _Tree:
    feature: NDArray[np.int32]
    cut: NDArray[np.int32]
    children: NDArray[np.int32]
    gain: Floats
    leaves: Floats

    @classmethod
    def copied(cls, tree: Any, nodes: int, outputs: int, exponent: int) -> "_Tree":
        """Copy a tree out of the space it was grown in, and its numbers back to the unit of the targets."""
        gain = np.ldexp(tree.gain[:nodes].astype(np.float64), 2 * exponent)
        return cls(
            tree.feature[:nodes].copy(),
            tree.cut[:nodes].copy(),
            tree.children[:nodes].copy(),
            gain.clip(max=np.finfo(np.float32).max).astype(np.float32),
            np.ldexp(tree.leaves[: nodes + 1, :outputs], exponent),
        )


def _ensemble(grown: list[_Tree], bins: QuantileBins, base: Floats, n_features: int) -> TreeEnsemble:
    feature = np.concatenate([tree.feature for tree in grown])
    children, node_offset, leaf_offset = placed([tree.children for tree in grown])
    return TreeEnsemble(
        feature=feature,
        threshold=bins.thresholds(feature, np.concatenate([tree.cut for tree in grown])),
        nan_left=np.ones(len(feature), dtype=np.bool_),
        children=children,
        gain=np.concatenate([tree.gain for tree in grown]),
        node_offset=node_offset,
        leaf_offset=leaf_offset,
        leaves=np.concatenate([tree.leaves for tree in grown]),
        base=base,
        n_features=n_features,
    )
