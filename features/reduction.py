"""TruncatedSVD of a block of columns, exact where one side is small, and with a fixed sign.

Blocks here have few rows (614) and many columns (18,211) or the reverse, so the singular vectors come from
the eigenvectors of the small-side Gram matrix in float64: A Aᵀ = U s² Uᵀ, V = Aᵀ U / s. Where both sides are
large, A is first projected on a random subspace of its columns that rounds of subspace iteration, P ← orth(Aᵀ(A P)),
turn to the leading one. Each round reads A once, a block of rows at a time, so A may be a `RowSource` whose rows are
made when they are read, and no copy of A is made.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Literal, Self

import numpy as np
from array_api_compat import is_array_api_obj
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from rapids_pipeline.backend.arrays import Array, RowSource, namespace, row_blocks, to_host
from rapids_pipeline.backend.devices import processor_count
from rapids_pipeline.backend.state import State, StateReader

Solver = Literal["auto", "exact", "randomized"]
Products = Literal["float64", "float32"]

EXACT_UP_TO = 2_000
"""The smaller side up to which "auto" is exact: its eigenvectors then take about two seconds on a core."""
NULL_SQUARE = {"float64": 1e-14, "float32": 1e-7}
"""Squares of singular values, relative to the first, that are nothing but rounding, by the dtype of the products."""
OVERSAMPLES = 20
BLOCKS_AT_ONCE = 8
"""Blocks of rows of which the results are in memory together."""
ROUNDS = 4
"""Rounds of subspace iteration; A is read once more for the scores of its rows."""


class TruncatedSVD(TransformerMixin, BaseEstimator):
    """Project rows on the leading right singular vectors: transform(A) = A V.

    numpy, cupy and torch run the same lines; what is learnt stays in the library and on the device of A.

    Parameters
    ----------
    n_components : int
        How many components to keep; at most min(n_samples, n_features) are kept, and no null ones.
    solver : {"auto", "exact", "randomized"}
        "auto" is exact where min(n_samples, n_features) ≤ 2,000.
    random_state : int
        Seed of the random subspace.
    products : {"float64", "float32"}
        In which the products with A are computed, the exact way; its eigenvectors are always float64. With "float32"
        half the time and memory, and components whose singular value is below 1e-3 of the first are less exact.

    Attributes
    ----------
    components_ : array of float32, (n_kept, n_features)
        Vᵀ; the entry of largest magnitude in each row is positive, so the sign does not depend on the
        machine.
    singular_values_ : array of float64, (n_kept,)
        In descending order.
    explained_share_ : float
        Σ kept s² / ‖A‖²_F, in [0, 1]. Rows are not centred, so this is a share of the sum of squares.

    Notes
    -----
    The same decomposition as `sklearn.decomposition.TruncatedSVD(algorithm="arpack")` (not centred), without
    an iteration. Squaring halves the digits: components whose singular value is below 1e-7 of the first are
    null here. Sources: Golub and Van Loan, Matrix Computations, 4th ed., section 8.6; Halko, Martinsson and
    Tropp, SIAM Review 53 (2011), algorithm 4.4 (randomized subspace iteration).

    Examples
    --------
    >>> A = np.array([[3.0, 0.0], [0.0, 4.0], [3.0, 0.0]])
    >>> TruncatedSVD(1).fit_transform(A).tolist()
    [[3.0], [0.0], [3.0]]
    """

    components_: Array
    singular_values_: Array
    explained_share_: float

    def __init__(
        self,
        n_components: int = 45,
        solver: Solver = "auto",
        random_state: int = 0,
        products: Products = "float64",
    ) -> None:
        self.n_components = n_components
        self.solver = solver
        self.random_state = random_state
        self.products = products

    def fit(self, X: Array, y: object = None) -> Self:
        """Find the leading singular vectors of `X`, (n_samples, n_features).

        Raises
        ------
        ValueError
            `n_components` is not positive, there is no such solver, or `X` is not a finite matrix.
        """
        if self.n_components < 1:
            raise ValueError(f"n_components must be at least 1, not {self.n_components}")
        if self.solver not in ("auto", "exact", "randomized"):
            raise ValueError(f"solver must be auto, exact or randomized, not {self.solver!r}")
        if self.products not in ("float64", "float32"):
            raise ValueError(f"products must be float64 or float32, not {self.products!r}")
        A = self._validated(X, reset=True)
        width = min(self.n_components + OVERSAMPLES, *A.shape)
        small = min(A.shape) <= EXACT_UP_TO if self.solver == "auto" else self.solver == "exact"
        if small or width == min(A.shape):
            A = A[:] if isinstance(A, RowSource) else A
            A = namespace(A).astype(A, getattr(namespace(A), self.products), copy=False)
            values, right = _exact(A, self.n_components)
            total = _sum_of_squares(A)
        else:
            P, total = _leading_columns(A, width, self.random_state, self.products)
            values, right = _exact(_scores(A, P), self.n_components)
            right = P @ namespace(P).astype(right, P.dtype)
        xp = namespace(right)
        largest = to_host(xp.argmax(xp.abs(right), axis=0))
        signs = np.where(to_host(right)[largest, np.arange(len(largest))] < 0, -1.0, 1.0)
        right = right * xp.asarray(signs, device=right.device)
        self.components_ = _row_by_row(xp.matrix_transpose(xp.astype(right, xp.float32)))
        self.singular_values_ = values
        self.explained_share_ = min(float(xp.sum(values * values)) / total, 1.0) if total else 0.0
        return self

    def transform(self, X: Array) -> Array:
        """Return the scores X V, float32 of shape (n_samples, n_kept)."""
        check_is_fitted(self)
        matrix = self._validated(X, reset=False)
        xp = namespace(self.components_)
        components = xp.astype(self.components_, getattr(xp, self.products), copy=False)
        return xp.astype(_scores(matrix, xp.matrix_transpose(components)), xp.float32)

    def inverse_transform(self, scores: Array) -> Array:
        """Return the rows that `scores` (n_samples, n_kept) stand for, float32 of (n_samples, n_features)."""
        check_is_fitted(self)
        scores = scores if is_array_api_obj(scores) else np.asarray(scores)
        return namespace(scores).astype(scores, self.components_.dtype) @ self.components_

    def get_feature_names_out(self, input_features: object = None) -> NDArray[np.object_]:
        """Return the names svd_0, svd_1, …"""
        check_is_fitted(self)
        return np.array([f"svd_{i}" for i in range(self.components_.shape[0])], dtype=object)

    def state(self) -> State:
        """Return what was learnt, as plain data."""
        check_is_fitted(self)
        return {
            "components": to_host(self.components_),
            "singular_values": to_host(self.singular_values_),
            "explained_share": self.explained_share_,
        }

    @classmethod
    def from_state(cls, reader: StateReader) -> Self:
        """Make what `state` described, on the host: it transforms as the original, to the last bit."""
        components = reader.array("components", np.float32, (None, None))
        values = reader.array("singular_values", np.float64, (len(components),))
        share = reader.number("explained_share")
        if not components.shape[1]:
            raise reader.fault("components have no columns")
        if (values < 0).any() or (np.diff(values) > 0).any():
            raise reader.fault("singular_values do not descend to 0 or more")
        if not 0 <= share <= 1:
            raise reader.fault(f"explained_share {share} is outside 0 … 1")
        made = cls(n_components=max(1, len(components)))
        made.components_, made.singular_values_, made.explained_share_ = components, values, share
        made.n_features_in_ = components.shape[1]
        return made

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags

    def _validated(self, X: Array, *, reset: bool) -> Array:
        """Return X as a matrix of floating-point numbers, or a `RowSource`; ValueError where it is no matrix."""
        if isinstance(X, RowSource):
            matrix = X
        elif not is_array_api_obj(X) or isinstance(X, np.ndarray):
            return np.asarray(validate_data(self, X, dtype=[np.float64, np.float32], reset=reset))
        else:
            xp = namespace(X)
            floats = xp.isdtype(X.dtype, "real floating")
            matrix = X if floats else xp.astype(X, getattr(xp, self.products))
            if matrix.ndim != 2 or 0 in matrix.shape or not bool(xp.all(xp.isfinite(matrix))):
                raise ValueError(
                    f"X must be a matrix of finite numbers, not of shape {tuple(X.shape)} or with NaN"
                )
        if reset:
            self.n_features_in_ = int(matrix.shape[1])
        elif matrix.shape[1] != self.n_features_in_:
            raise ValueError(f"X has {matrix.shape[1]} features, and {self.n_features_in_} were fitted")
        return matrix


def _exact(A: Array, n_components: int) -> tuple[Array, Array]:
    """Return singular values and right singular vectors (columns), by the Gram matrix of the smaller side."""
    xp = namespace(A)
    transposed = xp.matrix_transpose(A)
    wide = A.shape[0] <= A.shape[1]
    gram = A @ transposed if wide else transposed @ A
    squares, vectors = xp.linalg.eigh(xp.astype(gram, xp.float64, copy=False))
    squares, vectors = xp.flip(squares), xp.flip(vectors, axis=1)
    null = NULL_SQUARE[str(A.dtype).rsplit(".", maxsplit=1)[-1]]
    kept = min(n_components, int(xp.sum(xp.astype(squares > squares[0] * null, xp.int64))))
    values = xp.sqrt(squares[:kept])
    leading = vectors[:, :kept] / values if wide else vectors[:, :kept]
    return values, transposed @ xp.astype(leading, A.dtype, copy=False) if wide else leading


def _row_by_row(matrix: Array) -> Array:
    """Return a matrix with its rows one after the other in memory, as a saved one is: products round alike."""
    xp = namespace(matrix)
    return xp.reshape(xp.reshape(matrix, (-1,), copy=True), matrix.shape)


def _sum_of_squares(A: Array) -> float:
    xp = namespace(A)
    return float(xp.sum(xp.astype(xp.vecdot(A, A), xp.float64)))  # A * A would be as large as A


def _leading_columns(A: Array, width: int, seed: int, products: str) -> tuple[Array, float]:
    """Return an orthonormal P (n_features, width) of nearly the leading right singular vectors, and ‖A‖²_F."""
    start = np.random.default_rng(seed).normal(size=(A.shape[1], width))
    xp, device = (np, None) if isinstance(A, RowSource) else (namespace(A), A.device)
    P = xp.linalg.qr(xp.asarray(start, dtype=getattr(xp, products), device=device)).Q
    total = 0.0
    for _ in range(ROUNDS):
        total, turned = 0.0, xp.zeros_like(P)
        for squares, part in _by_blocks(A, partial(_turned, P=P), P.dtype):
            total, turned = total + squares, turned + part
        P = xp.linalg.qr(turned).Q
    return P, total


def _turned(A: Array, P: Array) -> tuple[float, Array]:
    """Return ‖A‖²_F and Aᵀ(A P) of a block of rows."""
    return _sum_of_squares(A), namespace(A).matrix_transpose(A) @ (A @ P)


def _scores(A: Array, P: Array) -> Array:
    """Return A P of all rows, in the dtype of P."""
    parts = list(_by_blocks(A, lambda block: block @ P, P.dtype))
    return parts[0] if len(parts) == 1 else namespace(P).concat(parts)


def _by_blocks(A: Array, work: Callable[[Array], Any], dtype: Any) -> Iterator[Any]:
    """Yield what `work` makes of each block of rows in a dtype, in their order; on as many processors as there are.

    Arrays of other libraries than NumPy are worked on one block after the other.
    """
    n = A.shape[0]

    def made(rows: slice) -> Any:
        block = A[rows] if isinstance(A, RowSource) else A[rows, :]
        return work(namespace(block).astype(block, dtype, copy=False))

    blocks = row_blocks(n) or [slice(0, 0)]
    if len(blocks) == 1 or not isinstance(A, np.ndarray | RowSource):
        yield from map(made, blocks)
        return
    with ThreadPoolExecutor(processor_count()) as pool:
        for first in range(0, len(blocks), BLOCKS_AT_ONCE):
            yield from pool.map(made, blocks[first : first + BLOCKS_AT_ONCE])
