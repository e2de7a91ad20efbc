r"""Kernel ridge regression with an intercept, all targets at once, each with a penalty of its own.

    min over (β, b) of  ½ βᵀKβ + Σ_i (λ h_i / 2) β_i² − yᵀβ,   1ᵀβ = 0

which is the dual of min ½‖f‖² + Σ_i (f(x_i) + b − y_i)² / (2 λ h_i): squared errors in the place of the
epsilon-insensitive ones of the other engines, with 1/λ in the place of C (the least-squares SVM) and 1/h_i in that of
the sample weights. With H = diag(h), D = H^(−½), A = D K D, β = D γ and d = D 1, the solution is that of

    (A + λ) γ + b d = D y,   dᵀγ = 0

**By one factorisation** A = Q Λ Qᵀ, for few rows: it does not depend on λ, so t targets cost two products of (n × n)
with (n × t), after about 9 n³ operations, which few cores do slowly.

**By conjugate gradients** from `ITERATES_FROM` rows: every iteration is one product A P in float32 for the targets that
are not solved yet, whatever their λ. The residual is made anew in float64 and solved for again until it is small; a
target that this does not help, with a tiny λ, is solved by the factorisation. Preconditioner: with U S Uᵀ ≈ A of rank
r, from one product with random columns,

    P_λ⁻¹ = 1 + U ((s_r + λ)/(S + λ) − 1) Uᵀ,   projected:  z = P⁻¹ (x − v d),   v = dᵀP⁻¹x / dᵀP⁻¹d

which keeps dᵀγ = 0, and v is the part of the intercept that x holds.

**By Cholesky factors** (`rapids_pipeline.svr.cholesky`) where all targets have one λ and the iterations would cost
more: A + λ = L Lᵀ in float32, about n³/3 operations, and the residual in float64 is solved for again as above.

Sources: Suykens and Vandewalle, Neural Processing Letters 9 (1999) 293; Rifkin and Lippert, Notes on Regularized Least
Squares (2007); Frangella, Tropp and Udell, SIAM J. Matrix Anal. Appl. 44 (2023) 718 (Nyström preconditioner); Gould,
Hribar and Nocedal, SIAM J. Sci. Comput. 23 (2001) 1376 (projected conjugate gradients).
"""

from copy import copy
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rapids_pipeline.backend.arrays import Array, multiplied, namespace, to_host
from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.backend.progress import Progress
from rapids_pipeline.svr import cholesky
from rapids_pipeline.svr.dual import DualSolution, take

ROUNDING = 1e-6
"""Residual, relative to 1 + the largest |y| of a target, up to which it counts as solved."""
ITERATES_FROM = 1500
"""Rows from which conjugate gradients are faster than the factorisation."""
ENOUGH = 0.8 * ROUNDING
"""Residual, relative to a target's largest distance from its mean, at which its iterations end."""
SPARE = 0.2
"""Share of that residual which the last round aims at: its iterations see the length of residuals, not the largest."""
BALANCE = 1e-8
"""|dᵀγ| relative to Σ d|γ| at which γ counts as balanced."""
RANK, LEAST_RANK, MOST_RANK = 10, 200, 1000
"""The preconditioner has n/RANK columns, at least and at most so many."""
SHIFT = 1e-7
"""What is added to A for its leading part, relative to its trace; and the least usable eigenvalue, to the largest."""
FEWER = 0.8
"""Share of the columns of a product that are not solved yet below which the others are left out of it."""
REDUCTION, MOST_ITERATIONS = 1e-4, 200
"""By how much one round of float32 reduces a residual at most, and its iterations."""
FEW_ROWS = 256
"""Rows of a product at a time: of K, since a block of it in float64 is large, and of Uᵀ, which has few."""
USUAL_ITERATIONS = 25
"""What conjugate gradients take of a composite kernel, from 4,000 to 14,000 rows, on average over its targets."""
LEAST_PENALTY, LEAST_GAIN = 1e-6, 0.1
"""The factorisation solves targets whose penalty is smaller, in units of A's largest eigenvalue, since float32 cannot,
and those whose residual a round does not reduce so far."""
ONE_FACTORISATION = "C must be a row weight times a target's C: one factorisation cannot serve any others"


