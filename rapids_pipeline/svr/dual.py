r"""The dual problem of an SVR: Gram matrices over all rows, feasible points, and when a solution is optimal.

For one target, with β = α − α*:

    min_β ½ βᵀKβ − yᵀβ + ε‖β‖₁    subject to  1ᵀβ = 0,  |β_i| ≤ C_i

    linear   K_ij = x_iᵀ x_j
    rbf      K_ij = exp(−γ ‖x_i − x_j‖²)

What all folds share (the squared distances or inner products) is computed once in float64; a fold's Gram is a
sub-matrix of it, with the fold's own γ. `gamma="scale"` is scikit-learn's 1 / (n_features · Var(X)), the
variance taken over all entries of the fold's training rows only, so that nothing held out enters.

Every engine works on a dense Gram matrix, which grows with the square of the rows (20,000 rows: 3.2 GB in float64),
and an iteration of any of them reads all of it for every target. Beyond what fits in memory a fit stops before anything
is built, and says what would be needed and what fits.

With f = y − Kβ a target's dual is solved within tol where β is feasible and

    U = max over β_i < C of f_i − (ε if β_i ≥ 0 else −ε)
    L = min over β_i > −C of f_i − (ε if β_i > 0 else −ε)         U − L ≤ tol

Everything is array API code, all targets (columns) at once; `box` (bound on |β|) and `tube` (ε) are numbers
broadcast as (1 or n, 1 or n_targets).

Source: Chang and Lin, LIBSVM, ACM TIST 2 (2011), sections 4.1.2 and 4.1.5.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from math import isqrt
from typing import Any, Literal

from rapids_pipeline.backend.arrays import Array, Indices, available_bytes, gigabytes, namespace
from rapids_pipeline.backend.errors import InputError

Kernel = Literal["rbf", "linear", "precomputed"]
Gamma = float | Literal["scale", "auto"]

TABLE_BYTES = 33
"""For each pair of rows of a `GramTable` while it is built: inner products, distances, a mask and the result (measured
at 3,000 rows: 32.3; a whole fit by douglas-rachford 50)."""
LEAST_WORK_BYTES = 20
"""What the most frugal engine (smo) takes for each entry of the training Gram matrix."""
SUM_TOLERANCE = 2e-5
"""Largest |Σβ|, relative to C, that counts as zero: the rounding of float32 sums."""


def take(x: Array, positions: Any, axis: int) -> Array:
    """Return the entries at some positions along an axis, given as an index array of any library."""
    xp = namespace(x)
    return xp.take(x, xp.asarray(positions, device=x.device), axis=axis)


# --- Gram matrices --------------------------------------------------------------------------------------------


def squared_distances(X: Array, Z: Array) -> Array:
    """Return ‖x_i − z_j‖², shape (len(X), len(Z)), in the dtype of the input and never negative."""
    xp = namespace(X, Z)
    squares_x = xp.sum(X * X, axis=1)
    squares_z = xp.sum(Z * Z, axis=1)
    distances = squares_x[:, None] + squares_z[None, :] - 2 * (X @ xp.matrix_transpose(Z))
    return xp.where(distances > 0, distances, xp.zeros_like(distances))


def kernel_between(X: Array, Z: Array, kernel: Kernel, gamma: float) -> Array:
    """Return K between rows of X and rows of Z, (len(X), len(Z)); for "precomputed", X itself."""
    if kernel == "precomputed":
        return X
    xp = namespace(X, Z)
    if kernel == "linear":
        return X @ xp.matrix_transpose(Z)
    return xp.exp(-gamma * squared_distances(X, Z))


def require_gamma(gamma: Any) -> None:
    """Raise InputError unless γ is a positive number, "scale" or "auto"."""
    if gamma not in ("scale", "auto") and (isinstance(gamma, str) or not 0 < float(gamma) < float("inf")):
        raise InputError(f"gamma must be positive, 'scale' or 'auto', not {gamma!r}")


def scale_gamma(X: Array) -> float:
    """Return scikit-learn's gamma="scale", 1 / (n_features · Var(X)), or 1 where X is constant."""
    xp = namespace(X)
    variance = float(xp.var(X))
    return 1.0 / (X.shape[1] * variance) if variance > 0 else 1.0


