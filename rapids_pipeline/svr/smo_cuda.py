"""The SMO solver on a GPU: one thread block per target, in numba-cuda, which its simulator runs as well.

The iterations, the formulas of the pair step and the checks are those of `smo_kernels`. A block keeps the lower
triangles of both factors of its target's kernel in shared memory as float32 (43 kB for 146 compounds and 6 cell
types; numba cannot ask for more than 48 kB, NVIDIA/numba-cuda issue 94) and makes entries of K from them; f is
float64. Where the float64 check asks for more, or where the triangles do not fit, it reads the float64 factors
from global memory.

Run without a GPU by setting NUMBA_ENABLE_CUDASIM=1 before numba is imported.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import config, cuda, float32, float64, int64

from rapids_pipeline.backend.errors import InputError, UnavailableError
from rapids_pipeline.backend.progress import Progress
from rapids_pipeline.svr.smo_problem import (
    FactoredKernel,
    Floats,
    Indices,
    SmoOptions,
    SmoResult,
    box_of,
    checked_levels,
    empty_result,
    tube_of,
)
from rapids_pipeline.svr.smo_steps import AIM, FLOAT32_ROUNDING, down_offset, pair_step, up_offset

THREADS = 128
SHARED_BYTES = 45 * 1024
"""What the triangles may take of a block's 48 kB; the reductions take 3 kB."""
CHUNK = 4096
BLOCKS_PER_MULTIPROCESSOR = 4


