r"""Sketched gradients: splits searched in k columns instead of d, leaves from all d (SketchBoost).

    random_projection   S = G Π,   Π (d, k) ~ N(0, 1/k), drawn anew for every tree        E|v Π|² = |v|² for every v
    top_outputs         S = the k columns of G with the largest norms (of weighted rows Σ w g²), the first of equals

A split's score is a sum of squared lengths of sums of rows of G, and sketching is linear, so the score of a random
projection has the score itself as its expectation. With k ≥ d nothing is sketched: S = G.

Source: Iosipoi and Vakhrushev, SketchBoost, NeurIPS 2022 (arXiv:2211.12858), sections 3.1 and 3.3.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from rapids_pipeline.backend.errors import InputError

SketchKind = Literal["random_projection", "top_outputs"]
KINDS: tuple[str, ...] = get_args(SketchKind)
ROWS_A_BLOCK = 8192


@dataclass(frozen=True)
class Sketch:
    """Which sketch, and of how many columns."""

    kind: SketchKind
    outputs: int = 5

    def __post_init__(self) -> None:
        """Check the parameters."""
        if self.kind not in KINDS:
            raise InputError(f"no sketch {self.kind!r}; choose None, {' or '.join(KINDS)}")
        if int(self.outputs) != self.outputs or self.outputs < 1:
            raise InputError(f"sketch_outputs must be a whole number of at least 1, not {self.outputs!r}")

    def width(self, n_outputs: int) -> int:
        """Return how many columns the sketch of `n_outputs` columns has."""
        return min(int(self.outputs), n_outputs)

    def of(
        self,
        gradients: NDArray[np.float32],
        seed: tuple[int, ...],
        weights: NDArray[np.float64] | None = None,
    ) -> NDArray[np.float32]:
        """Return the sketch (n, k) of `gradients` (n, d), both float32; the same seed gives the same bits."""
        d = gradients.shape[1]
        if self.outputs >= d:
            return gradients
        if self.kind == "top_outputs":
            return gradients[:, top_outputs(gradients, self.outputs, weights)]
        return projected(gradients, projection(d, self.outputs, seed))


def top_outputs(
    gradients: NDArray[np.float32], k: int, weights: NDArray[np.float64] | None = None
) -> NDArray[np.intp]:
    """Return, rising, the k columns with the largest norms; of equal ones the first."""
    norms = np.zeros(gradients.shape[1])
    for first in range(0, len(gradients), ROWS_A_BLOCK):
        rows = slice(first, first + ROWS_A_BLOCK)
        squares = gradients[rows].astype(np.float64) ** 2
        norms += np.sum(squares if weights is None else weights[rows, None] * squares, axis=0)
    return np.sort(np.argsort(-norms, kind="stable")[:k])


def projection(d: int, k: int, seed: tuple[int, ...]) -> NDArray[np.float64]:
    """Return Π (d, k) ~ N(0, 1/k)."""
    return np.random.default_rng(seed).normal(scale=1 / np.sqrt(k), size=(d, k))


def projected(gradients: NDArray[np.float32], matrix: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return G Π, summed in float64, block by block of rows; einsum, so the bits do not depend on a BLAS."""
    found = np.empty((len(gradients), matrix.shape[1]), dtype=np.float32)
    for first in range(0, len(gradients), ROWS_A_BLOCK):
        rows = slice(first, first + ROWS_A_BLOCK)
        found[rows] = np.einsum("nd,dk->nk", gradients[rows].astype(np.float64), matrix)
    return found
