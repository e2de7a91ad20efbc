r"""Kernel ridge regression with an intercept, of all targets from one factorisation, each with a penalty of its own.

    min over (β, b) of  ½ βᵀKβ + Σ_i (λ h_i / 2) β_i² − yᵀβ,   1ᵀβ = 0

which is the dual of min ½‖f‖² + Σ_i (f(x_i) + b − y_i)² / (2 λ h_i): squared errors in the place of the
epsilon-insensitive ones of the other engines, with 1/λ in the place of C (the least-squares SVM) and 1/h_i in that of
the sample weights. With H = diag(h), D = H^(−½) and D K D = Q Λ Qᵀ,

    M = D Q (Λ + λ)⁻¹ Qᵀ D,   b = 1ᵀM y / 1ᵀM 1,   β = M (y − b)

so the factorisation does not depend on λ, and t targets cost two products of (n × n) with (n × t).
Sources: Suykens and Vandewalle, Neural Processing Letters 9 (1999) 293; Rifkin and Lippert, Notes on Regularized Least
Squares (2007).
"""

from rapids_pipeline.backend.arrays import Array, namespace
from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.backend.progress import Progress
from rapids_pipeline.svr.dual import DualSolution

ROUNDING = 1e-6
"""Residual, relative to 1 + the largest |y| of a target, up to which it counts as solved."""
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
        Positive semidefinite Gram matrix; eigenvalues below 0 count as 0.
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
    K, Y = xp.astype(K, xp.float64), xp.astype(Y, xp.float64)
    n, t = Y.shape
    penalty, weight = _penalty_and_weights(C, K, n, t)
    root = xp.sqrt(weight)
    values, Q = xp.linalg.eigh(K * root[:, None] * root[None, :])
    shrink = 1 / (xp.where(values > 0, values, xp.zeros_like(values))[:, None] + penalty[None, :])

    def apply(right: Array) -> Array:
        """Return M times columns, of which (n, t) or the one that all targets share are given."""
        return root[:, None] * (Q @ (shrink * (xp.matrix_transpose(Q) @ (root[:, None] * right))))

    ones = apply(xp.ones((n, 1), dtype=xp.float64, device=K.device))
    solved = apply(Y)
    intercept = xp.sum(solved, axis=0) / xp.sum(ones, axis=0)
    beta = solved - ones * intercept[None, :]
    residual = K @ beta + penalty[None, :] / weight[:, None] * beta + intercept[None, :] - Y
    gap = xp.max(xp.abs(residual), axis=0)
    progress.advance()
    solved_well = gap <= ROUNDING * (xp.max(xp.abs(Y), axis=0) + 1)
    return DualSolution(beta, intercept, xp.ones(t, dtype=xp.int32, device=K.device), gap, solved_well)


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
