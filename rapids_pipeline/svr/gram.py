"""Gram matrices over all rows, computed once and sub-indexed for every fold.

    linear   K_ij = x_iᵀ x_j
    rbf      K_ij = exp(−γ ‖x_i − x_j‖²)

What all folds share (the squared distances or inner products) is computed once in float64; a fold's Gram is a
sub-matrix of it, with the fold's own γ. `gamma="scale"` is scikit-learn's 1 / (n_features · Var(X)), the
variance taken over all entries of the fold's training rows only, so that nothing held out enters.
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from rapids_pipeline.backend.arrays import Array, namespace
from rapids_pipeline.svr.memory import LEAST_WORK_BYTES, require_room

Kernel = Literal["rbf", "linear", "precomputed"]
Gamma = float | Literal["scale"]


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
    gamma : float or "scale"
        For "rbf": γ, or the rule that takes it from the training rows of each fold.

    Raises
    ------
    ValueError
        Unknown kernel, γ not positive, a precomputed matrix that is not square, or more rows than memory holds.
    """

    def __init__(self, X: Array, kernel: Kernel = "rbf", gamma: Gamma = "scale") -> None:
        if kernel not in ("rbf", "linear", "precomputed"):
            raise ValueError(f"kernel must be rbf, linear or precomputed, not {kernel!r}")
        if gamma != "scale" and not float(gamma) > 0:
            raise ValueError(f"gamma must be positive or 'scale', not {gamma!r}")
        if kernel == "precomputed" and X.shape[0] != X.shape[1]:
            raise ValueError(f"a precomputed Gram matrix must be square, not of shape {tuple(X.shape)}")
        require_room(X, X.shape[0], X.shape[0], LEAST_WORK_BYTES)
        xp = namespace(X)
        self.X = xp.astype(X, xp.float64)
        self.kernel = kernel
        self.gamma = gamma
        if kernel == "rbf":
            self._shared = squared_distances(self.X, self.X)
        elif kernel == "linear":
            self._shared = self.X @ xp.matrix_transpose(self.X)
        else:
            self._shared = self.X

    def gamma_of(self, training_rows: NDArray[np.intp]) -> float:
        """Return γ for a fold that trains on `training_rows`."""
        if self.gamma != "scale":
            return float(self.gamma)
        if self.kernel != "rbf":
            return 1.0
        return scale_gamma(self._rows(self.X, training_rows))

    def gram(self, rows: NDArray[np.intp], columns: NDArray[np.intp], gamma: float) -> Array:
        """Return K over rows × columns, float64, (len(rows), len(columns)); γ matters for "rbf" only."""
        xp = namespace(self._shared)
        part = self._rows(self._shared, rows)
        part = xp.take(part, xp.asarray(columns, device=part.device), axis=1)
        return xp.exp(-gamma * part) if self.kernel == "rbf" else part

    @staticmethod
    def _rows(matrix: Array, rows: NDArray[np.intp]) -> Array:
        xp = namespace(matrix)
        return xp.take(matrix, xp.asarray(rows, device=matrix.device), axis=0)
