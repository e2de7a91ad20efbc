r"""Over-relaxed Douglas–Rachford for thousands of SVRs that share one Gram matrix.

The dual of epsilon-SVR (`rapids_pipeline.svr.dual`) is split into the quadratic part with the equation and the part
that separates by coordinate. With step 1/ρ their proximal maps are products for all targets at once and one
soft-threshold with a clip:

    Z = clip(soft(v, ε/ρ), −C, C)                       coordinate-wise
    G = R_ρ (2Z − v + Y/ρ),   v ← v + 1.9 (G − Z)       products

Whether a target is done is judged by libsvm's rule on a *feasible* point, never by how little v moves: Z is
made to sum to zero, f = y − KZ, and U − L ≤ tol (`rapids_pipeline.svr.dual.judged`). Finished targets leave
the batch. The first `FIRST_PASS` iterations have one ρ for all targets, chosen by a pilot, so that R is one matrix:

    M = (K + ρI)⁻¹,  R_ρ = ρ (M − M11ᵀM / 1ᵀM1)         once, in float64

That fails where the multipliers y − Kβ are far from ρC in size, as with targets a hundred times C or a Gram matrix
that is nearly constant. The few targets left then go on in float64, each with a ρ of its own. With H = I − 11ᵀ/n and
the eigenvectors W and eigenvalues λ of HKH the operator of *any* ρ is two products,

    R_ρ x = H W diag(ρ / (λ + ρ)) Wᵀ H x

and where β moves relatively more (p) or less than the multipliers (d), ρ grows or shrinks by √(p/d):

    p = ‖G − Z‖∞ / ‖Z‖∞        d = ρ ‖Z⁺ − Z‖∞ / max(‖HKG‖∞, ‖Hy‖∞)

Everything is array API code: numpy, cupy and torch run the same lines.

Sources: Eckstein and Bertsekas, Math. Programming 55 (1992), for the over-relaxed iteration; Chang and Lin,
LIBSVM, ACM TIST 2 (2011), section 4.1.2, for the stopping rule; Boyd et al., Found. Trends Mach. Learn. 3 (2011),
section 3.4.1, in the relative form of OSQP (Stellato et al., Math. Prog. Comp. 12, 2020, section 5.2), for ρ.
"""

import functools
from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from math import ceil
from typing import Any, Self

import numpy as np

from rapids_pipeline.backend.arrays import Array, Indices, is_on_cuda, namespace, to_host
from rapids_pipeline.backend.progress import Progress
from rapids_pipeline.svr.dual import DualSolution, clipped, judged, take

RELAXATION = 1.9
FIRST_PASS = 200
PILOT_TARGETS = 32
PILOT_ROWS = 512
PILOT_ITERATIONS = 40
PILOT_FACTORS = (0.01, 0.03, 0.1, 0.2, 0.35, 0.6, 1.0, 1.8, 3.5, 10.0)
PROBE_TARGETS = 16
PROBE_SHARE = 0.6
LARGEST_CHANGE, SMALLEST_CHANGE = 10.0, 2.0
TINY = 1e-30
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
    box, tube = _matrix(C, K), _matrix(epsilon, K)
    dtype = _working_dtype(K, Y, box, tol)
    box, tube = xp.astype(box, dtype), xp.astype(tube, dtype)
    step = SharedStep.build(K, choose_rho(K, Y, box, tube, tol) if rho is None else rho, dtype)
    chunk = chunk_for(K) if chunk is None else chunk
    progress = progress or Progress()
    progress.start(ceil(n_targets / chunk))
    parts = []
    for start in range(0, n_targets, chunk):
        columns = slice(start, min(start + chunk, n_targets))
        batch = step.batch(Y[:, columns], *(x[:, columns] if x.shape[1] > 1 else x for x in (box, tube)))
        parts.append(iterate(step, batch, tol, min(max_iter, FIRST_PASS)))
        progress.advance()
    first = DualSolution.joined(parts)
    left = np.flatnonzero(~to_host(first.converged))
    if max_iter <= FIRST_PASS or not len(left):
        return first
    own, done = OwnSteps.build(K), np.flatnonzero(to_host(first.converged))
    parts = [first.take(done)]
    for start in range(0, len(left), chunk):
        which = left[start : start + chunk]
        of_left = [_columns(x, which) for x in (Y, box, tube)]
        batch = own.batch(first.take(which), *of_left)
        found = iterate(own, batch, tol, max_iter - FIRST_PASS)
        found = found.mapped(lambda x: xp.astype(x, dtype) if xp.isdtype(x.dtype, "real floating") else x)
        parts.append(replace(found, n_iter=found.n_iter + FIRST_PASS))
    return DualSolution.joined(parts).take(np.argsort(np.concatenate([done, left])))


