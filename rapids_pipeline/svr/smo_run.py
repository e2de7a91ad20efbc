"""One call of SMO: many targets, streamed in chunks over threads, each with its own work arrays."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np

from rapids_pipeline.backend.devices import processor_count
from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.backend.progress import Progress
from rapids_pipeline.svr import smo_shared
from rapids_pipeline.svr.smo_problem import (
    FactoredKernel,
    Floats,
    Indices,
    SmoOptions,
    SmoResult,
    box_of,
    empty_result,
    tube_of,
)
from rapids_pipeline.svr.smo_shared import SharedGram

CHUNK = 64
SHARED_CHUNK = 256


@dataclass(frozen=True)
class Run:
    """One call: many targets, streamed in chunks over threads, each with its own work arrays."""

    kernels: Any
    Y: Floats
    order: Indices
    options: SmoOptions
    tests: Indices
    kernel: FactoredKernel | None
    initial: Floats | None
    gram: SharedGram | None = None

    def solve(self, make_work: Callable[[], tuple[Any, Any]], progress: Progress | None) -> SmoResult:
        """Solve all targets on their own kernels, or on the Gram matrix that they share."""
        n, targets = self.Y.shape
        if n == 0 or not np.isfinite(self.Y).all():
            raise InputError("Y has no rows" if n == 0 else "Y has values that are not finite")
        if self.initial is not None and self.initial.shape != (targets, n):
            raise InputError(f"initial must be {(targets, n)}, (targets, rows), not {self.initial.shape}")
        result = empty_result(targets, n, self.tests.shape[1], self.options.dtype)
        box = box_of(self.options, n, targets)[:, self.order]
        epsilon = tube_of(self.options, targets)
        progress = progress or Progress()
        chunk = CHUNK if self.gram is None else SHARED_CHUNK
        progress.start(ceil(targets / chunk))

        def part(start: int) -> None:
            which = slice(start, min(start + chunk, targets))
            if self.gram is None:
                self._solve_part(which, box, epsilon, make_work(), result)
            else:
                self._solve_shared_part(self.gram, which, box, epsilon, make_work, result)

        for _ in _in_threads(part, range(0, targets, chunk), self.options.n_threads):
            progress.advance()
        np.less_equal(result.gap, self.options.tol, out=result.converged)
        return result

    def _solve_part(
        self, part: slice, box: Floats, epsilon: Floats, work: tuple[Any, Any], result: SmoResult
    ) -> None:
        count, n = part.stop - part.start, self.order.size
        outcome = self.kernels.Outcome(
            np.zeros((count, n)),
            result.intercept[part],
            result.n_iter[part],
            result.gap[part],
            np.zeros((count, self.tests.shape[1])),
        )
        if self.initial is not None:
            outcome.dual_coef[:] = self.initial[part][:, self.order]
        none = np.zeros((count, 0, 0))
        one = none if self.kernel is None else np.asarray(self.kernel.first.statistics[part], np.float64)
        two = none if self.kernel is None else np.asarray(self.kernel.second.statistics[part], np.float64)
        gamma = np.ones(count) if self.kernel is None else np.asarray(self.kernel.gamma[part], np.float64)
        self.kernels.solve_chunk(
            np.array(self.Y[self.order, part].T, np.float64, order="C"),
            np.array(box[part] if box.shape[0] > 1 else box, order="C"),
            epsilon[part],
            gamma,
            np.ascontiguousarray(one),
            np.ascontiguousarray(two),
            self.tests,
            self.kernel is not None,
            self.options.tol,
            self.options.max_iter,
            *work,
            outcome,
        )
        result.dual_coef[part, self.order] = outcome.dual_coef
        result.predicted[part] = outcome.predicted

    def _solve_shared_part(
        self,
        gram: SharedGram,
        part: slice,
        box: Floats,
        epsilon: Floats,
        make_work: Callable[[], tuple[Any, Any]],
        result: SmoResult,
    ) -> None:
        """Solve a chunk of targets on the Gram matrix: together, and one by one those not done then."""
        count, n = part.stop - part.start, self.order.size
        Y = self.Y[:, part]
        box = box[part] if box.shape[0] > 1 else box
        box = np.ascontiguousarray(np.broadcast_to(box, (box.shape[0], n)))
        started = self.initial is not None
        beta = result.dual_coef[part]
        if beta.dtype != np.float64:
            beta = np.empty((count, n))
        beta[:] = 0.0 if self.initial is None else self.initial[part]
        outcome = self.kernels.Outcome(
            beta, result.intercept[part], result.n_iter[part], result.gap[part], result.predicted[part]
        )
        limits = (self.options.tol, self.options.max_iter)
        left = smo_shared.solve_part(gram, Y, box, epsilon[part], limits, outcome, started)
        if len(left):
            work = make_work()
        for t in left:
            only, before = slice(t, t + 1), outcome.n_iter[t]
            none = np.zeros((1, 0, 0))
            rest = self.kernels.Outcome(*(values[only] for values in outcome))
            self.kernels.solve_chunk(
                np.array(Y[:, only].T, np.float64, order="C"),
                np.ascontiguousarray(box[only] if box.shape[0] > 1 else box),
                epsilon[part][only],
                np.ones(1),
                none,
                none,
                self.tests,
                False,
                self.options.tol,
                self.options.max_iter - before,
                *work,
                rest,
            )
            outcome.n_iter[t] += before
        if beta.dtype != result.dual_coef.dtype:
            result.dual_coef[part] = beta


def _in_threads(part: Callable[[int], None], starts: range, n_threads: int | None) -> Iterator[None]:
    """Run `part` for every start, in threads (the kernels hold no GIL); yield as each one ends."""
    threads = min(n_threads or processor_count(), len(starts))
    if threads <= 1:
        for start in starts:
            part(start)
            yield
        return
    with ThreadPoolExecutor(threads) as pool:
        futures = [pool.submit(part, start) for start in starts]
        try:
            for future in as_completed(futures):
                yield future.result()
        finally:
            pool.shutdown(cancel_futures=True)
