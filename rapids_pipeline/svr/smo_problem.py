"""What the SMO solver is given and what it returns, checked before any loop starts."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.svr.solution import DualSolution

Floats = NDArray[np.floating[Any]]
Indices = NDArray[np.integer[Any]]

DEFAULT_MAX_ITER = 1_000_000


@dataclass(frozen=True)
class Grouping:
    """A grouping of rows into levels, and what is known of each level.

    Attributes
    ----------
    squared_distances : array, (n_levels, n_levels)
        ‖x_a − x_b‖² between the features that all targets share (one-hot, embeddings); zeros where none.
    statistics : array, (n_targets, n_levels, n_statistics)
        Target-specific features of each level; n_statistics may be 0.
    """

    squared_distances: Floats
    statistics: Floats

    def __post_init__(self) -> None:
        levels = self.squared_distances.shape[0]
        if self.squared_distances.shape != (levels, levels):
            raise InputError(f"squared_distances must be square, not {self.squared_distances.shape}")
        if self.statistics.ndim != 3 or self.statistics.shape[1] != levels:
            raise InputError(
                f"statistics must be (targets, {levels}, statistics), not {self.statistics.shape}"
            )


@dataclass(frozen=True)
class FactoredKernel:
    """The kernels of all targets: K_t[i, j] = A_t[a_i, a_j] · B_t[b_i, b_j] for rows i = (a_i, b_i).

    Levels are those of training and of test rows together; which rows train is said when solving.

    Attributes
    ----------
    first, second : Grouping
    gamma : array, (n_targets,)
    """

    first: Grouping
    second: Grouping
    gamma: Floats

    def __post_init__(self) -> None:
        targets = {self.first.statistics.shape[0], self.second.statistics.shape[0], *self.gamma.shape}
        if self.gamma.ndim != 1 or len(targets) != 1:
            raise InputError(
                f"statistics and gamma must agree in the number of targets, not {sorted(targets)}"
            )
        if not (np.isfinite(self.gamma).all() and (self.gamma > 0).all()):
            raise InputError("gamma must be positive and finite for every target")


@dataclass(frozen=True)
class SmoResult:
    """Solutions of all targets.

    Attributes
    ----------
    dual_coef : array, (n_targets, n_rows)
        β: each row sums to zero and stays in its box.
    intercept : array, (n_targets,)
    n_iter : array of int64, (n_targets,)
    gap : array of float64, (n_targets,)
        U − L in the unit of the target, from f = y − Kβ computed in float64 (on a shared Gram matrix in float32 where
        its rounding is far below tol).
    converged : array of bool, (n_targets,)
        gap ≤ tol.
    predicted : array, (n_targets, n_test_rows)
        K_test β + b for the test rows asked for (none by default).
    """

    dual_coef: Floats
    intercept: Floats
    n_iter: Indices
    gap: Floats
    converged: NDArray[np.bool_]
    predicted: Floats

    def as_dual_solution(self) -> DualSolution:
        """Return the same as every engine's `DualSolution` (dual_coef is a transposed view)."""
        return DualSolution(
            self.dual_coef.T, self.intercept, self.n_iter.astype(np.int32), self.gap, self.converged
        )


@dataclass(frozen=True)
class SmoOptions:
    """How to solve.

    Attributes
    ----------
    C : float or array, (n_targets,) or (1 or n_rows, 1 or n_targets)
        Bound on |β_i|, in the unit of the target.
    epsilon : float or array, (n_targets,) or (1, n_targets)
    sample_weight : array, (n_rows,), optional
        Multiplies C row by row; 0 leaves a row out.
    tol : float
        Bound on U − L, in the unit of the target.
    max_iter : int
        Iterations of one target after which it counts as not converged.
    n_threads : int, optional
        By default every processor this process may use.
    dtype : dtype
        Of dual_coef and predicted.
    """

    C: float | ArrayLike = 1.0
    epsilon: float | ArrayLike = 0.1
    sample_weight: ArrayLike | None = None
    tol: float = 1e-3
    max_iter: int = DEFAULT_MAX_ITER
    n_threads: int | None = None
    dtype: DTypeLike = np.float64

    def __post_init__(self) -> None:
        if not self.tol > 0 or self.max_iter < 0:
            raise InputError(
                f"tol must be positive and max_iter not negative, not {self.tol}, {self.max_iter}"
            )


def empty_result(targets: int, n: int, tests: int, dtype: DTypeLike) -> SmoResult:
    """Return a result to be filled in; dual_coef holds anything (a large np.empty gets huge pages, zeros do not)."""
    return SmoResult(
        dual_coef=np.empty((targets, n), dtype),
        intercept=np.zeros(targets),
        n_iter=np.zeros(targets, np.int64),
        gap=np.zeros(targets),
        converged=np.zeros(targets, bool),
        predicted=np.zeros((targets, tests), dtype),
    )


def checked_levels(kernel: FactoredKernel, rows: Indices, name: str) -> Indices:
    """Return `rows` or `test_rows` (2, n) as the kernels take them; InputError where a level does not exist."""
    if rows.ndim != 2 or rows.shape[0] != 2 or not np.issubdtype(rows.dtype, np.integer):
        raise InputError(f"{name} must be integers of shape (2, n), not {rows.dtype} {rows.shape}")
    for groups, side in zip(rows, (kernel.first, kernel.second), strict=True):
        levels = side.squared_distances.shape[0]
        if groups.size and (groups.min() < 0 or groups.max() >= levels):
            raise InputError(f"{name} has levels outside 0..{levels - 1}: {groups.min()}..{groups.max()}")
    return np.ascontiguousarray(rows, dtype=np.uint32)


def box_of(options: SmoOptions, n: int, targets: int) -> Floats:
    """Return C as (1 or n_targets, n_rows), sample weights included."""
    C = np.asarray(options.C, dtype=np.float64)
    box = C[:, None] if C.ndim == 1 else np.atleast_2d(C).T
    if C.ndim > 2 or box.shape[0] not in (1, targets) or box.shape[1] not in (1, n) or not (box > 0).all():
        raise InputError(
            f"C must be positive: a number, ({targets},) or (1 or {n}, 1 or {targets}), not {C.shape}"
        )
    weight = np.ones(n) if options.sample_weight is None else np.asarray(options.sample_weight, np.float64)
    if weight.shape != (n,) or not (weight >= 0).all() or not weight.any():
        raise InputError(f"sample_weight must be ({n},), not negative and not all zero")
    return np.asarray(box * weight)


def tube_of(options: SmoOptions, targets: int) -> Floats:
    """Return epsilon as (n_targets,)."""
    epsilon = np.asarray(options.epsilon, dtype=np.float64).ravel()
    if epsilon.size not in (1, targets) or not (epsilon >= 0).all():
        raise InputError(f"epsilon must not be negative: a number or ({targets},)")
    return np.array(np.broadcast_to(epsilon, (targets,)))
