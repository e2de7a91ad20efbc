"""Chunks of targets for `own_target`: their statistics, γ, solutions and predictions."""

from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rapids_pipeline.backend.errors import InputError, UnavailableError
from rapids_pipeline.svr.gram import Gamma, squared_distances
from rapids_pipeline.svr.own_target_levels import Levels, Matrix, Side
from rapids_pipeline.svr.smo import (
    DEFAULT_MAX_ITER,
    NUMBA_REMEDY,
    FactoredKernel,
    Grouping,
    SmoOptions,
    scale_gamma,
    solve_factored,
)
from rapids_pipeline.svr.smo_arrays import BLOCKED, PADDING, aligned, padded

Floats = NDArray[np.float64]

SINGLE_TOL = 1e-4
"""Least tol / max(C, 1) at which kernels are evaluated in float32; below, `solve_factored` makes float64 tables."""
LEVELS_AT_ONCE = 16
"""Levels turned at once from (level, …, target) to (target, …, level): so many that both stay in the cache."""


@dataclass(frozen=True)
class Settings:
    """How every target's SVR is fitted; `rapids_pipeline.stack.recipe.SvrConfig` has the same names."""

    C: float = 1.0
    epsilon: float = 0.1
    gamma: Gamma = "scale"
    tol: float = 1e-3
    max_iter: int | None = None

    def __post_init__(self) -> None:
        if not (0 < self.C < np.inf and 0 <= self.epsilon < np.inf and 0 < self.tol < np.inf):
            raise InputError(
                f"C and tol must be positive and epsilon not negative, not {self.C}, {self.tol}, {self.epsilon}"
            )
        if self.gamma != "scale" and not (isinstance(self.gamma, int | float) and 0 < self.gamma < np.inf):
            raise InputError(f'gamma must be "scale" or a positive number, not {self.gamma!r}')
        if self.max_iter is not None and self.max_iter < 1:
            raise InputError(f"max_iter must be at least 1, not {self.max_iter}")

    @property
    def single(self) -> bool:
        """Whether kernels are evaluated in float32, which is far more exact than tol."""
        return self.tol >= SINGLE_TOL * max(self.C, 1.0)

    @property
    def limit(self) -> int:
        """Iterations of one target at most."""
        return DEFAULT_MAX_ITER if self.max_iter is None else self.max_iter


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

    trained: Matrix
    everyone: Matrix

    @classmethod
    def of(cls, tables: list[Matrix], n_trained: int, n_targets: int) -> "Statistics":
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


def _turn(table: Matrix, out: Matrix) -> None:
    """out (t, n_statistics, n_levels) ← table (n_levels, n_statistics, t)."""
    for level in range(0, len(table), LEVELS_AT_ONCE):
        some = slice(level, level + LEVELS_AT_ONCE)
        out[:, :, some] = table[some].transpose(2, 1, 0)