def iterate(step: "Steps", batch: "Batch", tol: float, max_iter: int) -> DualSolution:
    """Run the iteration until every target of a batch is within `tol` or `max_iter` is reached."""
    pending = np.arange(batch.Y.shape[1])
    order: list[Indices] = []
    finished: list[DualSolution] = []
    for iteration in range(1, max_iter + 1):
        Z, last = batch.shrunk(), iteration == max_iter
        check = last or step.is_check(iteration)
        if check and (last or step.is_worth_judging(batch, Z, tol)):
            point = judged(step.K, batch.Y, Z, batch.box, batch.tube, iteration, tol)
            done = to_host(point.converged) | last
            if (
                done.mean() > step.leave_share
            ):  # a few early ones go round again: cheaper than moving the rest
                finished.append(point.take(np.flatnonzero(done)))
                order.append(pending[done])
                if done.all():
                    break
                keep = np.flatnonzero(~done)
                pending, step = pending[keep], step.take(keep)
                batch, Z = batch.take(keep), _columns(Z, keep)
        G = step.resolve(batch, Z)
        batch.v += RELAXATION * (G - Z)
        step.adapt(iteration, batch, Z, G)
    return DualSolution.joined(finished).take(np.argsort(np.concatenate(order)))


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
    rows, targets = _spread(Y.shape[0], PILOT_ROWS), _spread(Y.shape[1], PILOT_TARGETS)
    K, Y = take(take(K, rows, 0), rows, 1), take(take(Y, rows, 0), targets, 1)
    box = take(box, rows, 0) if box.shape[0] > 1 else box
    box, tube = (_columns(x, targets) for x in (box, tube))
    scale = float(xp.sum(xp.linalg.diagonal(K))) / len(rows) - float(xp.mean(K))
    scale = scale if scale > 1e-12 else 1.0

    @functools.cache
    def cost(position: int) -> float:
        step = SharedStep.build(K, PILOT_FACTORS[position] * scale, box.dtype)
        pilot = iterate(step, step.batch(Y, box, tube), tol, PILOT_ITERATIONS)
        excess = xp.clip(pilot.gap / tol, 1.0, 1e6)  # targets not done yet count by how far off they are
        return float(xp.sum(xp.astype(pilot.n_iter, box.dtype) * (1.0 + xp.log(excess))))

    best = len(PILOT_FACTORS) // 2
    while True:
        near = [p for p in (best - 1, best, best + 1) if 0 <= p < len(PILOT_FACTORS)]
        better = min(near, key=cost)
        if cost(better) >= cost(best):
            return PILOT_FACTORS[best] * scale
        best = better


@dataclass
class Batch:
    """The targets under way: Y and v (n, t), box and tube (1 or n, 1 or t), and ρ, a number or (1, t)."""

    Y: Array
    v: Array
    box: Array
    tube: Array
    rho: Array | float
    step: Array = field(init=False)
    threshold: Array = field(init=False)

    def __post_init__(self) -> None:
        self.rescale(self.rho)

    def rescale(self, rho: Array | float) -> None:
        """Set ρ, and with it Y/ρ and ε/ρ."""
        self.rho, self.step, self.threshold = rho, self.Y / rho, self.tube / rho

    def shrunk(self) -> Array:
        """Return Z = clip(soft(v, ε/ρ), −C, C)."""
        return clipped(self.v - clipped(self.v, -self.threshold, self.threshold), -self.box, self.box)

    def take(self, keep: Indices) -> "Batch":
        """Return the batch of some of the targets."""
        rho = self.rho if isinstance(self.rho, float) else _columns(self.rho, keep)
        Y, v, box, tube = (_columns(x, keep) for x in (self.Y, self.v, self.box, self.tube))
        return Batch(Y, v, box, tube, rho)


