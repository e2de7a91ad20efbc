"""Bins of columns: the codes that the exact engine searches in the place of numbers, and the two sides of NaN."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from rapids_pipeline.backend.arrays import Bins, Codes, Float32, Mask
from rapids_pipeline.boosting.engines import MAX_BINS


@dataclass(frozen=True, eq=False)
class QuantileBins:
    """Quantile bins of all columns: column f has borders[offset[f] : offset[f + 1]], rising. Py-Boost's quantiser.

        borders of a column  b = unique(x)[:-1]                                            at most max_bins − 2 of them
                             b = unique(sort(x)[(linspace(0, 1, max_bins) · n)[1:-1]])     otherwise
        code                 0 for NaN, 1 + searchsorted(b, x, side="left") for a number

    over the n numbers of the column, NaN left out. Cutting after code c sends codes ≤ c left: x ≤ b[c − 1], and NaN;
    cutting after code 0 sends NaN left and every number right.

    Source: Py-Boost 0.5.2, `py_boost/quantization/utils.py`, where max_bins is 256.
    """

    borders: Float32
    offset: np.ndarray[Any, np.dtype[np.int64]]

    @classmethod
    def fit(cls, X: Float32, max_bins: int = MAX_BINS) -> "QuantileBins":
        """Learn the borders of the columns of `X` (n, p), which may hold NaN but no infinities."""
        found = [_borders(column, max_bins) for column in np.ascontiguousarray(X.T, dtype=np.float32)]
        offset = np.cumsum([0, *(len(borders) for borders in found)], dtype=np.int64)
        return cls(np.concatenate([*found, np.empty(0, np.float32)]), offset)

    def of(self, feature: int) -> Float32:
        """Return the borders of one column."""
        return self.borders[self.offset[feature] : self.offset[feature + 1]]

    def codes(self, X: Float32) -> Bins:
        """Return the codes of `X` (n, p), feature-major (p, n)."""
        columns = np.ascontiguousarray(X.T, dtype=np.float32)
        codes = np.empty(columns.shape, dtype=np.uint8)
        for feature, column in enumerate(columns):
            found = 1 + np.searchsorted(self.of(feature), column, side="left")
            codes[feature] = np.where(np.isnan(column), 0, found)
        return codes

    def thresholds(self, features: Codes, cuts: Codes) -> Float32:
        """Return the threshold, x > threshold goes right, of cutting column features[i] after code cuts[i].

        After code 0 all numbers go right, after the highest code all go left.
        """
        last = np.diff(self.offset)[features] < cuts
        at = np.clip(self.offset[features] + cuts - 1, 0, max(len(self.borders) - 1, 0))
        borders = self.borders if len(self.borders) else np.zeros(1, np.float32)
        found = np.where(last, np.float32(np.inf), borders[at])
        return np.where(cuts == 0, np.float32(-np.inf), found).astype(np.float32)


class Mirrors(NamedTuple):
    """The columns with numbers and NaN, (k,), of p: column p + i is columns[i] with NaN above all numbers, as code 255.

    The codes of its numbers are one less, so that there is room.
    """

    columns: Codes
    p: int

    @classmethod
    def of(cls, codes: Bins) -> "Mirrors":
        """Return the mirrors that columns of codes (p, n) need."""
        absent = codes == 0
        mixed = absent.any(axis=1) & ~absent.all(axis=1)
        return cls(np.flatnonzero(mixed).astype(np.int32), len(codes))

    def beside(self, codes: Bins) -> Bins:
        """Return codes (p, n) with those of the mirrors after them, (p + k, n)."""
        if not len(self.columns):
            return codes
        own = codes[self.columns]
        return np.concatenate([codes, np.where(own == 0, MAX_BINS - 1, own - 1).astype(np.uint8)])

    def searched(self, columns: Codes) -> Codes:
        """Return columns with the mirrors of those that have one after them."""
        mirrored = np.flatnonzero(np.isin(self.columns, columns)) + self.p
        return np.concatenate([columns, mirrored.astype(np.int32)]) if len(mirrored) else columns

    def resolved(self, features: Codes, cuts: Codes) -> tuple[Codes, Codes, Mask]:
        """Return the column and the code, as in the column itself, of splits, and whether NaN goes left there."""
        left = features < self.p
        if left.all():
            return features, cuts, left
        own = self.columns[np.maximum(features - self.p, 0)]
        return np.where(left, features, own).astype(np.int32), np.where(left, cuts, cuts + 1), left


def _borders(column: Float32, max_bins: int) -> Float32:
    numbers = np.sort(column[~np.isnan(column)])
    borders = np.unique(numbers)[:-1]
    if len(borders) <= max_bins - 2:
        return borders
    grid = (np.linspace(0, 1, max_bins) * len(numbers))[1:-1].astype(np.int64)
    return np.unique(numbers[grid])
