"""The two sides of a kernel: rows with what a kernel compares of them, and the blocks of rows that it is made by."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.rows import Pairs
from rapids_pipeline.backend.arrays import Array, Float64, Indices, namespace
from rapids_pipeline.backend.devices import processor_count
from rapids_pipeline.kernels.response_profiles import ResponseProfiles


class Side:
    """One side of a kernel: rows, with their profiles in the library and on the device of `like`."""

    def __init__(self, rows: Pairs, like: Array, learnt: ResponseProfiles | None) -> None:
        self.rows, self.like = rows, like
        self.of_profiles, self.mean_square = learnt is not None, 1.0
        if learnt is None:
            return
        profiles, present = learnt.of(rows)
        squares = np.einsum("ij,ij->i", profiles, profiles)
        if present.any():
            self.mean_square = max(float(squares[present].mean()), 1e-12)
        self.profiles, self.squares = self._placed(profiles), self._placed(squares)
        self.present = self._placed(present.astype(np.float64))

    def take(self, which: Indices | slice) -> "Side":
        """Return some of the rows; of a slice nothing is copied."""
        part = copy(self)
        part.rows = self.rows.take(which)
        if self.of_profiles:
            parts = self.profiles, self.squares, self.present
            if isinstance(which, slice):
                taken = [x[which, ...] for x in parts]
            else:
                xp, place = namespace(self.like), self._placed(which)
                taken = [xp.take(x, place, axis=0) for x in parts]
            part.profiles, part.squares, part.present = taken
        return part

    def alone(self) -> "Side":
        """Return the same rows with no more levels than they have."""
        part = copy(self)
        part.rows = self.rows.alone()
        return part

    def spread(self, other: "Side", level: str, matrix: Float64) -> Array:
        """Return a matrix between distinct ones as one between these rows and others."""
        xp = namespace(self.like)
        rows, columns = (self._placed(getattr(side.rows, level).astype(np.int64)) for side in (self, other))
        return xp.take(xp.take(self._placed(matrix), rows, axis=0), columns, axis=1)

    def _placed(self, x: NDArray[Any]) -> Array:
        return namespace(self.like).asarray(np.ascontiguousarray(x), device=self.like.device)


def each_block(work: Callable[[slice], None], blocks: Sequence[slice], like: Array) -> None:
    """Do work for each block: the first makes what all share, the others follow, in NumPy on all processors."""
    for block in blocks[:1] if isinstance(like, np.ndarray) else blocks:
        work(block)
    if isinstance(like, np.ndarray) and len(blocks) > 1:
        with ThreadPoolExecutor(processor_count()) as pool:
            list(pool.map(work, blocks[1:]))
