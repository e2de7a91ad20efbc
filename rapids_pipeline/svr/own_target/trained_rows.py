"""Training rows of SVRs on each target's own statistics: both sides, and what of their kernels all targets share.

    K_t(x, x') = exp(−γ_t (D(x, x') + ‖s_t(x) − s_t(x')‖²))

D holds the squared distances of the shared features of both sides, and s_t the statistics of target t on both.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from features.rows import Rows
from rapids_pipeline.backend.arrays import Float32, Float64, aligned
from rapids_pipeline.svr.dual import Gamma, squared_distances
from rapids_pipeline.svr.own_target import kernels
from rapids_pipeline.svr.own_target.statistics import Side, SideLevels
from rapids_pipeline.svr.smo import pairs
from rapids_pipeline.svr.smo.kernels import padded

ROWS_AT_ONCE = 4096
"""Other rows predicted at once."""
LEVELS_AT_ONCE = 16
"""Levels turned at once from (level, …, target) to (target, …, level): so many that both stay in the cache."""


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

    @classmethod
    def joined(cls, parts: Sequence["Statistics"]) -> "Statistics":
        """Return the statistics of consecutive chunks of targets as one."""
        return cls(*(np.concatenate([getattr(p, name) for p in parts]) for name in ("trained", "everyone")))


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

    def distances(self, others: list[SideLevels] | None = None) -> Float64:
        """Return D between other rows (m of them; by default the training rows) and training rows, (m, n)."""
        found = []
        for number, (side, squared, of_row) in enumerate(
            zip(self.sides, self._squared, self.of_row, strict=True)
        ):
            trained = self._shared[number][of_row]
            if others is None:
                found.append(squared[np.ix_(trained, trained)])
                continue
            levels = others[number]
            between = squared_distances(levels.features.astype(np.float64), side.features.astype(np.float64))
            found.append(between[np.ix_(levels.of_row, trained)])
        return np.asarray(found[0] + found[1])

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
        """Return β (t, n), b and U − L of a chunk of targets Y (n, t), in float32 where that is exact enough.

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
            work=pairs.pair_work(aligned((n, length), np.float32), np.full(n, 0.5)),
            count=np.zeros(1, np.int64),
            statistics_1=aligned((one, length), np.float32),
            statistics_2=aligned((two, width), np.float32),
            factor_2=aligned((levels, length), np.float32),
            made_2=np.zeros(levels, bool),
            line_2=aligned((width,), np.float32),
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
