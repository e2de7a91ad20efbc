"""TruncatedSVD of a block of columns, exact and with a fixed sign.

Blocks here have few rows (614) and many columns (18,211) or the reverse, so the singular vectors come from
the eigenvectors of the small-side Gram matrix in float64: A Aᵀ = U s² Uᵀ, V = Aᵀ U / s.
"""

from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted, validate_data


class TruncatedSVD(TransformerMixin, BaseEstimator):
    """Project rows on the leading right singular vectors: transform(A) = A V.

    Parameters
    ----------
    n_components : int
        How many components to keep; at most min(n_samples, n_features) are kept, and no null ones.

    Attributes
    ----------
    components_ : ndarray of float32, (n_kept, n_features)
        Vᵀ; the entry of largest magnitude in each row is positive, so the sign does not depend on the
        machine.
    singular_values_ : ndarray of float64, (n_kept,)
        In descending order.
    explained_share_ : float
        Σ kept s² / ‖A‖²_F, in [0, 1]. Rows are not centred, so this is a share of the sum of squares.

    Notes
    -----
    The same decomposition as `sklearn.decomposition.TruncatedSVD(algorithm="arpack")` (not centred), without
    an iteration. Squaring halves the digits: components whose singular value is below 1e-7 of the first are
    null here. Source: Golub and Van Loan, Matrix Computations, 4th ed., section 8.6.
    """

    components_: NDArray[np.float32]
    singular_values_: NDArray[np.float64]
    explained_share_: float

    def __init__(self, n_components: int = 45) -> None:
        self.n_components = n_components

    def fit(self, X: ArrayLike, y: object = None) -> Self:
        """Find the leading singular vectors of `X`, (n_samples, n_features).

        Raises
        ------
        ValueError
            `n_components` is not positive, or `X` is not a finite matrix.
        """
        if self.n_components < 1:
            raise ValueError(f"n_components must be at least 1, not {self.n_components}")
        matrix = self._validated(X, reset=True)
        wide = matrix.shape[0] <= matrix.shape[1]
        squares, vectors = np.linalg.eigh(matrix @ matrix.T if wide else matrix.T @ matrix)
        squares, vectors = squares[::-1], vectors[:, ::-1]
        kept = min(self.n_components, int(np.sum(squares > squares[0] * 1e-14)))
        singular = np.sqrt(squares[:kept])
        right = (matrix.T @ vectors[:, :kept]) / singular if wide else vectors[:, :kept]
        largest = np.argmax(np.abs(right), axis=0)
        right = right * np.where(right[largest, np.arange(kept)] < 0, -1.0, 1.0)
        self.components_ = np.ascontiguousarray(right.T, dtype=np.float32)
        self.singular_values_ = singular
        total = float(np.sum(squares.clip(min=0)))
        self.explained_share_ = float(np.sum(squares[:kept])) / total if total else 0.0
        return self

    def transform(self, X: ArrayLike) -> NDArray[np.float32]:
        """Return the scores X V, float32 of shape (n_samples, n_kept)."""
        check_is_fitted(self)
        matrix = self._validated(X, reset=False)
        return np.asarray(matrix @ self.components_.T, dtype=np.float32)

    def inverse_transform(self, scores: ArrayLike) -> NDArray[np.float32]:
        """Return the rows that `scores` (n_samples, n_kept) stand for, float32 of (n_samples, n_features)."""
        check_is_fitted(self)
        return np.asarray(np.asarray(scores, dtype=np.float32) @ self.components_)

    def get_feature_names_out(self, input_features: object = None) -> NDArray[np.object_]:
        """Return the names svd_0, svd_1, …"""
        check_is_fitted(self)
        return np.array([f"svd_{i}" for i in range(len(self.components_))], dtype=object)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags

    def _validated(self, X: ArrayLike, *, reset: bool) -> NDArray[np.float64]:
        validated: Any = validate_data(self, X, dtype=np.float64, reset=reset)
        return np.asarray(validated)
