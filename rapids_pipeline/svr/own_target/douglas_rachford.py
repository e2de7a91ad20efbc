r"""Over-relaxed Douglas–Rachford on a stack of Gram matrices: SVRs whose kernels differ from target to target.

The iteration is that of `rapids_pipeline.svr.douglas_rachford`, but target t has a kernel of its own, made of the
shared squared distances D (n, n) and the target's statistics s_t (n_statistics, n):

    K_t = exp(−γ_t (D + ‖s_t(x) − s_t(x')‖²))                               a stack (t, n, n)
    N_t = (H K_t H + ρ_t I)⁻¹,  R_t x = ρ_t N_t H x,  H = I − 11ᵀ/n         once for each ρ_t

    Z = clip(soft(v, ε/ρ), −C, C)                                           (n, t)
    G = R (2Z − v + Y/ρ),   v ← v + 1.9 (G − Z)                             each matrix times its own column

The matrices of a stack are inverted by halves, so that nearly all of the work is products of stacks:

    | A   B |⁻¹   | P + U Q Uᵀ   −U Q |
    | Bᵀ  D |   = |  −Q Uᵀ         Q  |      P = A⁻¹,  U = P B,  Q = (D − Bᵀ U)⁻¹

ρ_t starts at 0.6 of the mean eigenvalue of H K_t H. After 40, 120, 200, … iterations it is changed for the targets
whose residuals are out of balance, and their N_t are made anew. Whether a target is done is judged by libsvm's rule on
a feasible point. Targets that are done leave the stack.

The work is float32 for targets where its rounding stays well below tol. It is the rounding of f = y − Kβ, and that of
the exponents, which are made by one product as ‖s‖² + ‖s'‖² − 2 s·s'. All other targets, and those that the float32
iterations leave above tol, are solved in float64, where the exponents are made of differences.

The cost of a target with n = 614 rows that takes 40 iterations. A matrix is 4n² bytes = 1.51 MB:

    matrices moved     K 7, H K H 5, inverse 18, iterations 40, judging 3, leaving the stack 6: 79 · 1.51 MB = 119 MB
    operations         inverse (4/3) n³ = 0.31 GFLOP, products 2n² each: 0.04 GFLOP
    nested fits        16 fits are 1 to n rows, 5 to 4n/5 and 10 to 3n/5. They move as much as 7.8 fits to n rows
    18,211 targets     18,211 · 7.8 · 119 MB = 16.9 TB, which the 3.35 TB/s of an H100 move in 5.0 s
                       (were all 16 fits to n rows: 34.7 TB, 10.4 s)
                       38 TFLOP (102 TFLOP), which its 67 TFLOP/s in float32 do in 0.6 s (1.5 s)

This is arithmetic and not a measurement. Kernel launches come on top, and so do the statistics, which are made on the
host.

Everything is array API code: numpy, cupy and torch run the same lines. Sources: those of
`rapids_pipeline.svr.douglas_rachford`; Strassen, Numerische Mathematik 13 (1969), for the inverse by halves; Higham,
Accuracy and Stability of Numerical Algorithms (2002), chapter 13, for its stability on positive definite matrices.
"""

from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np

from rapids_pipeline.backend.arrays import (
    Array,
    Float32,
    Float64,
    Indices,
    Mask,
    available_bytes,
    is_on_cuda,
    namespace,
    to_device,
    to_host,
)
from rapids_pipeline.backend.devices import DeviceName
from rapids_pipeline.svr.douglas_rachford import (
    FIRST_PASS,
    FLOAT32_ROUNDING,
    RELAXATION,
    Batch,
    Steps,
    balance,
    iterate,
    resumed,
)
from rapids_pipeline.svr.dual import DualSolution, require_room, take
from rapids_pipeline.svr.own_target.statistics import SideLevels
from rapids_pipeline.svr.own_target.trained_rows import Statistics, TrainedRows

FIRST_RHO = 0.6
"""ρ at the start, in units of the mean eigenvalue of HKH."""
LEAST_EIGENVALUE = 1e-6
"""A mean eigenvalue below this is rounding: the kernel is constant, and ρ starts at `FIRST_RHO` itself."""
FIRST_CHECK, CHECK_EVERY, ADAPT_EVERY = 20, 10, 80
"""Iterations until targets are first judged, between two judgements, and between two changes of ρ (the first is after
half as many)."""
LEAST_CHANGE = 5.0
"""A smaller change of ρ is not worth another inverse."""
BLOCK = 64
"""A matrix of at most so many rows is inverted without halving it."""
WORK_MATRICES = 8
"""Matrices that a target needs at most at one time, which is while the stack is inverted."""
HOST_BYTES = 1 << 25
"""What a stack and the work on it take on the host: little, so that it stays near the processor."""
GPU_BYTES, GPU_SHARE = 1 << 35, 0.5
"""What they take on a GPU at most, where a larger stack gains nothing, and their share of the memory that is free."""


