"""The registry of SVR engines: name → a pure function that solves many duals on one Gram matrix.

douglas-rachford   all targets at once by matrix products; array API: numpy, cupy, torch
smo                target by target, numba; works on the host
sklearn            one scikit-learn SVR a target on the precomputed Gram; works on the host
cuml               one cuML SVR a target; needs an NVIDIA GPU
ridge              kernel ridge regression, penalty 1/C, by one factorisation; array API. Squared errors are another
                   problem than the others', so "auto" never takes it
auto               one of the first two, chosen by the kernel, by where the arrays live and how many targets there are
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Protocol

import numpy as np

from rapids_pipeline.backend.arrays import Array
from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.backend.progress import Progress
from rapids_pipeline.svr import douglas_rachford, kernel_ridge, library_loops, smo
from rapids_pipeline.svr.solution import DualSolution

FEW_TARGETS = 500
"""Below this many targets SMO's start (loading or compiling its code) costs more than it saves."""


class SharedGramEngine(Protocol):
    """Solves min ½βᵀKβ − yᵀβ + ε‖β‖₁, 1ᵀβ = 0, |β| ≤ C for every column y of Y."""

    def __call__(
        self,
        K: Array,
        Y: Array,
        *,
        C: Array | float,
        epsilon: Array | float,
        tol: float,
        max_iter: int,
        progress: Progress | None = None,
    ) -> DualSolution:
        """Return the solutions for K (n, n) and Y (n, n_targets), in the library of the input."""


@dataclass(frozen=True)
class Engine:
    """An engine and what has to be known to call it.

    Attributes
    ----------
    name : str
    solve : SharedGramEngine
    max_iter : int
        How many of its own iterations a target may take unless told otherwise.
    work_bytes : int
        Memory it takes for each entry of the Gram matrix, the float64 matrix itself included.
    takes : tuple of str
        The array libraries it works on; arrays of others are copied to the host for it and back.
    require : callable
        Raises UnavailableError where the engine cannot run.
    """

    name: str
    solve: SharedGramEngine
    max_iter: int
    work_bytes: int
    takes: tuple[str, ...] = ("numpy", "cupy", "torch", "array_api_strict")
    require: Callable[[], None] = lambda: None


@dataclass(frozen=True)
class Choice:
    """The engine chosen for a problem and, in words, why."""

    engine: Engine
    reason: str


ENGINES = {
    engine.name: engine
    for engine in (
        Engine("douglas-rachford", douglas_rachford.solve, 2000, work_bytes=56),
        Engine("smo", smo.solve, smo.DEFAULT_MAX_ITER, 20, ("numpy",), smo.require_numba),
        Engine("sklearn", library_loops.solve_sklearn, 10_000_000, 28, ("numpy",)),
        Engine("cuml", library_loops.solve_cuml, 100_000, 40, ("numpy", "cupy"), library_loops.require_cuml),
        Engine("ridge", kernel_ridge.solve, 1, 48),
    )
}


def choose_engine(name: str, Y: Array, *, target_specific: bool = False) -> Choice:
    """Return the engine called `name`; "auto" picks one for targets `Y` (n, n_targets).

    Parameters
    ----------
    name : str
        "auto" or a key of `ENGINES`.
    Y : array, (n, n_targets)
    target_specific : bool
        Whether every target has a kernel of its own, which only smo solves.

    Raises
    ------
    InputError
        There is no such engine (the message lists them), or it cannot solve kernels of each target's own.
    UnavailableError
        The engine asked for cannot run here; the message says what to install.
    """
    if name != "auto" and name not in ENGINES:
        raise InputError(f"no SVR engine {name!r}; choose one of auto, {', '.join(ENGINES)}")
    if target_specific and name not in ("auto", "smo"):
        raise InputError(
            f"engine {name!r} solves one kernel that all targets share; target_features needs 'smo'"
        )
    if name != "auto":
        ENGINES[name].require()
        return Choice(ENGINES[name], "asked for")
    rachford, pairs = ENGINES["douglas-rachford"], ENGINES["smo"]
    if target_specific:
        pairs.require()
        return Choice(pairs, "auto: every target has a kernel of its own")
    if not isinstance(Y, np.ndarray):
        return Choice(rachford, "auto: the arrays are not numpy's")
    if Y.shape[1] < FEW_TARGETS:
        return Choice(rachford, f"auto: fewer than {FEW_TARGETS} targets")
    if find_spec("numba") is None:
        return Choice(rachford, "auto: numba, which smo needs, is not installed")
    return Choice(pairs, f"auto: numpy arrays and at least {FEW_TARGETS} targets")
