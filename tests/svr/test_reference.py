"""The loops over one library SVR a target: what they leave undone is measured, and cuML is refused where it is not."""

import sys

import numpy as np
import pytest

from rapids_pipeline.backend.errors import UnavailableError
from rapids_pipeline.svr import MultiTargetSVR
from rapids_pipeline.svr.reference import solve_sklearn


def problem(n=60, targets=5):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n, 6))
    return np.exp(-0.1 * ((X[:, None] - X[None]) ** 2).sum(-1)), rng.standard_t(4, size=(n, targets))


def test_the_gap_that_a_library_leaves_is_measured():
    K, Y = problem()
    solution = solve_sklearn(K, Y, C=1.0, epsilon=0.1, tol=1e-3, max_iter=10_000)
    assert (solution.gap <= 1.01e-3).all() and (solution.gap > 1e-6).any()
    weights = np.linspace(0.1, 2, 60)[:, None]
    solution = solve_sklearn(K, Y, C=weights, epsilon=0.1, tol=1e-3, max_iter=10_000)
    assert (solution.gap <= 1.01e-3).all() and (np.abs(solution.dual_coef) <= weights).all()
    stopped = solve_sklearn(K, Y, C=1.0, epsilon=0.1, tol=1e-3, max_iter=3)
    assert not stopped.converged.any() and (stopped.gap > 1e-3).all()


def test_cuml_is_refused_where_it_cannot_be_imported(monkeypatch):
    monkeypatch.setitem(sys.modules, "cuml.svm", None)
    with pytest.raises(UnavailableError, match=r"pip install '\.\[gpu-cu13\]'"):
        MultiTargetSVR(engine="cuml").fit(np.eye(3), np.arange(3.0))