class StackSolver:
    """Training rows on a device, where chunks of targets are solved and other rows are predicted.

    Parameters
    ----------
    trained : TrainedRows
    parts : list of (slice, list of SideLevels)
        Other rows, which are predicted (`TrainedRows.parts`).
    device : str

    Raises
    ------
    InputError
        Not even one target's matrices fit in memory.
    """

    def __init__(
        self, trained: TrainedRows, parts: list[tuple[slice, list[SideLevels]]], device: DeviceName
    ) -> None:
        self.of_row, self.parts, self.device = trained.of_row, parts, device
        n = self.of_row.shape[1]
        require_room(to_device(np.zeros(1), device), n, n, 4 * WORK_MATRICES)
        self.distances = to_device(trained.distances(), device)
        self.to_others = [to_device(trained.distances(levels), device) for _, levels in parts]

    def targets_at_once(self) -> int:
        """Return how many targets fill the device's stack."""
        return targets_at_once(self.distances, len(self.distances), namespace(self.distances).float32)

    def fit_predict(
        self,
        Y: Float32,
        statistics: list[Statistics],
        gamma: Float32,
        box: Float64,
        epsilon: float,
        tol: float,
        limit: int,
        single: bool,
    ) -> tuple[Float64, Float64, Float64, list[tuple[slice, Float32]]]:
        """Return β (t, n), b and U − L of a chunk of targets, and predictions (m, t) of each part of the other rows.

        Arguments as `TrainedRows.solve`; all arrays are of the host.
        """
        S = self._columns([part.trained for part in statistics], self.of_row)
        gammas, targets, bound = (to_device(np.array(x, np.float64), self.device) for x in (gamma, Y, box.T))
        suited = single & float32_suffices(S, gammas, targets, bound, tol)
        solution = solve(
            self.distances, S, gammas, targets, bound, suited, epsilon=epsilon, tol=tol, max_iter=limit
        )
        found = []
        for (which, levels), distances in zip(self.parts, self.to_others, strict=True):
            tables = [part.everyone[:, :, side.labels] for part, side in zip(statistics, levels, strict=True)]
            others = self._columns(tables, np.stack([side.of_row for side in levels]))
            values = predicted(distances, others, S, gammas, solution, suited)
            found.append((which, to_host(values).astype(np.float32)))
        beta, intercept, gap = (to_host(x) for x in (solution.dual_coef, solution.intercept, solution.gap))
        return beta.T, intercept, gap, found

    def _columns(self, tables: list[Float32], of_row: Indices) -> Array:
        """Return the statistics of rows on both sides, (t, S, rows), from tables of levels (t, S, levels)."""
        moved = [
            take(to_device(np.ascontiguousarray(table), self.device), rows, 2)
            for table, rows in zip(tables, of_row, strict=True)
        ]
        return namespace(*moved).concat(moved, axis=1)


def solve(
    D: Array,
    S: Array,
    gamma: Array,
    Y: Array,
    box: Array,
    suited: Mask,
    *,
    epsilon: float,
    tol: float,
    max_iter: int,
) -> DualSolution:
    """Solve every target's SVR on a kernel of its own.

    Parameters
    ----------
    D : array, (n, n), float64
        Squared distances of what all targets share.
    S : array, (t, n_statistics, n), floating
        Statistics of each target, by row.
    gamma : array, (t,), float64
    Y : array, (n, t), float64
    box : array, (n, 1 or t), float64
        Bound on |β| of every row; a row whose bound is 0 is left out.
    suited : ndarray of bool, (t,)
        Targets that begin in float32 (`float32_suffices`).
    epsilon, tol : float
        Half-width of the tube and bound on U − L, in the unit of Y.
    max_iter : int
        Iterations after which a target counts as not converged.

    Returns
    -------
    DualSolution
        In float64, in the library of the input.
    """
    xp, (n, t) = namespace(D, S, gamma, Y, box), Y.shape
    centre = xp.mean(Y, axis=0)
    Y = Y - centre[None, :]
    tube = xp.full((1, 1), epsilon, dtype=xp.float64, device=Y.device)
    zero = xp.zeros((t,), dtype=xp.float64, device=Y.device)
    found = DualSolution(xp.zeros_like(Y), zero, xp.astype(zero, xp.int32), zero + float("inf"), zero > 0)
    for dtype, at_most in ((xp.float32, FIRST_PASS), (xp.float64, max_iter)):
        pending = ~to_host(found.converged) & (suited | (dtype == xp.float64))
        left, made = np.flatnonzero(pending), int(to_host(found.n_iter).max())
        limit, width = min(at_most, max_iter - made), targets_at_once(Y, n, dtype)
        if not limit or not len(left):
            continue
        parts = [found.take(np.flatnonzero(~pending))]
        for start in range(0, len(left), width):
            some = left[start : start + width]
            own = take(S, some, 0)
            K = gram(D, own, own, take(gamma, some, 0), dtype)
            bound, rho = take(box, some, 1) if box.shape[1] > 1 else box, first_rho(K)
            steps = StackedSteps(Stack(K), resolvents(K, rho))
            batch = resumed(steps.K, found.take(some), take(Y, some, 1), bound, tube, rho)
            better = iterate(steps, batch, tol, limit)
            parts.append(replace(better.mapped(_in_float64), n_iter=better.n_iter + made))
        order = np.argsort(np.concatenate([np.flatnonzero(~pending), left]))
        found = DualSolution.joined(parts).take(order)
    return replace(found, intercept=found.intercept + centre)