class GramTable:
    """One kernel over a fixed set of rows, of which any rectangle can be had.

    Parameters
    ----------
    X : array, (n_rows, n_features)
        Features of every row, training and test; for "precomputed" the (n_rows, n_rows) Gram matrix itself.
    kernel : {"rbf", "linear", "precomputed"}
    gamma : float, "scale" or "auto"
        For "rbf": γ, or the rule that takes it from the training rows of each fold.

    Raises
    ------
    ValueError
        Unknown kernel, γ not positive, a precomputed matrix that is not square, or more rows than memory holds.
    """

    def __init__(self, X: Array, kernel: Kernel = "rbf", gamma: Gamma = "scale") -> None:
        if kernel not in ("rbf", "linear", "precomputed"):
            raise ValueError(f"kernel must be rbf, linear or precomputed, not {kernel!r}")
        require_gamma(gamma)
        if kernel == "precomputed" and X.shape[0] != X.shape[1]:
            raise ValueError(f"a precomputed Gram matrix must be square, not of shape {tuple(X.shape)}")
        require_room(X, X.shape[0], X.shape[0], LEAST_WORK_BYTES)
        xp = namespace(X)
        self.X = xp.astype(X, xp.float64)
        self.kernel = kernel
        self.gamma = gamma
        rbf = kernel == "rbf"
        self._shared = (
            squared_distances(self.X, self.X) if rbf else kernel_between(self.X, self.X, kernel, 1.0)
        )

    def gamma_of(self, training_rows: Indices) -> float:
        """Return γ for a fold that trains on `training_rows`."""
        if self.gamma not in ("scale", "auto"):
            return float(self.gamma)
        if self.kernel != "rbf":
            return 1.0
        if self.gamma == "auto":
            return 1.0 / float(self.X.shape[1])
        return scale_gamma(take(self.X, training_rows, 0))

    def gram(self, rows: Indices, columns: Indices, gamma: float) -> Array:
        """Return K over rows × columns, float64, (len(rows), len(columns)); γ matters for "rbf" only."""
        xp = namespace(self._shared)
        part = take(take(self._shared, rows, 0), columns, 1)
        return xp.exp(-gamma * part) if self.kernel == "rbf" else part


def require_room(like: Array, n_rows: int, n_training: int, work_bytes: int) -> None:
    """Stop where the Gram matrix and the work on it do not fit in what is free where `like` lives.

    That is a table over `n_rows` rows, and an engine's work on `n_training` of them, `work_bytes` for each entry of the
    training Gram matrix (`rapids_pipeline.svr.engines.Engine`); the table keeps 8 bytes while the engine works.

    Raises
    ------
    InputError
        With the size needed, the size available, and what to do.
    """
    needed = max(TABLE_BYTES * n_rows**2, 8 * n_rows**2 + work_bytes * n_training**2)
    free = available_bytes(like)
    if needed <= free:
        return
    fits = isqrt(int(free / max(TABLE_BYTES, 8 + work_bytes)))
    raise InputError(
        f"an SVR on {n_training:,} training rows ({n_rows:,} rows in all) needs {gigabytes(needed)} of memory for "
        f"its Gram matrix, and {gigabytes(free)} are available, enough for about {fits:,} rows: train on fewer "
        "rows, use engine='smo' (which needs the least), or approximate the kernel "
        "(sklearn.kernel_approximation.Nystroem with sklearn.svm.LinearSVR)"
    )


# --- solutions ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DualSolution:
    """Solutions of the duals of many epsilon-SVRs on n rows, arrays in the library of the input.

    Attributes
    ----------
    dual_coef : array, (n, n_targets)
        β = α − α*, feasible: each column sums to zero and stays in its box.
    intercept : array, (n_targets,)
        b of the prediction K_test β + b.
    n_iter : array of int32, (n_targets,)
    gap : array, (n_targets,)
        libsvm's U − L at `dual_coef`, in the unit of the targets; optimal within tol when gap ≤ tol.
    converged : array of bool, (n_targets,)
    """

    dual_coef: Array
    intercept: Array
    n_iter: Array
    gap: Array
    converged: Array

    @classmethod
    def joined(cls, parts: Sequence["DualSolution"]) -> "DualSolution":
        """Return the solutions of consecutive groups of targets as one."""
        xp = namespace(parts[0].dual_coef)
        return cls(*(xp.concat([getattr(p, field.name) for p in parts], axis=-1) for field in fields(cls)))

    def mapped(self, change: Callable[[Array], Array]) -> "DualSolution":
        """Return the solution with every array changed."""
        return DualSolution(*(change(getattr(self, field.name)) for field in fields(self)))

    def take(self, targets: Array) -> "DualSolution":
        """Return the solutions of some targets, in the order of an index array of any library."""
        return self.mapped(lambda x: take(x, targets, -1))


