r"""Over-relaxed Douglas–Rachford for thousands of SVRs that share one Gram matrix.

The dual of epsilon-SVR for target t (β = α − α*):

    min_β ½ βᵀKβ − y_tᵀβ + ε‖β‖₁    subject to  1ᵀβ = 0,  |β_i| ≤ C_i

is split into the quadratic part with the equation and the part that separates by coordinate. With step 1/ρ
their proximal maps are one matrix product for all targets at once and one soft-threshold with a clip:

    M = (K + ρI)⁻¹,  R = ρ (M − M11ᵀM / 1ᵀM1)          once a fold, in float64
    Z = clip(soft(v, ε/ρ), −C, C)                       coordinate-wise
    G = R (2Z − v + Y/ρ),   v ← v + 1.9 (G − Z)         one product an iteration

Whether a target is done is judged by libsvm's rule on a *feasible* point, never by how little v moves: Z is
made to sum to zero, f = y − KZ, and U − L ≤ tol (see `rapids_pipeline.svr.optimality`). Finished targets leave
the batch; the few that are not done after `FIRST_PASS` iterations go on with a ρ of their own (see
`rapids_pipeline.svr.adaptive_steps`).

Everything is array API code: numpy, cupy and torch run the same lines.

Sources: Eckstein and Bertsekas, Math. Programming 55 (1992), for the over-relaxed iteration; Chang and Lin,
LIBSVM, ACM TIST 2 (2011), section 4.1.2, for the stopping rule.
"""

import functools
from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rapids_pipeline.backend.arrays import Array, is_on_cuda, namespace, to_host
from rapids_pipeline.backend.progress import Progress
from rapids_pipeline.svr.adaptive_steps import CentredSpectrum, refine
from rapids_pipeline.svr.optimality import clipped, judged
from rapids_pipeline.svr.solution import DualSolution

RELAXATION = 1.9
FIRST_CHECK = 12
CHECK_EVERY = 2
FIRST_PASS = 200
PILOT_TARGETS = 32
PILOT_ROWS = 512
PILOT_ITERATIONS = 40
PILOT_FACTORS = (0.01, 0.03, 0.1, 0.2, 0.35, 0.6, 1.0, 1.8, 3.5, 10.0)
LEAVE_SHARE = 0.1
PROBE_TARGETS = 16
PROBE_SHARE = 0.6
HOST_CHUNK, GPU_CHUNK = 256, 32_768
GPU_NUMBERS = 1 << 28
"""Numbers that a chunk's arrays may hold on a GPU: 1 GiB in float32."""
FLOAT32_ROUNDING = 2e-5
"""Bound on the relative rounding of f in float32; a tolerance below it is solved in float64."""


def solve(
    K: Array,
    Y: Array,
    *,
    C: Array | float = 1.0,
    epsilon: Array | float = 0.1,
    tol: float = 1e-3,
    max_iter: int = 2000,
    rho: float | None = None,
    chunk: int | None = None,
    progress: Progress | None = None,
) -> DualSolution:
    """Solve every target's SVR on one Gram matrix.

    Parameters
    ----------
    K : array, (n, n), float64
        Symmetric positive semidefinite Gram matrix of the training rows.
    Y : array, (n, n_targets), floating
        Targets, one column each, in the same array library and on the same device as `K`.
    C, epsilon : float or array of shape (1 or n, 1 or n_targets)
        Box bound (a column weights samples, a row holds one value a target) and half-width of the insensitive
        tube (a number or a row).
    tol : float
        Bound on U − L, in the unit of Y.
    max_iter : int
        Iterations after which a target counts as not converged.
    rho : float, optional
        Inverse step; by default chosen by a pilot (`choose_rho`).
    chunk : int, optional
        Targets solved together; bounds the memory to about 8·n·chunk numbers. By default `HOST_CHUNK` on the host, and
        on a GPU as many as keep it busy (`chunk_for`).

    Returns
    -------
    DualSolution
        Arrays in the library of the input; `converged` is False for every target that missed `tol`.
    """
    xp = namespace(K, Y)
    n_targets = Y.shape[1]
    box, tube = _matrix(xp, C, K), _matrix(xp, epsilon, K)
    dtype = _working_dtype(xp, K, Y, box, tol)
    box, tube = xp.astype(box, dtype), xp.astype(tube, dtype)
    limits = _Limits(tol, min(max_iter, FIRST_PASS))
    rho = choose_rho(K, Y, box, tube, tol) if rho is None else rho
    operators = _Operators.build(K, rho, dtype)
    chunk = chunk_for(K) if chunk is None else chunk
    progress = progress or Progress()
    progress.start(ceil(n_targets / chunk))
    parts = []
    for start in range(0, n_targets, chunk):
        columns = slice(start, min(start + chunk, n_targets))
        batch = xp.astype(Y[:, columns], dtype)
        parts.append(_solve_batch(operators, batch, _columns(box, columns), _columns(tube, columns), limits))
        progress.advance()
    first = DualSolution.joined(parts)
    return (
        _second_pass(K, Y, box, tube, first, tol, max_iter - FIRST_PASS, chunk)
        if max_iter > FIRST_PASS
        else first
    )


