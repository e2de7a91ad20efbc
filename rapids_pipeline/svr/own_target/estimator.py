r"""SVRs of all genes, each on features of its own: shared columns, and statistics of that gene alone, leak-free.

The kernel of target t between rows x and x', with u and v the shared columns of compound and cell type, and S_t and
S_t' the statistics of target t by either:

    K_t(x, x') = exp(−γ_t(‖u − u'‖² + ‖S_t(x) − S_t(x')‖²)) · exp(−γ_t(‖v − v'‖² + ‖S_t'(x) − S_t'(x')‖²))

A training row's statistics are those of the training rows outside its inner fold, so its own target is in none of
them; any other row has the statistics of all training rows. It is the SVR (RBF; gamma="scale" is scikit-learn's) on
the columns that `features.feature_sets.FeatureTable` makes for one target, for all targets at once and without those
columns. Sources: the per-gene SVR ("v1") of the competition's fourth place; cross-fitting as in
`features.target_encoders`.

A chunk of targets is solved on rows of their kernels in float32 (`rapids_pipeline.svr.own_target.kernels`). What that
leaves above tol, and everything where tol asks for more than float32, is solved on the target's Gram matrix in float64.
A fitted model holds the training targets and the inner folds, and makes the statistics again, to the last bit, when it
predicts: a quarter of the size of the statistics themselves.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from features.feature_sets import FeatureSet
from features.rows import Rows
from rapids_pipeline.backend.arrays import Float32, Float64, Mask, aligned, checked_weights
from rapids_pipeline.backend.devices import processor_count
from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.backend.progress import Progress
from rapids_pipeline.backend.state import State, StateReader
from rapids_pipeline.svr.dual import Gamma, require_gamma, squared_distances
from rapids_pipeline.svr.engines import ENGINES, checked_box, iteration_limit, warn_of_missed
from rapids_pipeline.svr.own_target import kernels
from rapids_pipeline.svr.own_target.statistics import Side, SideLevels, sides_of
from rapids_pipeline.svr.smo import pairs
from rapids_pipeline.svr.smo.kernels import padded
from rapids_pipeline.svr.smo.solver import in_chunks

TARGETS_AT_ONCE = 512
"""Targets of one thread's chunk; its statistics take about 25 MB at 614 rows."""
ROWS_AT_ONCE = 4096
"""Other rows predicted at once."""
LEVELS_AT_ONCE = 16
"""Levels turned at once from (level, …, target) to (target, …, level): so many that both stay in the cache."""
SINGLE_TOL = 1e-4
"""Least tol / max(C_i, 1) at which kernels are evaluated in float32; below, all is float64."""


