"""Quantile bins: Py-Boost's quantiser, for a stated number of bins.

    borders of a column  b = unique(x)[:-1]                                                at most max_bins − 2 of them
                         b = unique(sort(x)[(linspace(0, 1, max_bins) · n)[1:-1]])         otherwise
    code                 0 for NaN, 1 + searchsorted(b, x, side="left") for a number       uint8

over the n numbers of the column, NaN left out. Cutting after code c sends codes ≤ c left: x ≤ b[c − 1], and NaN with
them; cutting after code 0 sends NaN left and every number right.

Source: Py-Boost 0.5.2, `py_boost/quantization/utils.py`, where max_bins is 256.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MIN_BINS, MAX_BINS = 3, 256


@dataclass(frozen=True, eq=False)
class QuantileBins:
    """The borders of all columns: column f has borders[offset[f] : offset[f + 1]], rising, float32."""

    borders: NDArray[np.float32]
    offset: NDArray[np.int64]

    @classmethod
    def fit(cls, X: NDArray[np.float32], max_bins: int = MAX_BINS) -> "QuantileBins":
        """Learn the borders of the columns of `X` (n, p), which may hold NaN but no infinities."""
        found = [_borders(column, max_bins) for column in np.ascontiguousarray(X.T, dtype=np.float32)]
        offset = np.cumsum([0, *(len(borders) for borders in found)], dtype=np.int64)
        return cls(np.concatenate([*found, np.empty(0, np.float32)]), offset)

    def of(self, feature: int) -> NDArray[np.float32]:
        """Return the borders of one column."""
        return self.borders[self.offset[feature] : self.offset[feature + 1]]

    def codes(self, X: NDArray[np.float32]) -> NDArray[np.uint8]:
        """Return the codes of `X` (n, p), feature-major (p, n)."""
        columns = np.ascontiguousarray(X.T, dtype=np.float32)
        codes = np.empty(columns.shape, dtype=np.uint8)
        for feature, column in enumerate(columns):
            found = 1 + np.searchsorted(self.of(feature), column, side="left")
            codes[feature] = np.where(np.isnan(column), 0, found)
        return codes

    def thresholds(self, features: NDArray[np.int32], codes: NDArray[np.int32]) -> NDArray[np.float32]:
        """Return the threshold, x > threshold goes right, of cutting column features[i] after codes[i]."""
        at = np.maximum(self.offset[features] + codes - 1, 0)
        borders = self.borders if len(self.borders) else np.zeros(1, np.float32)
        return np.where(codes == 0, np.float32(-np.inf), borders[at]).astype(np.float32)


def _borders(column: NDArray[np.float32], max_bins: int) -> NDArray[np.float32]:
    numbers = np.sort(column[~np.isnan(column)])
    borders = np.unique(numbers)[:-1]
    if len(borders) <= max_bins - 2:
        return borders
    grid = (np.linspace(0, 1, max_bins) * len(numbers))[1:-1].astype(np.int64)
    return np.unique(numbers[grid])