def _in_float64(x: Array) -> Array:
    xp = namespace(x)
    return xp.astype(x, xp.float64) if xp.isdtype(x.dtype, "real floating") else x


def predicted(D: Array, others: Array, S: Array, gamma: Array, solution: DualSolution, suited: Mask) -> Array:
    """Return K_t(others, training rows) β_t + b_t, (m, t) float64.

    D is (m, n), statistics are (t, n_statistics, m) and (t, n_statistics, n).
    """
    xp, parts = namespace(D, others, S), []
    kinds = ((xp.float32, np.flatnonzero(suited)), (xp.float64, np.flatnonzero(~suited)))
    for dtype, which in kinds:
        width = targets_at_once(D, max(D.shape), dtype)
        for start in range(0, len(which), width):
            some = which[start : start + width]
            K = gram(D, take(others, some, 0), take(S, some, 0), take(gamma, some, 0), dtype)
            beta = xp.astype(take(solution.dual_coef, some, 1), dtype)
            parts.append(xp.astype(Stack(K) @ beta, xp.float64))
    order = np.argsort(np.concatenate([which for _, which in kinds]))
    return take(xp.concat(parts, axis=1), order, 1) + solution.intercept[None, :]


def float32_suffices(S: Array, gamma: Array, Y: Array, box: Array, tol: float) -> Mask:
    """Say for which targets float32 makes f = y − Kβ far more exact than tol, (t,) on the host.

    The rounding of f grows with |y| and with C. That of K grows with γ‖s − mean‖², the largest term of an exponent.
    Arguments as `solve`.
    """
    xp = namespace(S, gamma, Y, box)
    spread = xp.astype(S, xp.float64)
    spread = spread - xp.mean(spread, axis=2, keepdims=True)
    terms = gamma * xp.max(xp.sum(spread * spread, axis=1), axis=1)
    targets = xp.max(xp.abs(Y - xp.mean(Y, axis=0)[None, :]), axis=0)
    return to_host((targets + xp.max(box, axis=0) * (1 + terms)) * FLOAT32_ROUNDING < tol)