@dataclass(frozen=True, eq=False)
class OwnTargetSVR:
    """Fitted SVRs of all targets.

    Attributes
    ----------
    first, second : Side
        What hangs on the compound, and on the cell type, with the training rows' labels and inner folds.
    targets : ndarray of float32, (n, t)
        Training targets, which the statistics are made of.
    dual_coef : ndarray of float32, (n, t)
        β; each column sums to zero within rounding.
    intercept, gamma : ndarray of float32, (t,)
    single : bool
        Whether kernels are evaluated in float32, which is far more exact than the tolerance of the fit.
    """

    first: Side
    second: Side
    targets: Float32
    dual_coef: Float32
    intercept: Float32
    gamma: Float32
    single: bool

    @classmethod
    def fit(cls, features: FeatureSet, rows: Rows, Y: Float32, **how: Any) -> "OwnTargetSVR":
        """Fit every target's SVR; arguments and errors are those of `fit_predict`."""
        return _fitted(features, rows, Y, None, **how)[0]

    def predict(self, rows: Rows) -> Float32:
        """Return the predictions of rows, (m, t) float32; a row's depend on the other rows by rounding alone."""
        trained = TrainedRows(self.first, self.second)
        parts, predicted = trained.parts(rows), np.empty((len(rows.obs), len(self.gamma)), np.float32)

        def predict(targets: slice) -> None:
            self._predict(trained, parts, targets, trained.statistics(self.targets[:, targets]), predicted)

        if parts:
            in_chunks(predict, len(self.gamma), _width(len(self.gamma)))
        return predicted

    def _predict(
        self, trained: "TrainedRows", parts: Any, targets: slice, statistics: Any, predicted: Float32
    ) -> None:
        """Write the predictions of a chunk of targets, K β + b summed in float64, one part of the rows at a time."""
        beta = np.array(self.dual_coef[:, targets].T, np.float64, order="C")
        gamma, intercept = (x[targets].astype(np.float64) for x in (self.gamma, self.intercept))
        for which, levels in parts:
            found = trained.weighted(levels, statistics, beta, gamma, self.single)
            predicted[which, targets] = (found + intercept[:, None]).T

    def state(self) -> State:
        """Return what was learnt, as plain data; the feature set is saved apart."""
        names = ("targets", "dual_coef", "intercept", "gamma", "single")
        sides = {"first": self.first.state(), "second": self.second.state()}
        return {name: getattr(self, name) for name in names} | sides

    @classmethod
    def from_state(cls, features: FeatureSet, reader: StateReader) -> "OwnTargetSVR":
        """Make what `state` described: it predicts as the original, to the last bit; InputError where it cannot."""
        targets = reader.array("targets", np.float32, (None, None))
        n, t = targets.shape
        if n < 2 or not t:
            raise reader.fault(f"targets are {targets.shape}")
        gamma = reader.array("gamma", np.float32, (t,))
        if not (gamma > 0).all():
            raise reader.fault("gamma is not positive")
        first, second = (
            Side.from_state(side, reader.part(name), n)
            for side, name in zip(sides_of(features), ("first", "second"), strict=True)
        )
        dual_coef = reader.array("dual_coef", np.float32, (n, t))
        intercept = reader.array("intercept", np.float32, (t,))
        return cls(first, second, targets, dual_coef, intercept, gamma, reader.flag("single"))


def fit_predict(features: FeatureSet, rows: Rows, Y: Float32, others: Rows, **how: Any) -> Float32:
    """Return `OwnTargetSVR.fit(...).predict(others)`, to the last bit, with every target's statistics made once.

    Parameters
    ----------
    features : FeatureSet
        Every column hangs on the compound or on the cell type (`rapids_pipeline.svr.own_target.statistics.sides_of`).
    rows, others : Rows
        n training rows, and m that are predicted.
    Y : ndarray of float32, (n, t)
    C, epsilon, gamma, tol, max_iter : optional
        As `rapids_pipeline.stack.members.svr.OwnTargetSvrMember`.
    seed : int, optional
        Seed of the inner folds: those of `FeatureTable(features, seed=seed)`.
    tested : ndarray of bool, (n, t), optional
        Where it is false, a target's row is left out of its fit (β = 0) and its value is read for the statistics only.
        All rows count for a target without a tested one, and by default.
    sample_weight : ndarray of float64, (n,), optional
        Multiplies C row by row; statistics count all rows alike.
    progress : Progress, optional
        Advances once a chunk of targets.

    Returns
    -------
    ndarray of float32, (m, t)

    Raises
    ------
    InputError
        A feature set, targets or settings that cannot be used.
    """
    return _fitted(features, rows, Y, others, **how)[1]


