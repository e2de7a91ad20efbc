"""Room in memory: what the fits of a run take, found out before the first of them.

Estimates for n training rows, m rows to predict, t targets; bytes:

    targets      TARGETS · 4 t (n + m)           them, the rows of a fit, what is made of them, predictions
    rows         MOLECULES (n + m)               features of molecules and columns of boosters
    Gram matrix  4 n²                            of a composite kernel, float32; twice where Cholesky factors solve it
    landmarks    8 n s                           in its place, s at most `nystroem.MOST_LANDMARKS`
    SVR          33 (n + m)²                     `rapids_pipeline.svr.dual.TABLE_BYTES`

Kernel models are solved on landmarks where the Gram matrix of all training rows does not fit beside the rest. The
choice is made once, for all fits of a run: folds of fewer rows are then solved on landmarks, too, so that out-of-fold
predictions are those of the method that predicts.
"""

from collections.abc import Callable

import numpy as np

from rapids_pipeline.backend.arrays import available_bytes, gigabytes, host_bytes, to_device
from rapids_pipeline.backend.devices import DeviceName
from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.stack.members.composite import CompositeMember
from rapids_pipeline.stack.members.svr import SvrMember
from rapids_pipeline.stack.recipe import Recipe
from rapids_pipeline.svr.dual import TABLE_BYTES
from rapids_pipeline.svr.kernel_ridge import ITERATES_FROM, factors_are_cheaper
from rapids_pipeline.svr.nystroem import MOST_LANDMARKS

SHARE = 0.9
"""Of the memory at hand that a run may plan with."""
TARGETS = 3
MOLECULES = 30_000
"""Bytes for a row: Morgan fingerprints and copies of them (8 kB each), and a booster's columns."""
COMPONENTS = 120
"""Components that a kernel model of the named recipes solves."""
WORK = 1200
"""Numbers of float32 for a row that the solution of a Gram matrix takes beside it, most of them its preconditioner."""


def needs_landmarks(n: int, t: int, device: DeviceName) -> bool:
    """Say whether the Gram matrix of n rows of t targets has no room where it would be."""
    return n >= ITERATES_FROM and _gram(n) + _rest(n, 0, t) > SHARE * available_bytes(
        to_device(np.empty(0), device)
    )


def require(recipe: Recipe, n: int, m: int, t: int, device: DeviceName) -> bool:
    """Return `needs_landmarks`; InputError where not even the fits on landmarks have room, with what would."""
    on_landmarks = needs_landmarks(n, t, device)
    room = SHARE * host_bytes()
    needed = _needed(recipe, n, m, t, on_landmarks)
    if needed <= room:
        return on_landmarks
    fitting = _largest(lambda rows: _needed(recipe, rows, m * rows // n, t, on_landmarks) <= room, n)
    raise InputError(
        f"{n:,} training rows × {t:,} genes with {m:,} pairs to predict need {gigabytes(needed)} of memory by the "
        f"recipe {recipe.name}, and {gigabytes(room)} can be had here; about {fitting:,} rows would fit: take fewer "
        "rows, fewer genes (--genes), or a larger machine"
    )


def chosen(recipe: Recipe, n: int, on_landmarks: bool) -> dict[str, str]:
    """Return how kernel models of n rows are solved, for the manifest; nothing where a factorisation solves them."""
    if n < ITERATES_FROM or not any(isinstance(member, CompositeMember) for member in recipe.members):
        return {}
    landmarks = f"on at most {MOST_LANDMARKS:,} landmarks: a Gram matrix of {n:,} rows has no room in memory"
    return {"kernel models": landmarks if on_landmarks else f"on all {n:,} rows"}


def _needed(recipe: Recipe, n: int, m: int, t: int, on_landmarks: bool) -> float:
    kinds = {type(member) for member in recipe.members}
    kernel = (
        (8.0 * n * min(n, MOST_LANDMARKS) if on_landmarks else _gram(n)) if CompositeMember in kinds else 0.0
    )
    svr = float(TABLE_BYTES) * (n + m) ** 2 if SvrMember in kinds else 0.0
    return _rest(n, m, t) + max(kernel, svr)


def _gram(n: int) -> float:
    return 4.0 * n * (n * (1 + factors_are_cheaper(n, COMPONENTS)) + WORK)


def _rest(n: int, m: int, t: int) -> float:
    return (n + m) * (4.0 * TARGETS * t + MOLECULES)


def _largest(fits: Callable[[int], bool], n: int) -> int:
    """Return the most rows up to n that fit, two digits of it."""
    low, high = 0, n
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    digit = int(10 ** max(len(str(low)) - 2, 0))
    return low // digit * digit
