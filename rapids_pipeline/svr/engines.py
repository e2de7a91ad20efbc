"""The registry of SVR engines: name → a pure function that solves many duals on one Gram matrix.

douglas-rachford   all targets at once by matrix products; array API: numpy, cupy, torch
smo                target by target, numba; numpy only
auto               one of these, chosen by where the arrays live and how many targets there are
"""

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Protocol

import numpy as np

from rapids_pipeline.backend.arrays import Array
from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.backend.progress import Progress
from rapids_pipeline.svr import douglas_rachford, smo
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
    """An engine, and how many of its own iterations a target may take unless told otherwise."""

    name: str
    solve: SharedGramEngine
    max_iter: int


@dataclass(frozen=True)
class Choice:
    """The engine chosen for a problem and, in words, why."""

    engine: Engine
    reason: str


ENGINES = {
    engine.name: engine
    for engine in (
        Engine("douglas-rachford", douglas_rachford.solve, 2000),
        Engine("smo", smo.solve, smo.DEFAULT_MAX_ITER),
    )
}


def choose_engine(name: str, Y: Array) -> Choice:
    """Return the engine called `name`; "auto" picks one for targets `Y` (n, n_targets).

    Raises
    ------
    InputError
        There is no such engine; the message lists them.
    """
    if name in ENGINES:
        return Choice(ENGINES[name], "asked for")
    if name != "auto":
        raise InputError(f"no SVR engine {name!r}; choose one of auto, {', '.join(ENGINES)}")
    rachford, pairs = ENGINES["douglas-rachford"], ENGINES["smo"]
    if not isinstance(Y, np.ndarray):
        return Choice(rachford, "auto: the arrays are not numpy's")
    if Y.shape[1] < FEW_TARGETS:
        return Choice(rachford, f"auto: fewer than {FEW_TARGETS} targets")
    if find_spec("numba") is None:
        return Choice(rachford, "auto: numba, which smo needs, is not installed")
    return Choice(pairs, f"auto: numpy arrays and at least {FEW_TARGETS} targets")