def _on_device(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function that kernels call."""
    return cuda.jit(device=True)(function)  # type: ignore[no-any-return]


_pair_step = _on_device(pair_step)
_up_offset = _on_device(up_offset)
_down_offset = _on_device(down_offset)


def solve_factored_cuda(
    kernel: FactoredKernel,
    rows: Indices,
    Y: Floats,
    options: SmoOptions | None = None,
    *,
    test_rows: Indices | None = None,
    progress: Progress | None = None,
    threads: int = THREADS,
    shared_bytes: int = SHARED_BYTES,
) -> SmoResult:
    """Solve every target's SVR on its own factored kernel, on the GPU; host arrays in, host arrays out.

    Parameters
    ----------
    kernel, rows, Y, options, test_rows, progress
        As in `rapids_pipeline.svr.smo.solve_factored`; `options.n_threads` has no meaning here.
    threads : int
        Threads of a block: a power of two up to 128.
    shared_bytes : int
        Shared memory the factors of one target may take.

    Raises
    ------
    UnavailableError
        No CUDA device can be used.
    """
    if not cuda.is_available():
        raise UnavailableError("no CUDA device can be used by numba; use the CPU solver (--device cpu)")
    if threads not in (1, 2, 4, 8, 16, 32, 64, 128):
        raise InputError(f"threads must be a power of two up to {THREADS}, not {threads}")
    options = options or SmoOptions()
    n, targets = Y.shape
    rows = checked_levels(kernel, rows, "rows")
    none = np.empty((2, 0), np.uint32)
    tests = none if test_rows is None else checked_levels(kernel, test_rows, "test_rows")
    if (rows.shape[1], kernel.gamma.size) != (n, targets) or not np.isfinite(Y).all():
        raise InputError(f"Y must be finite and {(rows.shape[1], kernel.gamma.size)}, (rows, targets)")
    result = empty_result(targets, n, tests.shape[1], options.dtype)
    box, epsilon = box_of(options, n, targets), tube_of(options, targets)
    launch = _Launch(kernel, rows, tests, options, threads, shared_bytes)
    progress = progress or Progress()
    progress.start(math.ceil(targets / CHUNK))
    for start in range(0, targets, CHUNK):
        part = slice(start, min(start + CHUNK, targets))
        launch.solve(part, Y[:, part], box[part] if box.shape[0] > 1 else box, epsilon[part], result)
        progress.advance()
    np.less_equal(result.gap, options.tol, out=result.converged)
    return result


class _Launch:
    """What all chunks share on the device, and the launch of one of them."""

    def __init__(
        self,
        kernel: FactoredKernel,
        rows: Indices,
        tests: Indices,
        options: SmoOptions,
        threads: int,
        shared_bytes: int,
    ) -> None:
        self.kernel, self.options, self.threads = kernel, options, threads
        self.n, self.n_tests = rows.shape[1], tests.shape[1]
        self.rows, self.tests = cuda.to_device(rows.astype(np.int64)), cuda.to_device(tests.astype(np.int64))
        self.levels = [side.squared_distances.shape[0] for side in (kernel.first, kernel.second)]
        squared = [np.array(side.squared_distances, np.float64) for side in (kernel.first, kernel.second)]
        for matrix in squared:
            np.fill_diagonal(matrix, 0.0)
        self.squared = [cuda.to_device(matrix) for matrix in squared]
        needed = 4 * sum(levels * (levels + 1) // 2 for levels in self.levels)
        self.shared = needed if needed <= shared_bytes else 0

    def solve(self, part: slice, Y: Floats, box: Floats, epsilon: Floats, result: SmoResult) -> None:
        """Copy a chunk to the device, solve it and copy its results back."""
        targets = Y.shape[1]
        blocks = min(targets, BLOCKS_PER_MULTIPROCESSOR * _multiprocessors())
        y = np.array(Y.T, np.float64, order="C")
        centre = y.mean(axis=1)
        y -= centre[:, None]
        statistics = [
            cuda.to_device(np.array(side.statistics[part], np.float64, order="C"))
            for side in (self.kernel.first, self.kernel.second)
        ]
        beta = cuda.to_device(np.zeros_like(y))
        numbers = cuda.device_array((3, targets), np.float64)
        predicted = cuda.device_array((targets, max(self.n_tests, 1)), np.float64)
        _solve_targets[blocks, self.threads, 0, self.shared](
            cuda.to_device(y),
            cuda.to_device(np.array(box, order="C")),
            cuda.to_device(epsilon),
            cuda.to_device(np.array(self.kernel.gamma[part], np.float64)),
            *self.squared,
            *statistics,
            self.rows,
            self.tests,
            self.options.tol,
            self.options.max_iter,
            self.shared > 0,
            cuda.device_array((blocks, self.levels[0], self.levels[0]), np.float64),
            cuda.device_array((blocks, self.levels[1], self.levels[1]), np.float64),
            cuda.device_array((blocks, self.n), np.float64),
            cuda.device_array((blocks, self.n), np.float64),
            beta,
            numbers,
            predicted,
        )
        intercept, n_iter, gap = numbers.copy_to_host()
        result.dual_coef[part] = beta.copy_to_host()
        result.intercept[part], result.n_iter[part], result.gap[part] = intercept + centre, n_iter, gap
        result.predicted[part] = predicted.copy_to_host()[:, : self.n_tests] + centre[:, None]


def _multiprocessors() -> int:
    if config.ENABLE_CUDASIM:
        return 1
    return int(cuda.get_current_device().MULTIPROCESSOR_COUNT)


@_on_device
def _fill(table: Any, squared: Any, statistics: Any, gamma: float, packed: Any, start: int) -> None:
    """table[a, b] ← exp(−γ(squared[a, b] + ‖statistics[a] − statistics[b]‖²)), its lower triangle packed."""
    levels = table.shape[0]
    for entry in range(cuda.threadIdx.x, levels * levels, cuda.blockDim.x):
        a, b = entry // levels, entry % levels
        distance = squared[a, b]
        for s in range(statistics.shape[1]):
            difference = statistics[a, s] - statistics[b, s]
            distance += difference * difference
        value = math.exp(-gamma * distance)
        table[a, b] = value
        if b <= a and packed.size > 0:
            packed[start + a * (a + 1) // 2 + b] = value


@_on_device
def _product(
    exact: bool, table_1: Any, table_2: Any, packed: Any, start_2: int, a: int, c: int, b: int, d: int
) -> float:
    """K between rows of levels (a, b) and (c, d): from the float64 tables, or from the packed triangles."""
    if exact:
        return float(table_1[a, c] * table_2[b, d])
    high, low = max(a, c), min(a, c)
    factor = packed[high * (high + 1) // 2 + low]
    high, low = max(b, d), min(b, d)
    return float(factor * packed[start_2 + high * (high + 1) // 2 + low])


@_on_device
def _largest(values: Any, places: Any, value: float, place: int) -> None:
    """values[0], places[0] ← the largest value over the block's threads and the smallest place it has."""
    thread = cuda.threadIdx.x
    cuda.syncthreads()
    values[thread], places[thread] = value, place
    cuda.syncthreads()
    half = cuda.blockDim.x // 2
    while half > 0:
        if thread < half:
            other, other_place = values[thread + half], places[thread + half]
            if other > values[thread] or (other == values[thread] and other_place < places[thread]):
                values[thread], places[thread] = other, other_place
        cuda.syncthreads()
        half //= 2


@_on_device
def _total(values: Any, value: float) -> float:
    """Return the sum of `value` over the block's threads."""
    thread = cuda.threadIdx.x
    cuda.syncthreads()
    values[thread] = value
    cuda.syncthreads()
    half = cuda.blockDim.x // 2
    while half > 0:
        if thread < half:
            values[thread] += values[thread + half]
        cuda.syncthreads()
        half //= 2
    return float(values[0])


@_on_device
def _residual(
    table_1: Any, table_2: Any, rows: Any, y: Any, beta: Any, tests: Any, f: Any, predicted: Any
) -> None:
    """f ← y − Kβ and predicted ← K_test β from the float64 tables, one row a thread."""
    n = y.size
    for i in range(cuda.threadIdx.x, n, cuda.blockDim.x):
        total = y[i]
        for j in range(n):
            total -= table_1[rows[0, i], rows[0, j]] * table_2[rows[1, i], rows[1, j]] * beta[j]
        f[i] = total
    for i in range(cuda.threadIdx.x, tests.shape[1], cuda.blockDim.x):
        total = 0.0
        for j in range(n):
            total += table_1[tests[0, i], rows[0, j]] * table_2[tests[1, i], rows[1, j]] * beta[j]
        predicted[i] = total
    cuda.syncthreads()


@_on_device
def _violation(
    f: Any, beta: Any, cap: Any, epsilon: float, values: Any, places: Any
) -> tuple[float, int, float]:
    """Return U, the row that has it, and L."""
    top, row, bottom = -math.inf, -1, math.inf
    for i in range(cuda.threadIdx.x, f.size, cuda.blockDim.x):
        level = f[i] - _up_offset(beta[i], cap[i], epsilon)
        if level > top:
            top, row = level, i
        bottom = min(bottom, f[i] - _down_offset(beta[i], cap[i], epsilon))
    _largest(values, places, top, row)
    top, row = values[0], places[0]
    _largest(values, places, -bottom, 0)
    return top, row, -values[0]


@_on_device
def _intercept(f: Any, beta: Any, cap: Any, epsilon: float, middle: float, values: Any) -> float:
    """Return the mean of f − ε·sign(β) over free support vectors, else `middle`."""
    total, count = 0.0, 0.0
    for i in range(cuda.threadIdx.x, f.size, cuda.blockDim.x):
        if beta[i] != 0.0 and abs(beta[i]) < cap[i]:
            total += f[i] - _up_offset(beta[i], cap[i], epsilon)
            count += 1.0
    total, count = _total(values, total), _total(values, count)
    return total / count if count > 0.0 else middle


@_on_device
def _descend(
    exact: bool,
    table_1: Any,
    table_2: Any,
    packed: Any,
    start_2: int,
    rows: Any,
    f: Any,
    beta: Any,
    cap: Any,
    epsilon: float,
    tol: float,
    max_iter: int,
    values: Any,
    places: Any,
    moved: Any,
) -> int:
    """Iterate until U − L ≤ tol or max_iter, f and β in place; return the iterations made."""
    flat = 1e-12 if exact else 1e-6
    for iteration in range(max_iter):
        top, i, bottom = _violation(f, beta, cap, epsilon, values, places)
        if top - bottom <= tol:
            return iteration
        a, b = rows[0, i], rows[1, i]
        most, j = -math.inf, 0
        for k in range(cuda.threadIdx.x, f.size, cuda.blockDim.x):
            slope = top - (f[k] - _down_offset(beta[k], cap[k], epsilon))
            if slope > 0.0:
                k_ik = _product(exact, table_1, table_2, packed, start_2, a, rows[0, k], b, rows[1, k])
                gain = slope * slope / max(2.0 - 2.0 * k_ik, flat)
                if gain > most:
                    most, j = gain, k
        _largest(values, places, most, j)
        j = places[0]
        c, d = rows[0, j], rows[1, j]
        if cuda.threadIdx.x == 0:
            slope = top - (f[j] - _down_offset(beta[j], cap[j], epsilon))
            bend = max(2.0 - 2.0 * _product(exact, table_1, table_2, packed, start_2, a, c, b, d), flat)
            beta[i], beta[j], moved[0] = _pair_step(slope, bend, beta[i], beta[j], cap[i], cap[j], epsilon)
        cuda.syncthreads()
        for k in range(cuda.threadIdx.x, f.size, cuda.blockDim.x):
            k_ik = _product(exact, table_1, table_2, packed, start_2, a, rows[0, k], b, rows[1, k])
            k_jk = _product(exact, table_1, table_2, packed, start_2, c, rows[0, k], d, rows[1, k])
            f[k] -= moved[0] * (k_ik - k_jk)
    return max_iter


@cuda.jit  # type: ignore[untyped-decorator]
def _solve_targets(
    Y: Any,
    box: Any,
    epsilons: Any,
    gammas: Any,
    squared_1: Any,
    squared_2: Any,
    statistics_1: Any,
    statistics_2: Any,
    rows: Any,
    tests: Any,
    tol: float,
    max_iter: int,
    packs: bool,
    tables_1: Any,
    tables_2: Any,
    residuals: Any,
    caps: Any,
    betas: Any,
    numbers: Any,
    predictions: Any,
) -> None:
    """Each block solves targets blockIdx, blockIdx + gridDim, ...; see `smo_kernels._solve_one`."""
    packed = cuda.shared.array(0, float32)
    values = cuda.shared.array(THREADS, float64)
    places = cuda.shared.array(THREADS, int64)
    moved = cuda.shared.array(1, float64)
    block, thread, n = cuda.blockIdx.x, cuda.threadIdx.x, Y.shape[1]
    table_1, table_2, f, cap = tables_1[block], tables_2[block], residuals[block], caps[block]
    start_2 = table_1.shape[0] * (table_1.shape[0] + 1) // 2 if packs else 0
    for t in range(block, Y.shape[0], cuda.gridDim.x):
        y, beta, predicted, epsilon = Y[t], betas[t], predictions[t], epsilons[t]
        cuda.syncthreads()
        _fill(table_1, squared_1, statistics_1[t], gammas[t], packed, 0)
        _fill(table_2, squared_2, statistics_2[t], gammas[t], packed, start_2)
        largest = 0.0
        for i in range(thread, n, cuda.blockDim.x):
            cap[i] = box[t % box.shape[0], i % box.shape[1]]
            largest = max(largest, abs(y[i]))
        _largest(values, places, largest, 0)
        rounding, aim = FLOAT32_ROUNDING * values[0], AIM * tol
        _residual(table_1, table_2, rows, y, beta, tests, f, predicted)
        top, _, bottom = _violation(f, beta, cap, epsilon, values, places)
        done, exact, moving = 0, not packs, True
        while moving and top - bottom > aim and done < max_iter:
            block_iter = min(max_iter - done, 20 * n + 1000)
            goal = 0.99 * aim if exact else max(0.95 * aim, rounding)
            made = _descend(
                exact, table_1, table_2, packed, start_2, rows, f, beta, cap, epsilon, goal, block_iter,
                values, places, moved,
            )  # fmt: skip
            done += made
            before = top - bottom
            cuda.syncthreads()
            _residual(table_1, table_2, rows, y, beta, tests, f, predicted)
            top, _, bottom = _violation(f, beta, cap, epsilon, values, places)
            moving = made > 0 or not exact
            exact = exact or made < block_iter or top - bottom > 0.9 * before
        intercept = _intercept(f, beta, cap, epsilon, (top + bottom) / 2.0, values)
        for i in range(thread, tests.shape[1], cuda.blockDim.x):
            predicted[i] += intercept
        if thread == 0:
            numbers[0, t], numbers[1, t], numbers[2, t] = intercept, done, top - bottom