class Steps(ABC):
    """How the targets of a batch are brought forward.

    Attributes
    ----------
    K : array, (n, n)
        Or what `K @ Z` makes an array (n, t) of Z (n, t) with.
    leave_share : float
        More than this share of a batch must be done before it leaves.
    """

    K: Any
    leave_share: float

    @abstractmethod
    def resolve(self, batch: Batch, Z: Array) -> Array:
        """Return G."""

    @abstractmethod
    def is_check(self, iteration: int) -> bool:
        """Say whether the targets are looked at after so many iterations."""

    def is_worth_judging(self, batch: Batch, Z: Array, tol: float) -> bool:
        """Say whether judging the whole batch is worth its product."""
        return True

    def adapt(self, iteration: int, batch: Batch, Z: Array, G: Array) -> None:
        """Change ρ where it does not suit; by default it stays."""
        return

    def take(self, keep: Indices) -> Self:
        """Return the steps of some of the targets; by default all targets share them."""
        return self


@dataclass(frozen=True)
class SharedStep(Steps):
    """One ρ for all targets: K and R in the working dtype."""

    K: Array
    R: Array
    rho: float
    leave_share = 0.1

    @classmethod
    def build(cls, K: Array, rho: float, dtype: Any) -> "SharedStep":
        """Invert a Gram matrix (n, n), float64."""
        xp = namespace(K)
        inverse = xp.linalg.inv(K + rho * xp.eye(K.shape[0], dtype=K.dtype, device=K.device))
        ones = xp.sum(inverse, axis=1)
        R = rho * (inverse - ones[:, None] * ones[None, :] / xp.sum(ones))
        return cls(xp.astype(K, dtype), xp.astype(R, dtype), float(rho))

    def batch(self, Y: Array, box: Array, tube: Array) -> Batch:
        """Begin at v = R Y/ρ."""
        Y = namespace(Y).astype(Y, self.R.dtype)
        return Batch(Y, self.R @ (Y / self.rho), box, tube, self.rho)

    def resolve(self, batch: Batch, Z: Array) -> Array:
        """Return G."""
        return self.R @ (2 * Z + (batch.step - batch.v))

    def is_check(self, iteration: int) -> bool:
        """Say so often, as a few of them are looked at first."""
        return iteration >= 12 and iteration % 2 == 0

    def is_worth_judging(self, batch: Batch, Z: Array, tol: float) -> bool:
        """Say whether a few of its targets are done."""
        n_targets = Z.shape[1]
        if n_targets < 4 * PROBE_TARGETS:
            return True
        probe = _spread(n_targets, PROBE_TARGETS)
        Y, Z, box, tube = (_columns(x, probe) for x in (batch.Y, Z, batch.box, batch.tube))
        done = judged(self.K, Y, Z, box, tube, 0, tol).converged
        return float(to_host(done).mean()) >= PROBE_SHARE


