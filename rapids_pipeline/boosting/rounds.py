"""The rounds of boosting that engines of our own share: bins, residuals, one tree after the other, the ensemble.

    F_0 = Σ w y / Σ w;   round t: residuals r = y − F, a tree grown on them, F += its leaf vectors

An engine is a `Grower`: it turns the residuals into a tree. Predictions are float64, residuals float32; both are in
units of 2^exponent, the power of two next above max |Y − F_0|, so float32 neither overflows nor loses small targets.
Weights, and λ with them, are in units of the power of two that brings the largest weight to [1, 2), likewise.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from rapids_pipeline.boosting.binning import QuantileBins
from rapids_pipeline.boosting.training import (
    Floats,
    Settings,
    Trained,
    Watch,
    Weights,
    in_units_of_the_largest,
    rescaled,
    weighted_mean,
)
from rapids_pipeline.boosting.trees import TreeEnsemble, placed

LEAST_SHARE = 1e-12
"""A split must lower Σ|r|² by more than this share of what that was before the first tree."""
LANES, MOST_VECTORS = 16, 4


class Grower(Protocol):
    """Grows a tree on the residuals it was started with, which change from round to round."""

    def grow(self, rng: np.random.Generator) -> tuple[Any, int]:
        """Return the tree's arrays (`exact_kernels.GrownTree`) and how many inner nodes it has."""


def vectors_and_passes(outputs: int) -> tuple[int, int]:
    """Return how many vectors of 16 floats a pass over the outputs takes (at most 4), and how many passes."""
    needed = -(-outputs // LANES)
    passes = -(-needed // MOST_VECTORS)
    return -(-needed // passes), passes


def padded(outputs: int) -> int:
    """Return the columns of an array that holds `outputs` in whole vectors and passes."""
    vectors, passes = vectors_and_passes(outputs)
    return vectors * passes * LANES


@dataclass(frozen=True)
class Rows:
    """Rows on their way: codes (p, n), targets and predictions (n, d), residuals (n, padded), weights (n,) or None."""

    codes: NDArray[np.uint8]
    targets: NDArray[np.float64]
    predicted: NDArray[np.float64]
    residual: Floats
    weights: Weights | None = None

    @classmethod
    def start(
        cls, codes: NDArray[np.uint8], Y: Floats, base: Floats, exponent: int, width: int | None = None
    ) -> "Rows":
        """Make rows that are predicted to be `base`, their residuals `width` columns wide (d if not given)."""
        targets = np.ldexp(Y.astype(np.float64), -exponent)
        predicted = np.repeat(np.ldexp(base[None].astype(np.float64), -exponent), len(Y), axis=0)
        residual = np.zeros((len(Y), width or Y.shape[1]), np.float32)
        residual[:, : Y.shape[1]] = targets - predicted
        return cls(codes, targets, predicted, residual)


def boosted(
    X: Floats,
    Y: Floats,
    settings: Settings,
    watch: Watch,
    validation: tuple[Floats, Floats] | None,
    start: Callable[[Rows, Settings], Grower],
    weights: Weights | None = None,
) -> Trained:
    """Boost on `X` (n, p), NaN allowed, and `Y` (n, d), both float32, the trees grown by what `start` returns."""
    from rapids_pipeline.boosting.exact_kernels import go_down

    bins = QuantileBins.fit(X, settings.max_bins)
    base = weighted_mean(Y, weights)
    exponent = int(np.frexp(np.abs(Y.astype(np.float64) - base).max())[1])
    weights, settings, weight_exponent = in_units_of_the_largest(weights, settings)
    rows = replace(Rows.start(bins.codes(X), Y, base, exponent, padded(Y.shape[1])), weights=weights)
    held_out = validation and Rows.start(bins.codes(validation[0]), validation[1], base, exponent)
    grower = start(rows, settings)
    rng = np.random.default_rng(settings.seed)
    grown: list[Tree] = []
    for _ in range(settings.n_estimators):
        tree, nodes = grower.grow(rng)
        go_down(rows.codes, tree, nodes, rows.targets, rows.predicted, rows.residual)
        score = None
        if held_out is not None:
            moved = held_out.targets, held_out.predicted, held_out.residual
            total = go_down(held_out.codes, tree, nodes, *moved)
            score = float(np.ldexp(np.sqrt(total / held_out.targets.size), exponent))
        grown.append(Tree.copied(tree, nodes, Y.shape[1], exponent, weight_exponent))
        if watch.stops_after(score):
            break
    return watch.trained(ensemble(grown, bins, base, X.shape[1]))


def least_gain(rows: Rows) -> float:
    """Return the gain a split must exceed, given the rows before the first tree."""
    squares = rows.residual.astype(np.float64) ** 2
    return LEAST_SHARE * float(np.sum(squares if rows.weights is None else rows.weights[:, None] * squares))


def sample(rng: np.random.Generator, count: int, share: float) -> NDArray[np.int32]:
    """Return round(share · count), at least one, of 0 … count − 1, rising; all of them draw nothing."""
    if share >= 1.0:
        return np.arange(count, dtype=np.int32)
    chosen = rng.choice(count, size=max(1, round(share * count)), replace=False)
    return np.sort(chosen).astype(np.int32)


def aligned(length: int) -> Floats:
    """Return zeros that start at a multiple of 64 bytes."""
    room = np.zeros(length + LANES, np.float32)
    skip = (-room.ctypes.data % 64) // 4
    return room[skip : skip + length]


def tree_space(rows: int, max_depth: int, width: int) -> Any:
    """Return the arrays of the largest possible tree on so many rows, its leaves `width` wide."""
    from rapids_pipeline.boosting.exact_kernels import GrownTree

    nodes = min(2 ** min(max_depth, 30) - 1, max(rows - 1, 1))
    return GrownTree(
        np.zeros(nodes, np.int32),
        np.zeros(nodes, np.int32),
        np.zeros((nodes, 2), np.int32),
        np.zeros(nodes, np.float32),
        np.zeros((nodes + 1, width), np.float32),
    )


@dataclass(frozen=True)
class Tree:
    """One grown tree; `cut` is the last code that goes left."""

    feature: NDArray[np.int32]
    cut: NDArray[np.int32]
    children: NDArray[np.int32]
    gain: Floats
    leaves: Floats

    @classmethod
    def copied(cls, tree: Any, nodes: int, outputs: int, exponent: int, weight_exponent: int) -> "Tree":
        """Copy a tree out of the space it was grown in, and its numbers back to the units of targets and weights."""
        return cls(
            tree.feature[:nodes].copy(),
            tree.cut[:nodes].copy(),
            tree.children[:nodes].copy(),
            rescaled(tree.gain[:nodes], 2 * exponent + weight_exponent),
            np.ldexp(tree.leaves[: nodes + 1, :outputs], exponent),
        )


def ensemble(grown: list[Tree], bins: QuantileBins, base: Floats, n_features: int) -> TreeEnsemble:
    """Return the trees as one ensemble, cuts as thresholds."""
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