def targets_at_once(like: Array, n: int, dtype: Any) -> int:
    """Return how many targets of n rows a stack in `dtype` holds, by the memory that is free where `like` lives."""
    room = min(GPU_BYTES, GPU_SHARE * available_bytes(like)) if is_on_cuda(like) else HOST_BYTES
    return max(1, int(room / (WORK_MATRICES * namespace(like).finfo(dtype).bits // 8 * n**2)))


# --- stacks of matrices ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Stack:
    """Matrices (t, m, n), each of which multiplies a column of its own: `stack @ Z` makes (m, t) of Z (n, t)."""

    matrices: Array

    def __matmul__(self, Z: Array) -> Array:
        return (self.matrices @ Z.T[:, :, None])[:, :, 0].T

    def take(self, keep: Indices) -> "Stack":
        """Return some of the matrices."""
        return Stack(take(self.matrices, keep, 0))


def gram(D: Array, rows: Array, columns: Array, gamma: Array, dtype: Any) -> Array:
    """Return K_t = exp(−γ_t (D + ‖s_t − s_t'‖²)), (t, m, n), of statistics (t, n_statistics, m) and (…, n).

    In float64 squared distances are sums of squared differences. In float32 they are one product, in which the squares
    are two further statistics: −γ‖s − s'‖² = (√(2γ)s, −γ‖s‖², −1) · (√(2γ)s', 1, γ‖s'‖²).
    """
    xp = namespace(D, rows, columns, gamma)
    one, two, scale = (xp.astype(x, dtype) for x in (rows, columns, gamma[:, None, None]))
    K = -scale * xp.astype(D, dtype)[None, :, :]
    if dtype == xp.float64:
        for s in range(one.shape[1]):
            difference = one[:, s, :, None] - two[:, s, None, :]
            K -= scale * difference * difference
        return xp.exp(K)
    centre, root = xp.mean(two, axis=2, keepdims=True), xp.sqrt(2 * scale)
    one, two = (root * (x - centre) for x in (one, two))
    half_one, half_two = (xp.sum(x * x, axis=1, keepdims=True) / 2 for x in (one, two))
    one = xp.concat([one, -half_one, -xp.ones_like(half_one)], axis=1)
    two = xp.concat([two, xp.ones_like(half_two), half_two], axis=1)
    K += xp.matrix_transpose(one) @ two
    return xp.exp(K)


def inverse(A: Array, rho: Array) -> Array:
    """Return (A + ρI)⁻¹ of symmetric A (t, n, n) with ρ (t, 1, 1), by halves; A + ρI is positive definite."""
    xp, n = namespace(A, rho), A.shape[2]
    if n <= BLOCK:
        return xp.linalg.inv(A + rho * xp.eye(n, dtype=A.dtype, device=A.device))
    half = n // 2
    P, B = inverse(A[:, :half, :half], rho), A[:, :half, half:]
    U = P @ B
    Q = inverse(A[:, half:, half:] - xp.matrix_transpose(B) @ U, rho)
    UQ = U @ Q
    top = xp.concat([P + UQ @ xp.matrix_transpose(U), -UQ], axis=2)
    return xp.concat([top, xp.concat([-xp.matrix_transpose(UQ), Q], axis=2)], axis=1)


def first_rho(K: Array) -> Array:
    """Return `FIRST_RHO` times the mean eigenvalue of HKH, (1, t); the diagonal of K (t, n, n) is 1."""
    xp = namespace(K)
    mean = 1 - xp.mean(K, axis=(1, 2))
    return FIRST_RHO * xp.where(mean > LEAST_EIGENVALUE, mean, xp.ones_like(mean))[None, :]


def resolvents(K: Array, rho: Array) -> Stack:
    """Return N = (HKH + ρI)⁻¹ of K (t, n, n) with ρ (1, t)."""
    xp = namespace(K)
    means = xp.mean(K, axis=2, keepdims=True)
    means -= xp.mean(means, axis=1, keepdims=True) / 2
    centred = K - means
    centred -= xp.matrix_transpose(means)
    return Stack(inverse(centred, rho[0, :][:, None, None]))


@dataclass
class StackedSteps(Steps):
    """A kernel and a ρ for every target: K, and N = (HKH + ρI)⁻¹."""

    K: Stack
    N: Stack
    leave_share = 0.25

    def take(self, keep: Indices) -> Self:
        """Return the steps of some of the targets."""
        return type(self)(self.K.take(keep), self.N.take(keep))

    def resolve(self, batch: Batch, Z: Array) -> Array:
        """Return G."""
        xp = namespace(Z)
        x = 2 * Z - batch.v + batch.step
        G = self.N @ (batch.rho * (x - xp.mean(x, axis=0, keepdims=True)))
        return G - xp.mean(G, axis=0, keepdims=True)

    def is_check(self, iteration: int) -> bool:
        """Say so once in a while: a check costs as much as an iteration."""
        return iteration >= FIRST_CHECK and iteration % CHECK_EVERY == 0

    def adapt(self, iteration: int, batch: Batch, Z: Array, G: Array) -> None:
        """Balance the targets' residuals now and then, and make N anew where ρ changed.

        KG needs no product: (HKH + ρI) G = ρ H (2Z − v + Y/ρ), with v as it was before the step.
        """
        if iteration % ADAPT_EVERY != ADAPT_EVERY // 2:
            return
        before = batch.v - RELAXATION * (G - Z)
        forces = batch.rho * (2 * Z - before + batch.step - G)
        change = to_host(balance(batch, Z, G, forces, LEAST_CHANGE))[0]
        changed = np.flatnonzero(change != 1)
        if len(changed):
            anew = resolvents(take(self.K.matrices, changed, 0), take(batch.rho, changed, 1))
            same = np.flatnonzero(change == 1)
            both = namespace(Z).concat([take(self.N.matrices, same, 0), anew.matrices])
            self.N = Stack(both).take(np.argsort(np.concatenate([same, changed])))