def judged(K: Array, Y: Array, Z: Array, box: Array, tube: Array, iteration: int, tol: float) -> DualSolution:
    """Return the feasible point nearest an iterate Z, with its optimality gap and intercept.

    Targets and box as in `DualSolution`; `iteration` is what `n_iter` will say.
    """
    xp = namespace(Y)
    Z = make_feasible(Z, box)
    F = Y - K @ Z
    U, L = optimality_gap(F, Z, box, tube)
    gap = U - L
    return DualSolution(
        dual_coef=Z,
        intercept=intercept_of(F, Z, box, tube, U, L),
        n_iter=xp.full(gap.shape, iteration, dtype=xp.int32, device=gap.device),
        gap=gap,
        converged=(gap <= tol) & (xp.abs(xp.sum(Z, axis=0)) <= SUM_TOLERANCE * xp.max(box, axis=0)),
    )


def optimality_gap(F: Array, Z: Array, box: Array, tube: Array) -> tuple[Array, Array]:
    """Return libsvm's U and L for every target (column), from f = y − Kβ at a feasible β = Z."""
    xp = namespace(F, Z)
    infinity = xp.asarray(float("inf"), dtype=F.dtype, device=F.device)
    up = F - xp.where(Z >= 0, tube, -tube)
    down = F - xp.where(Z > 0, tube, -tube)
    return (
        xp.max(xp.where(box > Z, up, -infinity), axis=0),
        xp.min(xp.where(-box < Z, down, infinity), axis=0),
    )


def intercept_of(F: Array, Z: Array, box: Array, tube: Array, U: Array, L: Array) -> Array:
    """Return each target's b: the mean of f − ε·sign(β) over free support vectors, else (U + L)/2."""
    xp = namespace(F, Z)
    free = xp.astype((Z != 0) & (xp.abs(Z) < box), F.dtype)
    count = xp.sum(free, axis=0)
    mean = xp.sum(free * (F - tube * xp.sign(Z)), axis=0) / xp.where(count > 0, count, xp.ones_like(count))
    return xp.where(count > 0, mean, (U + L) / 2)


def make_feasible(Z: Array, box: Array, rounds: int = 8) -> Array:
    """Return Z changed so that each column sums to zero, inside the box and with unchanged signs.

    The excess is spread over the free coordinates (0 < |Z| < C), clipped, and what is left spread again;
    a column without free coordinates spreads it over all that may move.
    """
    xp = namespace(Z)
    rounding = 4 * float(xp.finfo(Z.dtype).eps) * float(xp.max(box)) * Z.shape[0] ** 0.5
    upper, lower = xp.where(Z < 0, 0.0 * Z, box), xp.where(Z > 0, 0.0 * Z, -box)
    for _ in range(rounds):
        excess = xp.sum(Z, axis=0)
        if float(xp.max(xp.abs(excess))) <= rounding:
            break
        free = (Z > lower) & (Z < upper) & (Z != 0)
        count = xp.sum(xp.astype(free, Z.dtype), axis=0)
        if not bool(xp.all(count > 0)):
            movable = xp.where(excess > 0, Z > lower, Z < upper)
            free = xp.where(count > 0, free, movable)
            count = xp.sum(xp.astype(free, Z.dtype), axis=0)
        share = excess / xp.where(count > 0, count, xp.ones_like(count))
        Z = clipped(Z - xp.where(free, share, xp.zeros_like(share)), lower, upper)
    return Z


def clipped(x: Array, low: Array, high: Array) -> Array:
    """Return min(max(x, low), high): two passes, and on a GPU no word from the device.

    `array_api_compat` makes the `clip` of cupy of two masked assignments, and cupy must ask the device how many entries
    a mask has before it can go on.
    """
    xp = namespace(x)
    return xp.minimum(xp.maximum(x, low), high)