def _fitted(
    features: FeatureSet,
    rows: Rows,
    Y: Any,
    others: Rows | None,
    *,
    C: float = 1.0,
    epsilon: float = 0.1,
    gamma: Gamma = "scale",
    tol: float = 1e-3,
    max_iter: int | None = None,
    seed: int = 0,
    tested: Mask | None = None,
    sample_weight: Float64 | None = None,
    progress: Progress | None = None,
) -> tuple[OwnTargetSVR, Float32]:
    """Return the model, and its predictions of other rows."""
    C, epsilon = checked_box(C, epsilon, 0)
    require_gamma(gamma)
    limit = iteration_limit(tol, max_iter, ENGINES["smo"])
    sides = sides_of(features)
    Y = np.asarray(Y, np.float32)
    if Y.ndim != 2 or len(Y) != len(rows.obs) or not Y.shape[1]:
        raise InputError(f"Y must be ({len(rows.obs)}, t), one row for each training row, not {Y.shape}")
    if not np.isfinite(Y).all():
        row, target = np.argwhere(~np.isfinite(Y))[0]
        raise InputError(f"Y: row {row} (from 0), target {target} is no finite number")
    cap = C * checked_weights(np.ones(len(Y)) if sample_weight is None else sample_weight, len(Y))[None]
    if tested is not None:
        cap = np.ascontiguousarray(np.where((tested | ~tested.any(axis=0)).T, cap, 0.0))
    trained = TrainedRows(*(Side.fit(side, rows, seed) for side in sides))
    parts = [] if others is None else trained.parts(others)
    t, gap = Y.shape[1], np.empty(Y.shape[1])
    intercept, own_gamma = np.empty((2, t), np.float32)
    single = tol >= SINGLE_TOL * max(float(cap.max()), 1.0)
    model = OwnTargetSVR(*trained.sides, Y, np.empty(Y.shape, np.float32), intercept, own_gamma, single)
    predicted = np.empty((0 if others is None else len(others.obs), t), np.float32)

    def solve(targets: slice) -> None:
        own = np.ascontiguousarray(Y[:, targets])
        statistics = trained.statistics(own)
        model.gamma[targets] = trained.gammas(statistics, gamma)
        box = cap if len(cap) == 1 else cap[targets]
        beta, model.intercept[targets], gap[targets] = trained.solve(
            own, statistics, model.gamma[targets], box, epsilon, float(tol), limit, model.single
        )
        model.dual_coef[:, targets] = beta.T
        model._predict(trained, parts, targets, statistics, predicted)

    in_chunks(solve, t, _width(t), progress=progress)
    warn_of_missed(gap <= tol, gap, tol, limit, None)
    return model, predicted


