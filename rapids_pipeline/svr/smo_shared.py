"""SMO where all targets share one Gram matrix: what they have in common is done by matrix products.

    start   3 steps of Douglas–Rachford (`rapids_pipeline.svr.douglas_rachford`), float32, many targets at once;
            they save about 40 % of the pair steps
    F       Y − βK of all targets of a chunk, one product
    pairs   SMO in float32 from β and F, target by target, until U − L ≤ 0.3 tol
    check   F again from the new β, in float64

Targets that the check finds above 0.6 tol go on by themselves (`smo_kernels.solve_chunk`).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rapids_pipeline.svr.smo_problem import Floats

RELAXATION = 1.9
STEPS = 3
RHO = 0.25
"""ρ of the start, relative to the mean eigenvalue of K on the space 1ᵀβ = 0."""
ROWS_PER_TARGET = 2
"""The start needs an inverse of n³ operations: made where there is at least one target for so many rows."""


SLACK = 2.0
"""A target is done where U − L in float64 is within this times what the float32 iterations aimed at."""


@dataclass(frozen=True)
class WarmStart:
    """K and the operator R of Douglas–Rachford in float32, and ρ."""

    K: NDArray[np.float32]
    R: NDArray[np.float32]
    rho: float

    @classmethod
    def build(cls, K: Floats, n_targets: int) -> "WarmStart | None":
        """Invert once for all targets; None where that does not pay or K + ρI is close to singular."""
        n = K.shape[0]
        scale = float(np.trace(K)) / n - float(K.mean())
        if n_targets * ROWS_PER_TARGET < n or not scale > 1e-9 * float(np.abs(K).max()):
            return None
        rho = RHO * scale
        try:
            inverse = np.linalg.inv(K + rho * np.eye(n))
        except np.linalg.LinAlgError:
            return None
        ones = inverse.sum(axis=1)
        R = (rho * (inverse - np.outer(ones, ones) / ones.sum())).astype(np.float32)
        return cls(K.astype(np.float32), R, rho) if np.isfinite(R).all() else None

    def betas(self, Y: Floats, box: Floats, epsilon: Floats) -> Floats:
        """Return β after `STEPS` steps from 0, not feasible yet; all arrays are (targets, rows)."""
        step = (Y / self.rho).astype(np.float32)
        box, width = box.astype(np.float32), (epsilon / self.rho).astype(np.float32)[:, None]
        v = step @ self.R
        for remaining in reversed(range(STEPS)):
            Z = np.clip(v, -width, width)
            np.subtract(v, Z, out=Z)
            np.clip(Z, -box, box, out=Z)
            if not remaining:
                break
            point = 2 * Z
            point -= v
            point += step
            point = point @ self.R
            point -= Z
            point *= np.float32(RELAXATION)
            v += point
        return np.asarray(Z, dtype=np.float64)


def solve_part(
    K: Floats, Y: Floats, box: Floats, epsilon: Floats, how: tuple[float, int], work: Any,
    outcome: Any, warm: WarmStart | None,
) -> NDArray[np.intp]:  # fmt: skip
    """Solve a chunk of targets `Y` (targets, rows) from outcome.dual_coef, in place.

    `box` is (1 or targets, 1 or rows), `how` holds tol and max_iter. Returns the targets that are not done.
    """
    from rapids_pipeline.svr import smo_shared_kernels as kernels  # imports numba
    from rapids_pipeline.svr.smo_steps import AIM, FLOAT32_ROUNDING

    tol, max_iter = how
    beta = outcome.dual_coef
    aim = AIM * tol
    centre = Y.mean(axis=1)
    Y = Y - centre[:, None]
    rounding = FLOAT32_ROUNDING * np.abs(Y).max(axis=1)
    if warm is not None and max_iter > 0:
        beta[:] = warm.betas(Y, box, epsilon)
    kernels.make_chunk_feasible(beta, box)
    # where there is a warm start, float32 will do: F is only where the iterations begin
    F = Y - (beta @ K if warm is None else beta.astype(np.float32) @ warm.K)
    goal = np.maximum(0.95 * aim, rounding)
    limit = min(max_iter, 20 * Y.shape[1] + 1000)
    kernels.descend_chunk(F, box, epsilon, goal, limit, work, beta, outcome.n_iter)
    np.subtract(Y, beta @ K, out=F)
    kernels.judge_chunk(F, box, epsilon, beta, outcome.gap, outcome.intercept)
    outcome.intercept[:] += centre
    return np.flatnonzero((outcome.gap > SLACK * aim) & (outcome.n_iter < max_iter))
