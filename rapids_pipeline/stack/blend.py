"""The blend of a stack's members, and the choices that out-of-fold evidence makes.

A blend is a·Σ_m w_m P_m of the members' predictions, weights w_m ≥ 0 with Σ w_m = 1, amplitude 0 ≤ a ≤ 1. With
v = (a·w, −1) it minimises the MRRMSE over rows i that no member saw,

    mean_i sqrt( vᵀ G_i v / t ),   G_i = [P_1,i … P_M,i y_i]ᵀ [P_1,i … P_M,i y_i],

which is convex: a mean of norms of functions affine in v. Where y_i is NaN (not tested), the products and t are of the
row's tested entries.

For the test rows the mean is over all training rows, predicted out-of-fold. For the out-of-fold blend of fold k it
is over the rows of the next fold alone, by models that never saw fold k: the usual out-of-fold predictions of the
other rows come from models that were trained on fold k, and choices fitted to them would carry its targets over.

A member that knows pairs by their names alone (`Member.by_names`) knows nothing of a pair whose cell type or compound
is new. There its weight goes to the other members, in proportion to theirs; where there are no others, it stays.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from scipy.optimize import minimize

from rapids_pipeline.backend.arrays import Float32, Float64, Indices, Mask, RowSource, row_blocks
from rapids_pipeline.backend.state import State, StateReader
from rapids_pipeline.stack.nested import neighbours

K = TypeVar("K")
GENES_AT_ONCE = 2048


@dataclass(frozen=True)
class Weights:
    """Non-negative weights by member, summing to one, and the amplitude their sum of predictions is scaled by."""

    weights: Mapping[str, float]
    amplitude: float = 1.0

    def mix(
        self, predictions: Mapping[str, Float32], new: Mask | None = None, by_names: Collection[str] = ()
    ) -> Float32:
        """Return the blend of the members' predictions, float32.

        The members `by_names` count nothing where `new`, (m,), is true.
        """
        mixed = self._sum(predictions, self.weights)
        others = {name: w for name, w in self.weights.items() if name not in by_names}
        total = sum(others.values())
        if new is None or not new.any() or not total or len(others) == len(self.weights):
            return mixed
        shares = {name: w / total for name, w in others.items()}
        mixed[new] = self._sum({name: predictions[name][new] for name in others}, shares)
        return mixed

    def _sum(self, predictions: Mapping[str, Float32], weights: Mapping[str, float]) -> Float32:
        parts = (np.float32(self.amplitude * w) * predictions[name] for name, w in weights.items())
        return np.asarray(sum(parts), dtype=np.float32)

    def state(self) -> State:
        """Return the numbers."""
        return {
            "members": list(self.weights),
            "weights": list(self.weights.values()),
            "amplitude": self.amplitude,
        }


@dataclass(frozen=True, eq=False)
class Products:
    """G_i of every row, (n, M + 1, M + 1) float64, divided by the number of its tested targets.

    The last index is the target's.
    """

    names: Sequence[str]
    values: Float64

    @classmethod
    def of(cls, predictions: Mapping[str, Float32 | RowSource], Y: Float32) -> "Products":
        """Make them from members' predictions (n, t) and the targets (n, t), at least one a row not NaN."""
        blocks = [
            _products([*(x[rows] for x in predictions.values()), Y[rows]]) for rows in row_blocks(len(Y))
        ]
        return cls(list(predictions), np.concatenate(blocks))

    def take(self, rows: Indices, names: Sequence[str] | None = None) -> "Products":
        """Return those of some rows, and of some members."""
        wanted = list(names or self.names)
        places = np.array([*(self.names.index(name) for name in wanted), len(self.names)])
        return Products(wanted, self.values[np.ix_(rows, places, places)])

    def rowwise_rmse(self, weights: Weights) -> Float64:
        """Return every row's root mean square error under a blend of (some of) the members, (n,)."""
        v = np.array([*(weights.amplitude * weights.weights.get(name, 0.0) for name in self.names), -1.0])
        return np.asarray(np.sqrt(np.einsum("a,iab,b->i", v, self.values, v).clip(min=0)))


def _products(columns: Sequence[Float32]) -> Float64:
    """Return the values of `Products` of some rows' predictions and, the last, targets, (n, t) each."""
    tested = np.isfinite(columns[-1])
    values = np.zeros((len(tested), len(columns), len(columns)))
    for start in range(0, tested.shape[1], GENES_AT_ONCE):
        genes = slice(start, start + GENES_AT_ONCE)
        block = np.stack([x[:, genes] for x in columns], axis=1).astype(np.float64)
        here = tested[:, None, genes]
        if not here.all():
            block = np.where(here, block, 0.0)
        values += block @ block.transpose(0, 2, 1)
    return np.asarray(values / tested.sum(axis=1)[:, None, None])