def _width(n_targets: int) -> int:
    """Return how many targets to solve together, so that every processor has some."""
    return max(1, min(TARGETS_AT_ONCE, -(-n_targets // processor_count())))


@dataclass(frozen=True)
class Statistics:
    """A chunk's statistics on one side, float32.

    Attributes
    ----------
    trained : (t, n_statistics, n_levels)
        Of the training rows' levels, cross-fitted.
    everyone : (t, n_statistics, n_labels + 1)
        Of all training rows, by label; what other rows get.
    """

    trained: Float32
    everyone: Float32

    @classmethod
    def of(cls, tables: list[Float32], n_trained: int, n_targets: int) -> "Statistics":
        """Split the blocks' tables, (n_levels, n_statistics, t) each, of training levels and then of labels."""
        n_others = len(tables[0]) - n_trained if tables else 1
        width = sum(table.shape[1] for table in tables)
        trained = np.empty((n_targets, width, n_trained), np.float32)
        everyone = np.empty((n_targets, width, n_others), np.float32)
        start = 0
        for table in tables:
            own = slice(start, start + table.shape[1])
            _turn(table[:n_trained], trained[:, own])
            _turn(table[n_trained:], everyone[:, own])
            start = own.stop
        return cls(trained, everyone)


def _turn(table: Float32, out: Float32) -> None:
    """out (t, n_statistics, n_levels) ← table (n_levels, n_statistics, t)."""
    for level in range(0, len(table), LEVELS_AT_ONCE):
        some = slice(level, level + LEVELS_AT_ONCE)
        out[:, :, some] = table[some].transpose(2, 1, 0)


class TrainedRows:
    """Training rows on both sides, and whatever of their kernels does not depend on the target."""

    def __init__(self, first: Side, second: Side) -> None:
        self.sides = (first, second)
        found = [side.training() for side in self.sides]
        self.of_row = np.stack([of_row for of_row, _ in found])
        self._examples = [example for _, example in found]
        self._blocks = [
            side.statistics(example) for side, example in zip(self.sides, self._examples, strict=True)
        ]
        self._shared = [
            side.features_of_row[example] for side, example in zip(self.sides, self._examples, strict=True)
        ]
        self._squared = [squared_distances(*[side.features.astype(np.float64)] * 2) for side in self.sides]
        for squared in self._squared:
            np.fill_diagonal(squared, 0.0)
        rows = [side.features.astype(np.float64)[side.features_of_row] for side in self.sides]
        self._n_shared = sum(values.shape[1] for values in rows)
        self._sums = [sum(float((values**power).sum()) for values in rows) for power in (1, 2)]
        self._rows = self._shared_rows()

    def statistics(self, Y: Float32) -> list[Statistics]:
        """Return the statistics of targets Y, (n, t) float32, on both sides."""
        return [
            Statistics.of([block.tables(Y) for block in blocks], len(examples), Y.shape[1])
            for blocks, examples in zip(self._blocks, self._examples, strict=True)
        ]

    def gammas(self, statistics: list[Statistics], gamma: Gamma) -> Float32:
        """Return γ of every target of a chunk as (t,) float32, which is what solving and predicting use.

        "auto" is 1 / p. "scale" is scikit-learn's 1 / (p·Var(X_t)), without X_t (n, p): its rows hold the shared
        features and the statistics of two levels, so its sums are those of the shared features plus the statistics
        weighted by how many rows a level has. Where X_t is constant, γ is 1.
        """
        width = self._n_shared + sum(part.trained.shape[1] for part in statistics)
        if gamma != "scale":
            return np.full(len(statistics[0].trained), 1 / width if gamma == "auto" else gamma, np.float32)
        total, squares = (np.float64(value) for value in self._sums)
        for groups, part in zip(self.of_row, statistics, strict=True):
            values = part.trained.transpose(0, 2, 1)
            count = np.bincount(groups, minlength=values.shape[1]).astype(np.float64)
            total = total + np.einsum("tgs,g->t", values, count, dtype=np.float64)
            squares = squares + np.einsum("tgs,tgs,g->t", values, values, count, dtype=np.float64)
        entries = self.of_row.shape[1] * width
        variance = squares / entries - (total / entries) ** 2
        positive = variance > 1e-14 * squares / entries
        return np.asarray(1.0 / np.where(positive, width * variance, 1.0)).astype(np.float32)

    def solve(
        self,
        Y: Float32,
        statistics: list[Statistics],
        gamma: Float32,
        box: Float64,
        epsilon: float,
        tol: float,
        limit: int,
        single: bool,
    ) -> tuple[Float64, Float64, Float64]:
        """Return β (t, n), b and U − L of a chunk of targets Y (n, t): on rows of K in float32, the rest in float64.

        |β| ≤ box, (t, n), or (1, n) where all have the same.
        """
        n, count = Y.shape
        beta, intercept, gap = np.zeros((count, n)), np.zeros(count), np.full(count, np.inf)
        n_iter = np.zeros(count, np.int64)
        left = np.arange(count)
        if single:
            kernels.solve_chunk(
                np.array(Y.T, np.float64, order="C"),
                box,
                epsilon,
                gamma.astype(np.float64),
                *(part.trained for part in statistics),
                self._rows,
                tol,
                limit,
                self._memory(),
                kernels.Solved(beta, intercept, n_iter, gap),
            )
            left = np.flatnonzero((gap > tol) & (n_iter < limit))
        for t in left.tolist():
            K = self._gram(statistics, t, float(gamma[t]))
            half = 0.5 * np.diagonal(K)
            works = [pairs.work_on(pairs.table_of(K, dtype), half) for dtype in (np.float32, np.float64)]
            y, cap = np.array(Y[:, t], np.float64), box[t if len(box) > 1 else 0]
            _, gap[t], intercept[t] = pairs.solve_alone(y, beta[t], cap, epsilon, tol, limit, *works)
        return beta, intercept, gap

    def _gram(self, statistics: list[Statistics], target: int, gamma: float) -> Float64:
        """Return K_t between the training rows, (n, n) float64."""
        exponent = np.zeros(2 * self.of_row.shape[1:])
        sides = zip(self.of_row, self._squared, self._shared, statistics, strict=True)
        for of_row, squared, shared, part in sides:
            distances = squared[np.ix_(shared, shared)]
            for values in part.trained[target].astype(np.float64):
                distances += (values[:, None] - values) ** 2
            exponent += distances[np.ix_(of_row, of_row)]
        return np.asarray(np.exp(-gamma * exponent))

    def _shared_rows(self) -> Any:
        """Return D between the rows, and the squared distances of the second side's levels, in float32."""
        n = self.of_row.shape[1]
        first, shared = self.sides[0].features_of_row, self._shared[1]
        distances = aligned((len(self._squared[0]), padded(n)), np.float32)
        distances[:, :n] = self._squared[0][:, first]
        squared = aligned((len(shared), padded(len(shared))), np.float32)
        squared[:, : len(shared)] = self._squared[1][np.ix_(shared, shared)]
        one, two = self.of_row.astype(np.uint32)
        return kernels.Rows(distances, first.astype(np.uint32), one, two, squared)

    def _memory(self) -> Any:
        """Return the work arrays of one thread."""
        n, length = self._rows.level_1.size, self._rows.distances.shape[1]
        levels, width = self._rows.squared_2.shape
        one, two = (self.width(side) for side in self.sides)
        return kernels.Memory(
            work=pairs.work_on(aligned((n, length), np.float32), np.full(n, 0.5)),
            count=np.zeros(1, np.int64),
            statistics_1=aligned((one, length), np.float32),
            statistics_2=aligned((two, width), np.float32),
            factor_2=aligned((levels, length), np.float32),
            made_2=np.zeros(levels, bool),
            line_2=aligned((width,), np.float32),
            own_1=aligned((one,), np.float32),
            own_2=aligned((two,), np.float32),
            exact_f=np.zeros(n),
            exact_up=np.zeros(n),
            exact_down=np.zeros(n),
            cap=np.zeros(n),
        )

    def width(self, side: Side) -> int:
        """Return the padded number of a side's statistics, at least one vector pass."""
        return padded(max(side.blocks.n_statistics, 1), kernels.UNROLLED)

    def parts(self, rows: Rows) -> list[tuple[slice, list[SideLevels]]]:
        """Return the levels of other rows, at most `ROWS_AT_ONCE` of them at a time."""
        levels = [side.others(rows) for side in self.sides] if len(rows.obs) else []
        parts = [slice(start, start + ROWS_AT_ONCE) for start in range(0, len(rows.obs), ROWS_AT_ONCE)]
        return [(part, [of_side.some(part) for of_side in levels]) for part in parts]

    def factor(self, number: int, levels: SideLevels, single: bool) -> Any:
        """Return the work arrays of one factor of the kernels between training rows and others."""
        side, shared = self.sides[number], self._shared[number]
        n_others, n_statistics = len(levels.labels), self.width(side)
        dtype, columns = np.float32 if single else np.float64, padded(n_others)
        squared = aligned((len(side.features), columns), dtype)
        squared[:, :n_others] = squared_distances(
            side.features.astype(np.float64), levels.features.astype(np.float64)
        )
        return kernels.Factor(
            trained=aligned((len(shared), n_statistics), dtype),
            other=aligned((n_statistics, columns), dtype),
            shared=shared.astype(np.uint32),
            squared=squared,
            table=aligned((len(shared), columns), dtype),
            made=np.zeros(len(shared), bool),
        )

    def weighted(
        self,
        others: list[SideLevels],
        statistics: list[Statistics],
        beta: Float64,
        gamma: Float64,
        single: bool,
    ) -> Float64:
        """Return K_t(others, training rows) β_t of a chunk of targets, (t, m) float64, for β (t, n)."""
        order = np.lexsort(self.of_row)
        support = kernels.Support(
            np.ascontiguousarray(self.of_row[:, order], np.uint32),
            np.stack([levels.of_row for levels in others]).astype(np.uint32),
        )
        found = np.empty((len(beta), support.others.shape[1]))
        kernels.predict_chunk(
            support,
            *(self.factor(number, levels, single) for number, levels in enumerate(others)),
            beta[:, order],
            gamma,
            *(part.trained for part in statistics),
            *(
                np.ascontiguousarray(part.everyone[:, :, levels.labels])
                for part, levels in zip(statistics, others, strict=True)
            ),
            found,
        )
        return found
