r"""Kernel ridge regression on landmarks (Nyström): for so many rows that their Gram matrix does not fit in memory.

With s of the n rows as landmarks S, K is replaced by K_S W⁻¹ K_Sᵀ, where K_S = K(·, S) is (n, s) and W = K(S, S). With
W = V diag(ω) Vᵀ, those eigenvalues that rounding leaves, and φ = K_S V ω^(−½), (n, r), the fit of a target is

    min over (v, b)  ½ |v|² + Σ_i w_i (φ_i v + b − y_i)² / 2λ        f(x) = K(x, S) c + b,   c = V ω^(−½) v

as in `rapids_pipeline.svr.kernel_ridge` for the replaced kernel, w_i = 1/h_i. With φ and y less their means weighted by
w, one factorisation of Σ_i w_i φ_iᵀφ_i serves all targets, whatever their λ: about n s² operations.

Landmarks are drawn block by block, each row with a probability in proportion to what those before it leave of K_ii
(randomly pivoted Cholesky), until they leave little of the trace of K.

Sources: Williams and Seeger, Using the Nyström Method to Speed Up Kernel Machines (2001); Chen, Epperly, Tropp and
Webber, Randomly pivoted Cholesky: practical approximation of a kernel matrix with few entry evaluations (2025).
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from rapids_pipeline.backend.arrays import Array, Float64, Indices, multiplied, namespace, to_host
from rapids_pipeline.svr.dual import take

LEFT = 1e-3
"""Share of the trace of K at which there are enough landmarks."""
MOST_LANDMARKS = 4000
"""Their cost grows with their square. Where K fits, all rows are better and quicker: docs/methods/scale.md."""
BLOCK = 250
"""Landmarks that are drawn at a time."""
ROWS_AT_ONCE = 4096
ROUNDING = 1e-6
"""Eigenvalues below this share of the largest are what rounding to float32 leaves."""


@dataclass(frozen=True)
class LandmarkSolution:
    """A fit on landmarks, on the host.

    Attributes
    ----------
    landmarks : ndarray of int, (s,)
        Rows, ascending.
    coef : ndarray of float64, (s, t)
        c of every target.
    intercept : ndarray of float64, (t,)
    left : float
        Share of the trace of K that the landmarks leave.
    """

    landmarks: Indices
    coef: Float64
    intercept: Float64
    left: float


def solve(
    columns: Callable[[Indices], Array],
    diagonal: Float64,
    Y: Array,
    *,
    penalty: Float64,
    weight: Float64,
    most: int = MOST_LANDMARKS,
    left: float = LEFT,
    seed: int = 0,
) -> LandmarkSolution:
    """Choose landmarks and solve every target.

    Parameters
    ----------
    columns : callable
        Rows S → K(·, S), (n, len(S)) float32, in the library of `Y`.
    diagonal : ndarray of float64, (n,)
        K_ii.
    Y : array, (n, t)
    penalty : ndarray of float64, (t,)
        λ of each target, positive.
    weight : ndarray of float64, (n,)
        w of each row, positive.
    most : int
        Landmarks at most.
    left : float
        As `LEFT`.
    seed : int
        Of the draws.
    """
    xp = namespace(Y)
    chosen, K_S, share = _landmarks(columns, diagonal, min(most, len(diagonal)), left, seed)
    R = _root(take(K_S, chosen, 0), 0.0)  # V ω^(−½), (s, r)
    w = xp.asarray(weight / weight.sum(), device=Y.device)
    Y = xp.astype(Y, xp.float64)
    mean_K, mean_y = w @ xp.astype(K_S, xp.float64), w @ Y
    r = R.shape[1]
    zeros = functools.partial(xp.zeros, dtype=xp.float64, device=Y.device)
    gram, cross = zeros((r, r)), zeros((r, Y.shape[1]))
    n = K_S.shape[0]
    for start in range(0, n, ROWS_AT_ONCE):
        some = slice(start, min(start + ROWS_AT_ONCE, n))
        phi = multiplied(xp.astype(K_S[some, :], xp.float64) - mean_K[None, :], R, xp.float64)
        weighed = xp.matrix_transpose(phi * w[some, None])
        gram = gram + multiplied(weighed, phi, xp.float64)
        cross = cross + multiplied(weighed, Y[some, :] - mean_y[None, :], xp.float64)
    values, Q = xp.linalg.eigh(gram * float(weight.sum()))
    values = xp.where(values > 0, values, xp.zeros_like(values))
    lam = xp.asarray(penalty, device=Y.device)
    solved = (xp.matrix_transpose(Q) @ cross) * float(weight.sum()) / (values[:, None] + lam[None, :])
    coef = R @ (Q @ solved)
    return LandmarkSolution(chosen, to_host(coef), to_host(mean_y - mean_K @ coef), share)


def _landmarks(
    columns: Callable[[Indices], Array], diagonal: Float64, most: int, left: float, seed: int
) -> tuple[Indices, Array, float]:
    """Return landmarks (s,), K_S (n, s) float32, and the share of the trace that they leave."""
    rng, n, total = np.random.default_rng(seed), len(diagonal), float(diagonal.sum())
    rest, chosen = diagonal.astype(np.float64), np.empty(0, dtype=np.intp)
    made: list[Array] = []
    kept: list[Array] = []  # Σ L Lᵀ over these blocks is what the landmarks keep of K
    while len(chosen) < most and rest.sum() > left * total:
        wanted = min(BLOCK, most - len(chosen), int((rest > 0).sum()))
        drawn = np.sort(rng.choice(n, wanted, replace=False, p=rest / rest.sum()))
        new = columns(drawn)
        xp = namespace(new)
        made.append(new)
        for L in kept:
            new = new - multiplied(L, xp.matrix_transpose(take(L, drawn, 0)), xp.float32)
        L = multiplied(
            new, xp.astype(_root(take(new, drawn, 0), ROUNDING * total / n), xp.float32), xp.float32
        )
        kept.append(L)
        chosen = np.concatenate([chosen, drawn])
        rest = np.maximum(rest - to_host(xp.sum(xp.astype(L, xp.float64) ** 2, axis=1)), 0.0)
        rest[chosen] = 0.0
    order = np.argsort(chosen)
    K_S = take(namespace(made[0]).concat(made, axis=1), order, 1)
    return chosen[order], K_S, float(rest.sum()) / total


def _root(W: Array, least: float) -> Array:
    """Return V ω^(−½) of a positive semidefinite W = V diag(ω) Vᵀ, float64, without eigenvalues that are rounding."""
    xp = namespace(W)
    W = xp.astype(W, xp.float64)
    values, V = xp.linalg.eigh((W + xp.matrix_transpose(W)) / 2)
    usable = np.flatnonzero(to_host(values > max(least, ROUNDING * float(values[-1]))))
    return take(V, usable, 1) / xp.sqrt(take(values, usable, 0))[None, :]
