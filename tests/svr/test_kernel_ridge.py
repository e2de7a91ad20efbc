"""Kernel ridge: against the bordered linear system, scikit-learn's KernelRidge, and its optimality conditions."""

import array_api_strict
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.kernel_ridge import KernelRidge

from rapids_pipeline.backend.arrays import to_host
from rapids_pipeline.backend.errors import InputError
from rapids_pipeline.svr import kernel_ridge
from rapids_pipeline.svr.engines import ENGINES, choose_engine, solve_duals
from rapids_pipeline.svr.estimator import MultiTargetSVR


def problem(n=20, t=6, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 4))
    K = np.exp(-0.3 * ((X[:, None] - X[None]) ** 2).sum(-1))
    return X, K, rng.normal(size=(n, t)) * 3 + 1, rng


def bordered(K, y, penalty, noise):
    """Solve [K + λH, 1; 1ᵀ, 0] (β, b) = (y, 0)."""
    n = len(y)
    A = np.zeros((n + 1, n + 1))
    A[:n, :n] = K + penalty * np.diag(noise)
    A[:n, n] = A[n, :n] = 1
    found = np.linalg.solve(A, np.append(y, 0))
    return found[:n], found[n]


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 25), st.integers(1, 5), st.integers(0, 1000), st.floats(-3, 3))
def test_every_target_solves_its_bordered_system(n, t, seed, size):
    _, K, Y, rng = problem(n, t, seed)
    C = 10.0 ** (rng.normal(size=t) + size)
    weight = rng.uniform(0.1, 2, size=n)
    found = kernel_ridge.solve(K, Y, C=C[None, :] * weight[:, None], epsilon=0.0)
    assert to_host(found.converged).all() and (found.n_iter == 1).all()
    for j in range(t):
        beta, b = bordered(K, Y[:, j], 1 / C[j], 1 / weight)
        scale = np.abs(beta).max() + 1e-9
        np.testing.assert_allclose(found.dual_coef[:, j], beta, atol=1e-6 * scale)
        assert found.intercept[j] == pytest.approx(b, abs=1e-6 * (1 + abs(b)))
    np.testing.assert_allclose(
        found.dual_coef.sum(axis=0), 0, atol=1e-6 * np.abs(found.dual_coef).max() + 1e-12
    )


def test_without_an_intercept_to_find_it_is_scikit_learns():
    """The kernel centred and the targets, too: then KernelRidge, which has no intercept, is the same."""
    _, K, Y, _ = problem()
    H = np.eye(len(K)) - 1 / len(K)
    Kc, Yc = H @ K @ H, Y - Y.mean(axis=0)
    model = KernelRidge(alpha=0.5, kernel="precomputed").fit(Kc, Yc)
    found = kernel_ridge.solve(Kc, Yc, C=2.0, epsilon=0.0)
    np.testing.assert_allclose(Kc @ found.dual_coef + found.intercept, model.predict(Kc), atol=1e-9)


def test_the_solution_minimises_squared_errors_and_norm():
    _, K, Y, rng = problem(15, 1)
    found = kernel_ridge.solve(K, Y, C=3.0, epsilon=0.0)
    beta, b = found.dual_coef[:, 0], found.intercept[0]

    def primal(a, c):
        return 0.5 * a @ K @ a + 3.0 / 2 * ((K @ a + c - Y[:, 0]) ** 2).sum()

    best = primal(beta, b)
    for _ in range(50):
        assert primal(beta + 0.01 * rng.normal(size=15), b + 0.01 * rng.normal()) >= best


@pytest.mark.parametrize("library", ["torch", "array_api_strict"])
def test_all_array_libraries_solve_alike(library):
    _, K, Y, _ = problem()
    make = (lambda x: torch.asarray(x)) if library == "torch" else array_api_strict.asarray
    C = np.geomspace(0.1, 10, Y.shape[1])[None, :]
    expected = kernel_ridge.solve(K, Y, C=C, epsilon=0.0)
    found = kernel_ridge.solve(make(K), make(Y), C=make(C), epsilon=0.0)
    assert type(found.dual_coef).__module__.split(".")[0] == library
    np.testing.assert_allclose(to_host(found.dual_coef), expected.dual_coef, atol=1e-9)
    np.testing.assert_allclose(to_host(found.intercept), expected.intercept, atol=1e-9)


def test_targets_of_constant_value_and_rows_that_repeat():
    _, K, Y, _ = problem()
    Y[:, 0] = 7.0
    K, Y = np.tile(K, (2, 2)), np.tile(Y, (2, 1))
    found = kernel_ridge.solve(K, Y, C=1e3, epsilon=0.0)
    assert (
        found.converged.all()
        and found.intercept[0] == pytest.approx(7)
        and np.abs(found.dual_coef[:, 0]).max() < 1e-9
    )
    np.testing.assert_allclose(found.dual_coef[:20], found.dual_coef[20:], atol=1e-8)


def test_a_weight_of_zero_leaves_a_row_out():
    _, K, Y, _ = problem()
    how = {"C": 2.0, "epsilon": 0.0, "tol": 1e-3, "max_iter": None, "engine_name": "ridge"}
    found = solve_duals(K, Y, sample_weight=np.r_[np.ones(15), np.zeros(5)], **how)
    without = solve_duals(K[:15, :15], Y[:15], **how)
    np.testing.assert_allclose(found.dual_coef[:15], without.dual_coef, atol=1e-9)
    assert not found.dual_coef[15:].any()


def test_a_tube_or_a_box_that_is_no_product_is_refused():
    _, K, Y, rng = problem()
    with pytest.raises(InputError, match="squared errors, which have no tube: epsilon must be 0"):
        kernel_ridge.solve(K, Y, C=1.0, epsilon=0.1)
    with pytest.raises(InputError, match="one factorisation cannot serve any others"):
        kernel_ridge.solve(K, Y, C=rng.uniform(1, 2, size=Y.shape), epsilon=0.0)


def test_the_estimator_takes_it_by_name_and_auto_never_does():
    X, K, Y, _ = problem()
    model = MultiTargetSVR(engine="ridge", C=2.0, epsilon=0.0, gamma=0.3).fit(X, Y)
    expected = kernel_ridge.solve(K, Y, C=2.0, epsilon=0.0)
    np.testing.assert_allclose(model.dual_coef_, expected.dual_coef, atol=1e-8)
    with pytest.raises(InputError, match="epsilon must be 0"):
        MultiTargetSVR(engine="ridge").fit(X, Y)
    assert {choose_engine("auto", np.zeros((3, t))).engine.name for t in (1, 1000)} <= set(ENGINES) - {
        "ridge"
    }
