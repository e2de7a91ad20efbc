"""Gram matrices over all rows, computed once and sub-indexed for every fold, and the memory they need.

    linear   K_ij = x_iᵀ x_j
    rbf      K_ij = exp(−γ ‖x_i − x_j‖²)

What all folds share (the squared distances or inner products) is computed once in float64; a fold's Gram is a
sub-matrix of it, with the fold's own γ. `gamma="scale"` is scikit-learn's 1 / (n_features · Var(X)), the
variance taken over all entries of the fold's training rows only, so that nothing held out enters.

Every engine works on a dense Gram matrix, which grows with the square of the rows (20,000 rows: 3.2 GB in float64),
and an iteration of any of them reads all of it for every target. Beyond what fits in memory a fit stops before anything
is built, and says what would be needed and what fits.
"""

from math import isqrt
from typing import Literal

from rapids_pipeline.backend.arrays import Array, Indices, available_bytes, gigabytes, namespace
from rapids_pipeline.backend.errors import InputError

Kernel = Literal["rbf", "linear", "precomputed"]
Gamma = float | Literal["scale"]

TABLE_BYTES = 33
"""For each pair of rows of a `GramTable` while it is built: inner products, distances, a mask and the result (measured
at 3,000 rows: 32.3; a whole fit by douglas-rachford 50)."""
LEAST_WORK_BYTES = 20
"""What the most frugal engine (smo) takes for each entry of the training Gram matrix."""


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

    def gamma_of(self, training_rows: Indices) -> float:
        """Return γ for a fold that trains on `training_rows`."""
        if self.gamma != "scale":
            return float(self.gamma)
        if self.kernel != "rbf":
            return 1.0
        return scale_gamma(self._rows(self.X, training_rows))

    def gram(self, rows: Indices, columns: Indices, gamma: float) -> Array:
        """Return K over rows × columns, float64, (len(rows), len(columns)); γ matters for "rbf" only."""
        xp = namespace(self._shared)
        part = self._rows(self._shared, rows)
        part = xp.take(part, xp.asarray(columns, device=part.device), axis=1)
        return xp.exp(-gamma * part) if self.kernel == "rbf" else part

    @staticmethod
    def _rows(matrix: Array, rows: Indices) -> Array:
        xp = namespace(matrix)
        return xp.take(matrix, xp.asarray(rows, device=matrix.device), axis=0)


def gram_bytes(n_rows: int, n_training: int, work_bytes: int) -> int:
    """Return the bytes of a table over `n_rows` rows and of an engine's work on `n_training` of them.

    `work_bytes` is the engine's, for each entry of the training Gram matrix
    (`rapids_pipeline.svr.engines.Engine.work_bytes`); the table keeps 8 bytes while the engine works.
    """
    return max(TABLE_BYTES * n_rows**2, 8 * n_rows**2 + work_bytes * n_training**2)


def require_room(like: Array, n_rows: int, n_training: int, work_bytes: int) -> None:
    """Stop where the Gram matrix and the work on it do not fit in what is free where `like` lives.

    Raises
    ------
    InputError
        With the size needed, the size available, and what to do.
    """
    needed, free = gram_bytes(n_rows, n_training, work_bytes), available_bytes(like)
    if needed <= free:
        return
    fits = isqrt(int(free / max(TABLE_BYTES, 8 + work_bytes)))
    raise InputError(
        f"an SVR on {n_training:,} training rows ({n_rows:,} rows in all) needs {gigabytes(needed)} of memory for "
        f"its Gram matrix, and {gigabytes(free)} are available, enough for about {fits:,} rows: train on fewer "
        "rows, use engine='smo' (which needs the least), or approximate the kernel "
        "(sklearn.kernel_approximation.Nystroem with sklearn.svm.LinearSVR)"
    )