def chunk_for(K: Array) -> int:
    """Return how many targets to solve together: few where a cache is to hold them, many where launches cost time."""
    if not is_on_cuda(K):
        return HOST_CHUNK
    return min(GPU_CHUNK, max(HOST_CHUNK, GPU_NUMBERS // (8 * int(K.shape[0]))))


def choose_rho(K: Array, Y: Array, box: Array, tube: Array, tol: float) -> float:
    """Pick ρ by a pilot: the value that solves a few targets in the fewest iterations.

    Candidates are `PILOT_FACTORS` times the mean eigenvalue of K on the space 1ᵀβ = 0, which is where β lives;
    the search walks downhill among them from the middle. The pilot takes at most `PILOT_TARGETS` targets and
    `PILOT_ROWS` rows, evenly spaced.
    """
    xp = namespace(K, Y)
    n, n_targets = Y.shape
    rows, targets = _spread(n, PILOT_ROWS), _spread(n_targets, PILOT_TARGETS)
    K = _take(_take(K, rows, 0), rows, 1)
    Y = xp.astype(_take(_take(Y, rows, 0), targets, 1), box.dtype)
    box = _take(box, rows, 0) if box.shape[0] > 1 else box
    box, tube = (_take(x, targets, 1) if x.shape[1] > 1 else x for x in (box, tube))
    scale = float(xp.sum(xp.linalg.diagonal(K))) / len(rows) - float(xp.mean(K))
    scale = scale if scale > 1e-12 else 1.0

    @functools.cache
    def cost(position: int) -> float:
        operators = _Operators.build(K, PILOT_FACTORS[position] * scale, box.dtype)
        pilot = _solve_batch(operators, Y, box, tube, _Limits(tol, PILOT_ITERATIONS))
        excess = xp.clip(pilot.gap / tol, 1.0, 1e6)  # targets not done yet count by how far off they are
        return float(xp.sum(xp.astype(pilot.n_iter, box.dtype) * (1.0 + xp.log(excess))))

    best = len(PILOT_FACTORS) // 2
    while True:
        near = [p for p in (best - 1, best, best + 1) if 0 <= p < len(PILOT_FACTORS)]
        better = min(near, key=cost)
        if cost(better) >= cost(best):
            return PILOT_FACTORS[best] * scale
        best = better


@dataclass(frozen=True)
class _Limits:
    tol: float
    max_iter: int


@dataclass(frozen=True)
class _Operators:
    """What the iterations multiply by: K and R in the working dtype, and ρ."""

    K: Array
    R: Array
    rho: float

    @classmethod
    def build(cls, K: Array, rho: float, dtype: Any) -> "_Operators":
        xp = namespace(K)
        inverse = xp.linalg.inv(K + rho * xp.eye(K.shape[0], dtype=K.dtype, device=K.device))
        ones = xp.sum(inverse, axis=1)
        R = rho * (inverse - ones[:, None] * ones[None, :] / xp.sum(ones))
        return cls(xp.astype(K, dtype), xp.astype(R, dtype), rho)


def _solve_batch(operators: _Operators, Y: Array, box: Array, tube: Array, limits: _Limits) -> DualSolution:
    """Run the iteration on a batch of targets until all are done or `max_iter` is reached."""
    xp = namespace(Y)
    pending = np.arange(Y.shape[1])
    order: list[NDArray[np.intp]] = []
    finished: list[DualSolution] = []
    step = Y / operators.rho
    threshold = tube / operators.rho
    v = operators.R @ step
    for iteration in range(1, limits.max_iter + 1):
        Z = clipped(v - clipped(v, -threshold, threshold), -box, box)
        last = iteration == limits.max_iter
        if last or (_is_check(iteration) and _probe_passes(operators.K, Y, Z, box, tube, limits.tol)):
            point = judged(operators.K, Y, Z, box, tube, iteration, limits.tol)
            done = to_host(point.converged) | last
            if done.mean() > LEAVE_SHARE:  # a few early ones go round again: cheaper than moving the rest
                finished.append(point.take(_indices(xp, np.flatnonzero(done), Y)))
                order.append(pending[done])
                if done.all():
                    break
                keep = np.flatnonzero(~done)
                pending = pending[keep]
                Y, Z, v, step = (_take(x, keep, 1) for x in (Y, Z, v, step))
                box, tube, threshold = (
                    _take(x, keep, 1) if x.shape[1] > 1 else x for x in (box, tube, threshold)
                )
        G = operators.R @ (2 * Z + (step - v))
        v += RELAXATION * (G - Z)
    return DualSolution.joined(finished).take(_indices(xp, np.argsort(np.concatenate(order)), Y))


def _second_pass(
    K: Array, Y: Array, box: Array, tube: Array, first: DualSolution, tol: float, max_iter: int, chunk: int
) -> DualSolution:
    """Return `first` with the targets that had not converged replaced by what adaptive steps make of them."""
    xp = namespace(K)
    left = np.flatnonzero(~to_host(first.converged))
    if not len(left):
        return first
    spectrum = CentredSpectrum.of(K)
    parts = [first.take(_indices(xp, np.flatnonzero(to_host(first.converged)), K))]
    for start in range(0, len(left), chunk):
        which = left[start : start + chunk]
        targets, bound, width = (_take(x, which, 1) if x.shape[1] > 1 else x for x in (Y, box, tube))
        begin = first.take(_indices(xp, which, K))
        parts.append(refine(spectrum, targets, bound, width, begin, tol=tol, max_iter=max_iter))
    order = np.concatenate([np.flatnonzero(to_host(first.converged)), left])
    joined = DualSolution.joined([part.astype(first.dual_coef.dtype) for part in parts])
    return joined.take(_indices(xp, np.argsort(order), K))


def _is_check(iteration: int) -> bool:
    return iteration >= FIRST_CHECK and (iteration - FIRST_CHECK) % CHECK_EVERY == 0


def _probe_passes(K: Array, Y: Array, Z: Array, box: Array, tube: Array, tol: float) -> bool:
    """Say whether judging the whole batch is worth its product: whether a few of its targets are done."""
    n_targets = Y.shape[1]
    if n_targets < 4 * PROBE_TARGETS:
        return True
    probe = _spread(n_targets, PROBE_TARGETS)
    Y, Z, box, tube = (_take(x, probe, 1) if x.shape[1] > 1 else x for x in (Y, Z, box, tube))
    return float(to_host(judged(K, Y, Z, box, tube, 0, tol).converged).mean()) >= PROBE_SHARE


def _working_dtype(xp: Any, K: Array, Y: Array, box: Array, tol: float) -> Any:
    """Return float32 where its rounding of f = y − Kβ stays well below tol, otherwise float64."""
    magnitude = float(xp.max(xp.abs(Y))) + float(xp.max(box)) * float(xp.max(xp.abs(K)))
    return xp.float32 if magnitude * FLOAT32_ROUNDING < tol else xp.float64


def _matrix(xp: Any, value: Array | float, like: Array) -> Array:
    """Return a number, a row or a matrix as a float64 matrix on the device of `like`."""
    if isinstance(value, int | float):
        return xp.full((1, 1), float(value), dtype=xp.float64, device=like.device)
    return xp.astype(value, xp.float64)


def _columns(x: Array, columns: slice) -> Array:
    return x[:, columns] if x.shape[1] > 1 else x


def _spread(n: int, at_most: int) -> NDArray[np.intp]:
    return np.unique(np.linspace(0, n - 1, min(n, at_most)).astype(np.intp))


def _indices(xp: Any, positions: NDArray[np.intp], like: Array) -> Array:
    return xp.asarray(positions, device=like.device)


def _take(x: Array, positions: NDArray[np.intp], axis: int) -> Array:
    xp = namespace(x)
    return xp.take(x, _indices(xp, positions, x), axis=axis)
