"""The registry of SVR engines: name → a pure function that solves many duals on one Gram matrix."""

from typing import Protocol

from rapids_pipeline.backend.arrays import Array
from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.backend.progress import Progress
from rapids_pipeline.svr import douglas_rachford
from rapids_pipeline.svr.solution import DualSolution


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


ENGINES: dict[str, SharedGramEngine] = {"douglas-rachford": douglas_rachford.solve}


def engine(name: str) -> SharedGramEngine:
    """Return the engine called `name`; InputError lists the engines where there is none."""
    if name not in ENGINES:
        raise InputError(f"no SVR engine {name!r}; choose one of {', '.join(ENGINES)}")
    return ENGINES[name]