@dataclass(frozen=True)
class OwnSteps(Steps):
    """A ρ for every target: K and the eigenvalues (n,) and eigenvectors (n, n) of HKH, float64."""

    K: Array
    values: Array
    vectors: Array
    leave_share = 0.0

    @classmethod
    def build(cls, K: Array) -> "OwnSteps":
        """Decompose a Gram matrix (n, n), float64."""
        xp = namespace(K)
        centred = K - xp.mean(K, axis=0, keepdims=True)
        centred = centred - xp.mean(centred, axis=1, keepdims=True)
        values, vectors = xp.linalg.eigh((centred + xp.matrix_transpose(centred)) / 2)
        return cls(K, xp.where(values > 0, values, xp.zeros_like(values)), vectors)

    def batch(self, start: DualSolution, Y: Array, box: Array, tube: Array) -> Batch:
        """Begin at a solution, with ρ the mean eigenvalue."""
        xp, (n, n_targets) = namespace(Y), Y.shape
        mean = max(float(xp.sum(self.values)) / n, 1e-12)
        rho = xp.full((1, n_targets), mean, dtype=xp.float64, device=Y.device)
        return resumed(self.K, start, Y, box, tube, rho)

    def resolve(self, batch: Batch, Z: Array) -> Array:
        """Return G, for each column with its own ρ."""
        return self.operate(2 * Z - batch.v + batch.step, batch.rho)

    def operate(self, x: Array, rho: Array) -> Array:
        """Return R_ρ x for each column of `x` (n, t) with its own ρ (1, t)."""
        xp = namespace(x)
        x = x - xp.mean(x, axis=0, keepdims=True)
        weights = rho / (self.values[:, None] + rho)
        G = self.vectors @ (weights * (xp.matrix_transpose(self.vectors) @ x))
        return G - xp.mean(G, axis=0, keepdims=True)

    def is_check(self, iteration: int) -> bool:
        """Say so seldom."""
        return iteration % 20 == 0

    def adapt(self, iteration: int, batch: Batch, Z: Array, G: Array) -> None:
        """Balance each target's residuals after every check."""
        if self.is_check(iteration):
            balance(batch, Z, G, self.K @ G)


def resumed(K: Any, start: DualSolution, Y: Array, box: Array, tube: Array, rho: Array) -> Batch:
    """Return the batch that begins at a solution's β with the multipliers y − Kβ − b, in the dtype of ρ (1, t)."""
    xp = namespace(Y)
    Y, box, tube, beta, b = (
        xp.astype(x, rho.dtype) for x in (Y, box, tube, start.dual_coef, start.intercept)
    )
    return Batch(Y, beta + (Y - K @ beta - b[None, :]) / rho, box, tube, rho)


def balance(batch: Batch, Z: Array, G: Array, forces: Array, smallest: float = SMALLEST_CHANGE) -> Array:
    """Balance each target's residuals: change ρ, and v so that the multipliers ρ (v − Z) stay.

    `forces` is KG but for a constant a target. Returns by what ρ was multiplied, (1, t): 1 where that would be between
    1/`smallest` and `smallest`.
    """
    xp = namespace(Z)
    following = batch.shrunk()
    forces, targets = _range(forces), _range(batch.Y)
    primal = _largest(G - Z) / (_largest(Z) + TINY)
    dual = batch.rho * _largest(following - Z) / (xp.where(forces > targets, forces, targets) + TINY)
    change = xp.clip(xp.sqrt((primal + TINY) / (dual + TINY)), 1 / LARGEST_CHANGE, LARGEST_CHANGE)
    small = (change < smallest) & (change > 1 / smallest)
    change = xp.where(small, xp.ones_like(change), change)
    batch.v = following + (batch.v - following) / change
    batch.rescale(batch.rho * change)
    return change


def _working_dtype(K: Array, Y: Array, box: Array, tol: float) -> Any:
    """Return float32 where its rounding of f = y − Kβ stays well below tol, otherwise float64."""
    xp = namespace(K, Y)
    magnitude = float(xp.max(xp.abs(Y))) + float(xp.max(box)) * float(xp.max(xp.abs(K)))
    return xp.float32 if magnitude * FLOAT32_ROUNDING < tol else xp.float64


def _matrix(value: Array | float, like: Array) -> Array:
    """Return a number, a row or a matrix as a float64 matrix on the device of `like`."""
    xp = namespace(like)
    if isinstance(value, int | float):
        return xp.full((1, 1), float(value), dtype=xp.float64, device=like.device)
    return xp.astype(value, xp.float64)


def _largest(x: Array) -> Array:
    xp = namespace(x)
    return xp.max(xp.abs(x), axis=0, keepdims=True)


def _range(x: Array) -> Array:
    return _largest(x - namespace(x).mean(x, axis=0, keepdims=True))


def _spread(n: int, at_most: int) -> Indices:
    return np.unique(np.linspace(0, n - 1, min(n, at_most)).astype(np.intp))


def _columns(x: Array, which: Indices) -> Array:
    """Return some columns; a single one stands for all."""
    return take(x, which, 1) if x.shape[1] > 1 else x