@dataclass(frozen=True)
class Solutions:
    """A chunk's solutions.

    Attributes
    ----------
    dual_coef : ndarray of float32, (t, n)
    intercept, gamma : ndarray of float32, (t,)
    gap : ndarray of float64, (t,)
        U − L; empty where it does not matter.
    """

    dual_coef: Matrix
    intercept: Matrix
    gamma: Matrix
    gap: Floats


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
        self._kernels, self._prediction = compiled_kernels()
        self._rows = self._shared_rows()

    def statistics(self, Y: Matrix) -> list[Statistics]:
        """Return the statistics of targets Y, (n, t) float32, on both sides."""
        return [
            Statistics.of([block.tables(Y) for block in blocks], len(examples), Y.shape[1])
            for blocks, examples in zip(self._blocks, self._examples, strict=True)
        ]

    def gammas(self, statistics: list[Statistics], gamma: Gamma) -> Matrix:
        """Return γ of every target of a chunk as (t,) float32, which is what solving and predicting use."""
        if gamma != "scale":
            return np.full(len(statistics[0].trained), gamma, np.float32)
        of_levels = [part.trained.transpose(0, 2, 1) for part in statistics]
        return scale_gamma(
            self.of_row,
            *of_levels,
            n_shared=self._n_shared,
            shared_sum=self._sums[0],
            shared_sum_of_squares=self._sums[1],
        ).astype(np.float32)

    def solve(self, Y: Matrix, statistics: list[Statistics], settings: Settings) -> Solutions:
        """Solve every target of a chunk, Y (n, t): on rows of K in float32, on float64 tables what is left."""
        n, count = Y.shape
        gamma = self.gammas(statistics, settings.gamma)
        beta, intercept, gap = np.zeros((count, n)), np.zeros(count), np.full(count, np.inf)
        n_iter = np.zeros(count, np.int64)
        left = np.arange(count)
        if settings.single:
            self._kernels.solve_chunk(
                np.array(Y.T, np.float64, order="C"),
                float(settings.C),
                float(settings.epsilon),
                gamma.astype(np.float64),
                *(part.trained for part in statistics),
                self._rows,
                float(settings.tol),
                settings.limit,
                self._memory(),
                self._kernels.Solved(beta, intercept, n_iter, gap),
            )
            left = np.flatnonzero((gap > settings.tol) & (n_iter < settings.limit))
        if len(left):
            exact = self._solve_exactly(Y, statistics, gamma, left, settings, beta[left])
            beta[left], intercept[left], gap[left] = exact.dual_coef, exact.intercept, exact.gap
        return Solutions(beta.astype(np.float32), intercept.astype(np.float32), gamma, gap)

    def _solve_exactly(
        self,
        Y: Matrix,
        statistics: list[Statistics],
        gamma: Matrix,
        targets: NDArray[np.intp],
        settings: Settings,
        initial: Floats,
    ) -> Any:
        first, second = (
            Grouping(squared[np.ix_(shared, shared)], part.trained[targets].transpose(0, 2, 1))
            for squared, shared, part in zip(self._squared, self._shared, statistics, strict=True)
        )
        kernel = FactoredKernel(first, second, gamma[targets].astype(np.float64))
        options = SmoOptions(
            C=settings.C, epsilon=settings.epsilon, tol=settings.tol, max_iter=settings.limit, n_threads=1
        )
        return solve_factored(kernel, self.of_row, Y[:, targets], options, initial=initial)

    def _shared_rows(self) -> Any:
        """Return D between the rows, and the squared distances of the second side's levels, in float32."""
        n = self.of_row.shape[1]
        first, shared = self.sides[0].features_of_row, self._shared[1]
        distances = aligned((len(self._squared[0]), padded(n, PADDING)), np.float32)
        distances[:, :n] = self._squared[0][:, first]
        squared = aligned((len(shared), padded(len(shared), PADDING)), np.float32)
        squared[:, : len(shared)] = self._squared[1][np.ix_(shared, shared)]
        one, two = self.of_row.astype(np.uint32)
        return self._kernels.Rows(distances, first.astype(np.uint32), one, two, squared)

    def _memory(self) -> Any:
        """Return the work arrays of one thread."""
        n, length = self._rows.level_1.size, self._rows.distances.shape[1]
        levels, width = self._rows.squared_2.shape
        one, two = (self.width(side) for side in self.sides)
        return self._kernels.Memory(
            f=aligned((length,), np.float32),
            up=aligned((length,), np.float32, BLOCKED),
            down=aligned((length,), np.float32, -BLOCKED),
            half_diagonal=aligned((length,), np.float32, 0.5),
            K=aligned((n, length), np.float32),
            place=np.zeros(n, np.int64),
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
        return padded(max(side.recipe.n_statistics, 1), self._kernels.UNROLLED)

    def factor(self, number: int, levels: Levels, single: bool) -> Any:
        """Return the work arrays of one factor of the kernels between training rows and others."""
        side, shared = self.sides[number], self._shared[number]
        n_others, n_statistics = len(levels.labels), self.width(side)
        dtype, columns = np.float32 if single else np.float64, padded(n_others, PADDING)
        squared = aligned((len(side.features), columns), dtype)
        squared[:, :n_others] = squared_distances(
            side.features.astype(np.float64), levels.features.astype(np.float64)
        )
        return self._prediction.Factor(
            trained=aligned((len(shared), n_statistics), dtype),
            other=aligned((n_statistics, columns), dtype),
            shared=shared.astype(np.uint32),
            squared=squared,
            table=aligned((len(shared), columns), dtype),
            made=np.zeros(len(shared), bool),
        )

    def predict(
        self, others: tuple[Levels, Levels], statistics: list[Statistics], solutions: Solutions, single: bool
    ) -> Matrix:
        """Return the predictions (m, t) float32 of a chunk for other rows: K β + b, summed in float64."""
        order = np.lexsort(self.of_row)
        support = self._prediction.Support(
            np.ascontiguousarray(self.of_row[:, order], np.uint32),
            np.stack([levels.of_row for levels in others]).astype(np.uint32),
        )
        predicted = np.empty((len(solutions.intercept), support.others.shape[1]))
        self._prediction.predict_chunk(
            support,
            *(self.factor(number, levels, single) for number, levels in enumerate(others)),
            solutions.dual_coef[:, order].astype(np.float64),
            solutions.gamma.astype(np.float64),
            *(part.trained for part in statistics),
            *(
                np.ascontiguousarray(part.everyone[:, :, levels.labels])
                for part, levels in zip(statistics, others, strict=True)
            ),
            predicted,
        )
        predicted += solutions.intercept[:, None].astype(np.float64)
        return np.ascontiguousarray(predicted.T, np.float32)


def compiled_kernels() -> tuple[Any, Any]:
    """Return the modules of compiled loops; UnavailableError where numba is not installed."""
    try:
        solving, predicting = (
            import_module(f"rapids_pipeline.svr.own_target_{part}") for part in ("kernels", "prediction")
        )
    except ImportError as error:
        raise UnavailableError(f"{NUMBA_REMEDY} ({error})") from error
    return solving, predicting