def solve(
    K: Array,
    Y: Array,
    *,
    C: Array | float,
    epsilon: Array | float,
    tol: float = 0.0,  # noqa: ARG001
    max_iter: int = 1,  # noqa: ARG001
    progress: Progress | None = None,
) -> DualSolution:
    """Solve every target, in float64.

    Parameters
    ----------
    K : array, (n, n)
        Positive semidefinite Gram matrix; eigenvalues below 0 count as 0. From `ITERATES_FROM` rows float32 serves as
        float64 does, in half of the memory.
    Y : array, (n, t)
    C : float or array, (1, t) or (n, t)
        1/λ of each target, times the weight 1/h_i of each row.
    epsilon : float or array
        Must be 0: squared errors have no tube.
    tol, max_iter : ignored
        The solution is a direct one; `gap` is the largest |K β + λ h β + b − y|, what rounding left.

    Raises
    ------
    InputError
        epsilon is not 0, or C is no product of row weights and targets' C.
    """
    xp = namespace(K, Y)
    if bool(xp.any(xp.asarray(epsilon, dtype=xp.float64, device=K.device) != 0)):
        raise InputError("engine 'ridge' has squared errors, which have no tube: epsilon must be 0")
    progress = progress or Progress()
    progress.start(1)
    Y = xp.astype(Y, xp.float64)
    n, t = Y.shape
    if n < ITERATES_FROM:
        K = xp.astype(K, xp.float64)
    penalty, weight = _penalty_and_weights(C, K, n, t)
    root = xp.sqrt(weight)
    if n < ITERATES_FROM:
        gamma, intercept, iterations = _factorised(K, root, Y, penalty)
        gap = xp.max(xp.abs(_residual(K, root, Y, penalty, gamma, intercept)), axis=0)
    elif _one_penalty(K, root, penalty):
        gamma, intercept, iterations, gap = cholesky.solve(K, root, Y, penalty[0])
    else:
        gamma, intercept, iterations, gap = _conjugate_gradients(K, root, Y, penalty)
    progress.advance()
    solved_well = gap <= ROUNDING * (xp.max(xp.abs(Y), axis=0) + 1)
    return DualSolution(root[:, None] * gamma, intercept, iterations, gap, solved_well)


def factors_are_cheaper(n: int, t: int) -> bool:
    """Say whether Cholesky factors of n rows cost less than the iterations of t targets with one penalty."""
    return n / 3 < 2 * (_rank(n) + USUAL_ITERATIONS * t)


def _one_penalty(K: Array, d: Array, penalty: Array) -> bool:
    """Say whether all targets have one penalty, float32 can tell it from 0, and factors are cheaper than iterations."""
    xp = namespace(K)
    trace = float(xp.sum(xp.astype(xp.linalg.diagonal(K), xp.float64) * d * d))
    one = float(penalty[0])
    cheaper = factors_are_cheaper(K.shape[0], penalty.shape[0])
    return cheaper and one > LEAST_PENALTY * trace and bool(xp.all(penalty == one))


def _residual(K: Array, d: Array, Y: Array, penalty: Array, gamma: Array, intercept: Array) -> Array:
    """Return y − K β − λ h β − b, (n, t) float64."""
    xp = namespace(K)
    fitted = multiplied(K, d[:, None] * gamma, xp.float64, FEW_ROWS)
    return Y - fitted - penalty[None, :] * gamma / d[:, None] - intercept[None, :]


def _factorised(K: Array, d: Array, Y: Array, penalty: Array) -> tuple[Array, Array, Array]:
    """Return γ (n, t), b (t,) and 1 for each target, by the eigenvalues of A = D K D."""
    xp = namespace(K)
    values, Q = xp.linalg.eigh(xp.astype(K, xp.float64, copy=False) * d[:, None] * d[None, :])
    shrink = 1 / (xp.where(values > 0, values, xp.zeros_like(values))[:, None] + penalty[None, :])

    def apply(columns: Array) -> Array:
        """Return (A + λ)⁻¹ times columns, of which (n, t) or the one that all targets share are given."""
        return Q @ (shrink * (xp.matrix_transpose(Q) @ columns))

    ones, solved = apply(d[:, None]), apply(d[:, None] * Y)
    intercept = (d @ solved) / (d @ ones)
    iterations = xp.ones(Y.shape[1], dtype=xp.int32, device=K.device)
    return solved - ones * intercept[None, :], intercept, iterations


