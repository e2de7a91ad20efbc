"""Solutions of many epsilon-SVR duals, and when they are optimal: feasibility, libsvm's stopping rule, intercept.

With β = α − α* and f = y − Kβ a target's dual is solved within tol where β is feasible and

    U = max over β_i < C of f_i − (ε if β_i ≥ 0 else −ε)
    L = min over β_i > −C of f_i − (ε if β_i > 0 else −ε)         U − L ≤ tol

Everything is array API code, all targets (columns) at once; `box` (bound on |β|) and `tube` (ε) are numbers
broadcast as (1 or n, 1 or n_targets).

Source: Chang and Lin, LIBSVM, ACM TIST 2 (2011), sections 4.1.2 and 4.1.5.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from rapids_pipeline.backend.arrays import Array, namespace

SUM_TOLERANCE = 2e-5
"""Largest |Σβ|, relative to C, that counts as zero: the rounding of float32 sums."""
VECTORS = ("intercept", "n_iter", "gap", "converged")


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
        vectors = {name: xp.concat([getattr(part, name) for part in parts]) for name in VECTORS}
        return cls(dual_coef=xp.concat([part.dual_coef for part in parts], axis=1), **vectors)

    def take(self, targets: Array) -> "DualSolution":
        """Return the solutions of some targets, in the order of an index array of any library."""
        xp = namespace(self.dual_coef)
        targets = xp.asarray(targets, device=self.dual_coef.device)
        vectors = {name: xp.take(getattr(self, name), targets) for name in VECTORS}
        return DualSolution(dual_coef=xp.take(self.dual_coef, targets, axis=1), **vectors)

    def astype(self, dtype: Any) -> "DualSolution":
        """Return the solution with its real numbers in another dtype."""
        xp = namespace(self.dual_coef)
        real = {name: xp.astype(getattr(self, name), dtype) for name in ("dual_coef", "intercept", "gap")}
        return replace(self, **real)


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
