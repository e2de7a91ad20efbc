"""When an epsilon-SVR's dual is solved: feasibility, libsvm's stopping rule and the intercept.

Everything is array API code, all targets (columns) at once; `box` (bound on |β|) and `tube` (ε) are numbers
broadcast as (1 or n, 1 or n_targets).

Source: Chang and Lin, LIBSVM, ACM TIST 2 (2011), sections 4.1.2 and 4.1.5.
"""

from rapids_pipeline.backend.arrays import Array, namespace
from rapids_pipeline.svr.solution import DualSolution

SUM_TOLERANCE = 2e-5
"""Largest |Σβ|, relative to C, that counts as zero: the rounding of float32 sums."""


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
    """Return libsvm's U and L for every target (column), from f = y − Kβ at a feasible β = Z.

    U = max over β_i < C of f_i − (ε if β_i ≥ 0 else −ε)
    L = min over β_i > −C of f_i − (ε if β_i > 0 else −ε)

    β is optimal within tol when U − L ≤ tol.
    """
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
