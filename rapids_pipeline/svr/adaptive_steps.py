r"""Douglas–Rachford with a step of its own for every target: the second pass, for targets that the shared step fails.

One ρ serves almost every target (see `rapids_pipeline.svr.douglas_rachford`); it fails where the multipliers
y − Kβ are far from ρC in size, as with targets a hundred times C or a Gram matrix that is nearly constant.
With H = I − 11ᵀ/n and the eigenvectors W and eigenvalues λ of HKH, the operator of *any* ρ is two products,

    R_ρ x = H W diag(ρ / (λ + ρ)) Wᵀ H x,

so each target adapts ρ by its own residuals, in float64: where β moves relatively more (p) or less than the
multipliers (d), ρ grows or shrinks by √(p/d).

    p = ‖G − Z‖∞ / ‖Z‖∞        d = ρ ‖Z⁺ − Z‖∞ / max(‖HKG‖∞, ‖Hy‖∞)

Source: Boyd et al., Found. Trends Mach. Learn. 3 (2011), section 3.4.1, in the relative form of OSQP (Stellato
et al., Math. Prog. Comp. 12, 2020, section 5.2).
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from rapids_pipeline.backend.arrays import Array, namespace, to_host
from rapids_pipeline.svr.optimality import clipped, judged
from rapids_pipeline.svr.solution import DualSolution

RELAXATION = 1.9
CHECK_EVERY = 20
LARGEST_CHANGE = 10.0
SMALLEST_CHANGE = 2.0
TINY = 1e-300


@dataclass(frozen=True)
class CentredSpectrum:
    """Eigenvalues `values` (n,) and eigenvectors `vectors` (n, n) of HKH, float64, with K itself."""

    K: Array
    values: Array
    vectors: Array

    @classmethod
    def of(cls, K: Array) -> "CentredSpectrum":
        """Decompose a Gram matrix (n, n), float64."""
        xp = namespace(K)
        centred = K - xp.mean(K, axis=0, keepdims=True)
        centred = centred - xp.mean(centred, axis=1, keepdims=True)
        values, vectors = xp.linalg.eigh((centred + xp.matrix_transpose(centred)) / 2)
        return cls(K, xp.where(values > 0, values, xp.zeros_like(values)), vectors)

    def resolve(self, x: Array, rho: Array) -> Array:
        """Return R_ρ x for each column of `x` (n, t) with its own ρ (1, t)."""
        xp = namespace(x)
        x = x - xp.mean(x, axis=0, keepdims=True)
        weights = rho / (self.values[:, None] + rho)
        G = self.vectors @ (weights * (xp.matrix_transpose(self.vectors) @ x))
        return G - xp.mean(G, axis=0, keepdims=True)


def refine(
    spectrum: CentredSpectrum,
    Y: Array,
    box: Array,
    tube: Array,
    start: DualSolution,
    *,
    tol: float,
    max_iter: int,
) -> DualSolution:
    """Go on from `start` until every target is within `tol` or `max_iter` more iterations are done.

    Parameters
    ----------
    spectrum : CentredSpectrum
    Y : array, (n, t)
    box, tube : array, (1 or n, 1 or t)
    start : DualSolution
        Of the same targets; its iterations are counted in.

    Returns
    -------
    DualSolution
        Float64; where a target does not get within `tol`, the point of the last iteration.
    """
    state = _State.started(spectrum, Y, box, tube, start)
    pending = np.arange(Y.shape[1])
    order: list[NDArray[np.intp]] = []
    finished: list[DualSolution] = []
    for iteration in range(1, max_iter + 1):
        Z = state.shrunk(state.v)
        check = iteration % CHECK_EVERY == 0 or iteration == max_iter
        if check:
            point = judged(spectrum.K, state.Y, Z, state.box, state.tube, iteration, tol)
            done = to_host(point.converged) | (iteration == max_iter)
            if done.any():
                finished.append(_taken(point, np.flatnonzero(done)))
                order.append(pending[done])
                if done.all():
                    break
                keep = np.flatnonzero(~done)
                pending, state, Z = pending[keep], state.take(keep), _columns(Z, keep)
        G = spectrum.resolve(2 * Z - state.v + state.Y / state.rho, state.rho)
        state = replace(state, v=state.v + RELAXATION * (G - Z))
        if check:
            state = state.adapted(spectrum.K, Z, G)
    joined = _taken(DualSolution.joined(finished), np.argsort(np.concatenate(order)))
    return replace(joined, n_iter=joined.n_iter + start.n_iter)


@dataclass(frozen=True)
class _State:
    """The targets under way, float64: Y and v (n, t), box and tube (1 or n, t), ρ (1, t)."""

    Y: Array
    v: Array
    box: Array
    tube: Array
    rho: Array

    @classmethod
    def started(
        cls, spectrum: CentredSpectrum, Y: Array, box: Array, tube: Array, start: DualSolution
    ) -> "_State":
        """Begin at a solution's β with the multipliers y − Kβ − b, and ρ the mean eigenvalue."""
        xp = namespace(Y)
        Y, box, tube, beta, b = (
            xp.astype(x, xp.float64) for x in (Y, box, tube, start.dual_coef, start.intercept)
        )
        n, n_targets = Y.shape
        mean = max(float(xp.sum(spectrum.values)) / n, 1e-12)
        rho = xp.full((1, n_targets), mean, dtype=xp.float64, device=Y.device)
        box, tube = (xp.broadcast_to(x, (x.shape[0], n_targets)) for x in (box, tube))
        return cls(Y, beta + (Y - spectrum.K @ beta - b[None, :]) / rho, box, tube, rho)

    def take(self, keep: NDArray[np.intp]) -> "_State":
        """Return the state of some of the targets."""
        return _State(*(_columns(x, keep) for x in (self.Y, self.v, self.box, self.tube, self.rho)))

    def shrunk(self, v: Array) -> Array:
        """Return Z = clip(soft(v, ε/ρ), −C, C)."""
        threshold = self.tube / self.rho
        return clipped(v - clipped(v, -threshold, threshold), -self.box, self.box)

    def adapted(self, K: Array, Z: Array, G: Array) -> "_State":
        """Balance each target's residuals: change ρ, and v so that the multipliers ρ (v − Z) stay."""
        xp = namespace(Z)
        following = self.shrunk(self.v)
        forces, targets = _spread(K @ G), _spread(self.Y)
        primal = _largest(G - Z) / (_largest(Z) + TINY)
        dual = self.rho * _largest(following - Z) / (xp.where(forces > targets, forces, targets) + TINY)
        change = xp.clip(xp.sqrt((primal + TINY) / (dual + TINY)), 1 / LARGEST_CHANGE, LARGEST_CHANGE)
        small = (change < SMALLEST_CHANGE) & (change > 1 / SMALLEST_CHANGE)
        change = xp.where(small, xp.ones_like(change), change)
        return replace(self, v=following + (self.v - following) / change, rho=self.rho * change)


def _largest(x: Array) -> Array:
    xp = namespace(x)
    return xp.max(xp.abs(x), axis=0, keepdims=True)


def _spread(x: Array) -> Array:
    return _largest(x - namespace(x).mean(x, axis=0, keepdims=True))


def _columns(x: Array, keep: NDArray[np.intp]) -> Array:
    xp = namespace(x)
    return xp.take(x, xp.asarray(keep, device=x.device), axis=1)


def _taken(solution: DualSolution, which: NDArray[np.intp]) -> DualSolution:
    xp = namespace(solution.dual_coef)
    return solution.take(xp.asarray(which, device=solution.dual_coef.device))