def _conjugate_gradients(K: Array, d: Array, Y: Array, penalty: Array) -> tuple[Array, Array, Array, Array]:
    """Return γ (n, t), b (t,), how many iterations each target took and its largest residual."""
    xp = namespace(K)
    A = _Scaled(xp.astype(K, xp.float32, copy=False), xp.astype(d, xp.float32))
    U, s = _leading(A)
    gamma, intercept = xp.zeros_like(Y), xp.zeros_like(penalty)
    iterations = np.zeros(Y.shape[1], np.int32)
    away = xp.max(xp.abs(Y - (xp.sum(Y, axis=0) / Y.shape[0])[None, :]), axis=0)
    enough = ENOUGH * away + 1e-12 * (xp.max(xp.abs(Y), axis=0) + 1)
    gap = np.inf * xp.ones_like(penalty)
    tiny = to_host(penalty < LEAST_PENALTY * xp.astype(s[0], xp.float64))
    hard: list[NDArray[np.intp]] = [np.flatnonzero(tiny)]
    going = np.flatnonzero(~tiny)
    while len(going):
        g, b, lam = take(gamma, going, 1), take(intercept, going, 0), take(penalty, going, 0)
        wanted, residual = take(enough, going, 0), take(Y, going, 1)
        if iterations.any():
            residual = _residual(K, d, residual, lam, g, b)
        size = xp.max(xp.abs(residual), axis=0)
        off = d @ g  # what rounding left of dᵀγ
        unbalanced = xp.abs(off) > BALANCE * (d @ xp.abs(g))
        unsolved, slow = size > wanted, size > LEAST_GAIN * take(gap, going, 0)
        gap = _with(gap, going, size)
        hard.append(going[to_host(unsolved & slow)])
        left = np.flatnonzero(to_host((unsolved | unbalanced) & ~slow))
        if not len(left):
            break
        going, size, lam = going[left], take(size, left, 0), take(lam, left, 0)
        right = d[:, None] * take(residual, left, 1) / size[None, :]  # float32 would lose what is small
        steps = _Steps(A, U, s, xp.astype(lam, xp.float32))
        off = xp.astype(take(off, left, 0) / size, xp.float32)
        reduction = xp.clip(SPARE * take(wanted, left, 0) / size, REDUCTION, 1.0)
        more, constant, taken = steps.solve(xp.astype(right, xp.float32), off, reduction)
        iterations[going] += taken
        gamma = _with(gamma, going, take(g, left, 1) + xp.astype(more, xp.float64) * size[None, :])
        intercept = _with(intercept, going, take(b, left, 0) + xp.astype(constant, xp.float64) * size)
    rest = np.concatenate(hard)
    if len(rest):  # so small a penalty that float32 gains nothing more
        solved, constant, _ = _factorised(K, d, take(Y, rest, 1), take(penalty, rest, 0))
        gamma, intercept = _with(gamma, rest, solved), _with(intercept, rest, constant)
        iterations[rest] += 1
        residual = _residual(K, d, take(Y, rest, 1), take(penalty, rest, 0), solved, constant)
        gap = _with(gap, rest, xp.max(xp.abs(residual), axis=0))
    return gamma, intercept, xp.asarray(iterations, device=K.device), gap


@dataclass(frozen=True, eq=False)
class _Scaled:
    """A = D K D, float32, of which there are products alone."""

    K: Array
    d: Array

    def __matmul__(self, columns: Array) -> Array:
        """Return A times columns (n, k)."""
        xp = namespace(self.K)
        return self.d[:, None] * multiplied(self.K, self.d[:, None] * columns, xp.float32)


def _leading(A: _Scaled) -> tuple[Array, Array]:
    """Return orthonormal U (n, r) and s (r,) in descending order with U S Uᵀ ≈ A, float32.

    With random Ω (n, r) and a shift ν above rounding, W = (A + ν) Ω = Q R, and A ≈ W (ΩᵀW)⁻¹ Wᵀ − ν (Nyström).
    """
    xp = namespace(A.K)
    n = A.K.shape[0]
    random = np.random.default_rng(0).standard_normal((n, _rank(n)), np.float32)
    omega = xp.asarray(random, device=A.K.device)
    shift = SHIFT * float(
        xp.sum(xp.astype(xp.linalg.diagonal(A.K), xp.float64) * xp.astype(A.d, xp.float64) ** 2)
    )
    W = A @ omega + shift * omega
    Q, R = xp.linalg.qr(W)
    core = xp.astype(xp.matrix_transpose(omega) @ W, xp.float64)
    values, V = xp.linalg.eigh((core + xp.matrix_transpose(core)) / 2)
    usable = values > SHIFT * values[-1]
    root = xp.where(
        usable, 1 / xp.sqrt(xp.where(usable, values, xp.ones_like(values))), xp.zeros_like(values)
    )
    half = xp.astype(R, xp.float64) @ (V * root[None, :])
    values, V = xp.linalg.eigh(half @ xp.matrix_transpose(half))
    values = xp.where(values > shift, values - shift, xp.zeros_like(values))
    return xp.flip(Q @ xp.astype(V, xp.float32), axis=1), xp.astype(xp.flip(values, axis=0), xp.float32)