def best_weights(products: Products, *, shrink: bool) -> Weights:
    """Return the weights that minimise the MRRMSE; the amplitude is 1 unless `shrink` lets it be less.

    Solved by SLSQP from equal weights.
    """
    m = len(products.names)
    G = products.values

    def mrrmse(w: Float64) -> float:
        v = np.append(w, -1.0)
        return float(np.mean(np.sqrt(np.einsum("a,iab,b->i", v, G, v).clip(min=0))))

    whole = {"type": "ineq" if shrink else "eq", "fun": lambda w: 1 - np.sum(w)}
    found = minimize(
        mrrmse,
        np.full(m, 1 / m),
        method="SLSQP",
        bounds=[(0, 1)] * m,
        constraints=whole,
        options={"ftol": 1e-12},
    )
    w = np.clip(found.x, 0, 1)
    total = float(w.sum())
    if total == 0:
        return Weights(dict.fromkeys(products.names, 1 / m), 0.0)
    shares = {name: float(share) for name, share in zip(products.names, w / total, strict=True)}
    return Weights(shares, min(total, 1.0) if shrink else 1.0)


@dataclass(frozen=True, eq=False)
class Evidence:
    """What choices are made from: products of out-of-fold predictions, and of those that judge the fold before.

    Attributes
    ----------
    oof, judged : Products
        Of all members and rows; see `rapids_pipeline.stack.nested.FittedMember`.
    folds : ndarray of int, (n,)
    shrink : bool
    fixed : mapping of member to float
        What members count where that is no question of evidence; none that it lacks. Empty where weights are learnt.
    amplitude : float
        That of the fixed weights.
    """

    oof: Products
    judged: Products
    folds: Indices
    shrink: bool
    fixed: Mapping[str, float] = field(default_factory=dict)
    amplitude: float = 1.0

    def weights(self, names: Sequence[str]) -> Weights:
        """Return the weights of the test rows, from all training rows."""
        return self._best(self.oof.take(np.arange(len(self.folds)), names))

    def weights_for(self, fold: int, names: Sequence[str]) -> Weights:
        """Return the weights of the rows of a fold, from the rows of the next."""
        return self._best(self.judged.take(self._next(fold), names))

    def chosen(self, candidates: Mapping[K, Sequence[str]]) -> K:
        """Return which of several lists of members has the best nested score."""
        return min(candidates, key=lambda name: self.score(candidates[name]))

    def chosen_for(self, fold: int, candidates: Mapping[K, Sequence[str]]) -> K:
        """Return which list of members is best for a fold, judged by the rows of the next."""
        judges = self._next(fold)

        def score(name: K) -> float:
            products = self.judged.take(judges, candidates[name])
            return float(products.rowwise_rmse(self._best(products)).mean())

        return min(candidates, key=score)

    def score(self, names: Sequence[str]) -> float:
        """Return the MRRMSE of the out-of-fold blend of some members, each fold with weights that never saw it."""
        errors = np.empty(len(self.folds))
        for _, fold in neighbours(self.folds):
            rows = np.flatnonzero(self.folds == fold)
            errors[rows] = self.oof.take(rows).rowwise_rmse(self.weights_for(fold, names))
        return float(errors.mean())

    def _best(self, products: Products) -> Weights:
        """Return the weights that evidence asks for, or the fixed ones; alike where a fixed sum would be 0."""
        if not self.fixed:
            return best_weights(products, shrink=self.shrink)
        counts = {name: self.fixed.get(name, 0.0) for name in products.names}
        total = sum(counts.values())
        shares = {name: w / total if total else 1 / len(counts) for name, w in counts.items()}
        return Weights(shares, self.amplitude)

    def _next(self, fold: int) -> Indices:
        after = next(k for k, before in neighbours(self.folds) if before == fold)
        return np.flatnonzero(self.folds == after)


def weights_from_state(reader: StateReader) -> Weights:
    """Make weights of their state; InputError where that is damaged."""
    names, weights = reader.levels("members"), reader.numbers("weights")
    if len(names) != len(weights) or not names or min(weights) < 0:
        raise reader.fault("weights must be one non-negative number a member")
    return Weights(dict(zip(names, weights, strict=True)), reader.number("amplitude"))
