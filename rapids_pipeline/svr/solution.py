"""What every SVR engine returns, whatever its method."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from rapids_pipeline.backend.arrays import Array, namespace


@dataclass(frozen=True)
class DualSolution:
    """Solutions of the duals of many epsilon-SVRs on n rows, arrays in the library of the input.

    Attributes
    ----------
    dual_coef : array, (n, n_targets)
        β = α − α*, feasible: each column sums to zero and stays in its box.
    intercept : array, (n_targets,)
        b of the prediction K_test β + b.
    n_iter : array of int32, (n_targets,)
    gap : array, (n_targets,)
        libsvm's U − L at `dual_coef`, in the unit of the targets; optimal within tol when gap ≤ tol.
    converged : array of bool, (n_targets,)
    """

    dual_coef: Array
    intercept: Array
    n_iter: Array
    gap: Array
    converged: Array

    @classmethod
    def joined(cls, parts: Sequence["DualSolution"]) -> "DualSolution":
        """Return the solutions of consecutive groups of targets as one."""
        xp = namespace(parts[0].dual_coef)
        vectors = {
            name: xp.concat([getattr(part, name) for part in parts])
            for name in ("intercept", "n_iter", "gap", "converged")
        }
        return cls(dual_coef=xp.concat([part.dual_coef for part in parts], axis=1), **vectors)

    def take(self, targets: Array) -> "DualSolution":
        """Return the solutions of some targets, in the order asked for (an index array of the same library)."""
        xp = namespace(self.dual_coef)
        vectors = {
            name: xp.take(getattr(self, name), targets)
            for name in ("intercept", "n_iter", "gap", "converged")
        }
        return DualSolution(dual_coef=xp.take(self.dual_coef, targets, axis=1), **vectors)

    def astype(self, dtype: Any) -> "DualSolution":
        """Return the solution with its real numbers in another dtype."""
        xp = namespace(self.dual_coef)
        real = {name: xp.astype(getattr(self, name), dtype) for name in ("dual_coef", "intercept", "gap")}
        return replace(self, **real)
