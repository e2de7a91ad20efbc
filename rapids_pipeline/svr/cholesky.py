r"""Kernel ridge regression of targets that share one penalty, by Cholesky factors in float32.

    (A + λ) γ + b d = D y,   dᵀγ = 0        A = D K D;  b = dᵀx_y / dᵀx_d,  γ = x_y − b x_d

where x_y and x_d solve (A + λ) x = D y and = d. With A + λ ≈ L Lᵀ in float32, x is refined, x ← x + (L Lᵀ)⁻¹ r, by the
residual r in float64 until that is small: float64's answer at float32's price. L is made a block of columns at a time
(right-looking), and the rest is brought up to date by blocks of rows on all processors, each the work of one thread.

Source: Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed. (2002), chapters 10 and 12.
"""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from rapids_pipeline.backend.arrays import Array, multiplied, namespace, row_blocks
from rapids_pipeline.backend.devices import processor_count

COLUMNS = 512
"""Columns of L that are made at a time."""
ROWS = 1024
"""Rows that a thread brings up to date at a time."""
FEW_ROWS = 256
"""Rows of K that are brought to float64 at a time."""
TARGETS = 64
"""Targets that a thread solves at a time."""
ENOUGH = 2e-7
"""Residual, relative to the largest of its right side, at which a column is solved."""
MOST_ROUNDS = 10


def solve(K: Array, d: Array, Y: Array, penalty: Array) -> tuple[Array, Array, Array, Array]:
    """Return γ (n, t), b (t,), how often each target was solved, and its largest residual y − K β − λ h β − b.

    Parameters
    ----------
    K : array of float32 or float64, (n, n)
    d : array of float64, (n,)
        Roots of the row weights.
    Y : array of float64, (n, t)
    penalty : array of float64, ()
        λ, no smaller than what rounding to float32 makes of the largest eigenvalue of A.
    """
    xp = namespace(K)
    right = xp.concat([d[:, None] * Y, d[:, None]], axis=1)
    factor = _Factor(K, d, float(penalty))
    enough = ENOUGH * xp.max(xp.abs(right), axis=0)
    x, residual = xp.zeros_like(right), right
    size = xp.max(xp.abs(residual), axis=0)
    rounds = 0
    while bool(xp.any(size > enough)) and rounds < MOST_ROUNDS:
        scale = xp.where(size > 0, size, xp.ones_like(size))[None, :]  # float32 would lose what is small
        better = x + xp.astype(factor.solve(xp.astype(residual / scale, xp.float32)), xp.float64) * scale
        fitted = multiplied(K, d[:, None] * better, xp.float64, FEW_ROWS)
        new = right - d[:, None] * fitted - penalty * better
        new_size = xp.max(xp.abs(new), axis=0)
        rounds += 1
        if not bool(xp.any(new_size < size)):
            break
        x, residual, size = better, new, new_size
    intercept = (d @ x[:, :-1]) / (d @ x[:, -1])
    gamma = x[:, :-1] - x[:, -1:] * intercept[None, :]
    left = (residual[:, :-1] - residual[:, -1:] * intercept[None, :]) / d[:, None]
    counts = xp.full(Y.shape[1], rounds, dtype=xp.int32, device=K.device)
    return gamma, intercept, counts, xp.max(xp.abs(left), axis=0)


class _Factor:
    """L of A + λ = L Lᵀ, float32, in blocks of columns; of its diagonal blocks the inverses."""

    def __init__(self, K: Array, d: Array, penalty: float) -> None:
        xp, n = namespace(K), K.shape[0]
        self.blocks, self.inverses = row_blocks(n, COLUMNS), list[Array]()
        d = xp.astype(d, xp.float32)
        self.L = L = xp.empty((n, n), dtype=xp.float32, device=K.device)

        def scaled(rows: slice) -> None:
            L[rows, :] = d[rows, None] * xp.astype(K[rows, :], xp.float32) * d[None, :]

        _each(scaled, row_blocks(n, ROWS), L)
        for block in self.blocks:
            eye = xp.eye(block.stop - block.start, dtype=xp.float32, device=K.device)
            inverse = xp.linalg.inv(xp.linalg.cholesky(L[block, block] + penalty * eye))
            self.inverses.append(inverse)
            below = slice(block.stop, n)
            L[below, block] = multiplied(L[below, block], xp.matrix_transpose(inverse), xp.float32)
            rest = [
                slice(block.stop + r.start, block.stop + r.stop) for r in row_blocks(n - block.stop, ROWS)
            ]

            def brought_up(rows: slice, block: slice = block) -> None:
                columns = slice(block.stop, rows.stop)
                L[rows, columns] -= L[rows, block] @ xp.matrix_transpose(L[columns, block])

            _each(brought_up, rest, L)

    def solve(self, right: Array) -> Array:
        """Return (L Lᵀ)⁻¹ times columns (n, k), float32."""
        xp = namespace(right)
        parts = row_blocks(right.shape[1], TARGETS)
        return xp.concat(_each(lambda some: self._solved(right[:, some]), parts, self.L), axis=1)

    def _solved(self, right: Array) -> Array:
        xp, L = namespace(right), self.L
        x = xp.asarray(right, copy=True)
        for block, inverse in zip(self.blocks, self.inverses, strict=True):
            before = slice(0, block.start)
            x[block, :] = inverse @ (x[block, :] - L[block, before] @ x[before, :])
        for block, inverse in zip(self.blocks[::-1], self.inverses[::-1], strict=True):
            after = slice(block.stop, x.shape[0])
            known = x[block, :] - xp.matrix_transpose(L[after, block]) @ x[after, :]
            x[block, :] = xp.matrix_transpose(inverse) @ known
        return x


def _each(work: Callable[[slice], Any], parts: Iterable[slice], like: Array) -> list[Any]:
    """Return what `work` makes of each part; for NumPy on as many processors as there are."""
    if not isinstance(like, np.ndarray):
        return list(map(work, parts))
    with ThreadPoolExecutor(processor_count()) as pool:
        return list(pool.map(work, parts))