def _rank(n: int) -> int:
    """Return the rank of the preconditioner."""
    return min(n, MOST_RANK, max(LEAST_RANK, n // RANK))


class _Steps:
    """Projected conjugate gradients on (A + λ) γ + b d = x, dᵀγ = 0, float32, of k columns with λ (k,) of their own."""

    def __init__(self, A: _Scaled, U: Array, s: Array, penalty: Array) -> None:
        xp, d = namespace(U), A.d
        self.A, self.U, self.d, self.penalty = A, U, d, penalty
        self.transposed = xp.asarray(xp.matrix_transpose(U), copy=True)
        self.share = (s[-1] + penalty)[None, :] / (s[:, None] + penalty[None, :]) - 1  # (r, k)
        self.of_d = self.preconditioned(xp.broadcast_to(d[:, None], (d.shape[0], penalty.shape[0])))
        self.dd = d @ self.of_d  # dᵀP⁻¹d, (k,)

    def preconditioned(self, X: Array) -> Array:
        """Return P⁻¹ X, (n, k)."""
        return X + multiplied(self.U, self.share * multiplied(self.transposed, X, X.dtype, FEW_ROWS), X.dtype)

    def projected(self, X: Array) -> tuple[Array, Array]:
        """Return z = P⁻¹ (x − v d), so that dᵀz = 0, and v (k,)."""
        Z = self.preconditioned(X)
        v = (self.d @ Z) / self.dd
        return Z - self.of_d * v[None, :], v

    def solve(self, R: Array, off: Array, reduction: Array) -> tuple[Array, Array, NDArray[np.int32]]:
        """Return γ (n, k) with dᵀγ = −off, b (k,) and the iterations, for right sides R (n, k).

        A column stops when its residual is `reduction`, (k,), of its first size.
        """
        xp = namespace(R)
        taken = np.zeros(R.shape[1], np.int32)
        X, b = self.of_d * (-off / self.dd)[None, :], xp.zeros_like(self.penalty)
        R = R - self.A @ X - self.penalty[None, :] * X
        Z, v = self.projected(R)
        R, b, direction = R - self.d[:, None] * v[None, :], b + v, Z
        product = xp.sum(R * Z, axis=0)
        first = xp.sum(R * R, axis=0)
        enough, most = xp.astype(reduction, xp.float32) ** 2 * first, 1e4 * first  # beyond that it diverges
        steps, columns, ended = self, np.arange(R.shape[1]), (X, b)
        for _ in range(MOST_ITERATIONS):
            squares = xp.sum(R * R, axis=0)
            going = (squares > enough) & (squares < most)
            going_here = np.flatnonzero(to_host(going))
            taken[columns[going_here]] += 1
            if not len(going_here):
                break
            if len(going_here) < FEWER * len(columns):  # products are of the columns that are left
                ended = _with(ended[0], columns, X), _with(ended[1], columns, b)
                columns, steps = columns[going_here], steps.take(going_here)
                R, X, direction = (take(x, going_here, 1) for x in (R, X, direction))
                b, product, enough, most = (take(x, going_here, 0) for x in (b, product, enough, most))
                going = take(going, going_here, 0)
            along = steps.A @ direction + steps.penalty[None, :] * direction
            curvature = xp.sum(direction * along, axis=0)
            usable = going & (curvature > 0)
            one = xp.ones_like(curvature)
            step = xp.where(usable, product / xp.where(usable, curvature, one), 0 * one)
            X, R = X + step[None, :] * direction, R - step[None, :] * along
            Z, v = steps.projected(R)
            R, b = R - steps.d[:, None] * v[None, :], b + v
            before, product = product, xp.sum(R * Z, axis=0)
            turn = xp.where(usable, product / xp.where(before > 0, before, one), 0 * one)
            direction = Z + turn[None, :] * direction
        return _with(ended[0], columns, X), _with(ended[1], columns, b), taken

    def take(self, columns: NDArray[np.intp]) -> "_Steps":
        """Return those of some columns."""
        part = copy(self)
        part.share, part.of_d = take(self.share, columns, 1), take(self.of_d, columns, 1)
        part.penalty, part.dd = take(self.penalty, columns, 0), take(self.dd, columns, 0)
        return part


def _with(total: Array, columns: NDArray[np.intp], values: Array) -> Array:
    """Return a total with other values at some places of its last axis."""
    k = len(columns)
    place = k + np.arange(total.shape[-1])
    place[columns] = np.arange(k)
    return take(namespace(total).concat([values, total], axis=-1), place, total.ndim - 1)


def _penalty_and_weights(C: Array | float, K: Array, n: int, t: int) -> tuple[Array, Array]:
    """Return λ (t,) and the row weights 1/h (n,), the largest of which is 1."""
    xp = namespace(K)
    box = xp.asarray(C, dtype=xp.float64, device=K.device)
    box = xp.broadcast_to(box if box.ndim == 2 else xp.reshape(box, (1, -1)), (n, t))
    largest = xp.max(box, axis=0)
    weight = box[:, 0] / largest[0]
    if not bool(xp.all(xp.abs(box - weight[:, None] * largest[None, :]) <= 1e-9 * largest[None, :])):
        raise InputError(ONE_FACTORISATION)
    return 1 / largest, weight
