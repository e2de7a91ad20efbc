"""Douglas–Rachford: against a naive loop and the optimality conditions (against scikit-learn's SVR: test_engines)."""

import array_api_strict
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rapids_pipeline.backend.arrays import to_host
from rapids_pipeline.svr import douglas_rachford
from rapids_pipeline.svr.douglas_rachford import OwnSteps, iterate
from rapids_pipeline.svr.dual import kernel_between, scale_gamma
from tests.svr.duals import naive_gap, predicted

ROUNDING = 1e-5
"""Share of max|Y| + C·max|K| that float32 coefficients may move f by."""


def synthetic(n=120, n_targets=50, n_test=30, seed=0):
    """Two factors, heavy-tailed targets that partly follow them; returns K, K of test rows, Y."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n + n_test, 6))
    Y = np.tanh(X @ rng.normal(size=(6, n_targets))) + 0.5 * rng.standard_t(4, size=(n + n_test, n_targets))
    gamma = scale_gamma(X[:n])
    K, K_test = (kernel_between(rows, X[:n], "rbf", gamma) for rows in (X[:n], X[n:]))
    return K, K_test, Y[:n].astype(np.float32)


def assert_feasible(beta, C):
    C = np.broadcast_to(C, beta.shape)
    assert np.max(np.abs(beta.astype(np.float64).sum(axis=0)) / C.max(axis=0)) <= 1e-5
    assert np.max(np.abs(beta) / C) <= 1 + 1e-5


def test_equals_the_textbook_iteration():
    """The iteration of DESIGN, target by target and row by row, run until it stands still."""
    K, _, Y = synthetic(n=14, n_targets=3, n_test=5)
    n, rho, C, epsilon = len(K), 0.7, 1.0, 0.1
    M = np.linalg.inv(K + rho * np.eye(n))
    R = np.empty((n, n))
    for i in range(n):
        for j in range(n):
            R[i, j] = rho * (M[i, j] - M[i].sum() * M[:, j].sum() / M.sum())
    solution = douglas_rachford.solve(K, Y, tol=1e-8)
    for t in range(Y.shape[1]):
        v = R @ (Y[:, t] / rho)
        for _ in range(3000):
            Z = [min(max(np.sign(x) * max(abs(x) - epsilon / rho, 0), -C), C) for x in v]
            G = R @ np.array([2 * z - x + y / rho for z, x, y in zip(Z, v, Y[:, t], strict=True)])
            v = v + 1.9 * (G - Z)
        np.testing.assert_allclose(solution.dual_coef[:, t], Z, atol=1e-6)


def random_problem(rng):
    """Any small SVR: duplicated rows, constant targets, huge and tiny ones, hard and easy boxes; K, Y, C, epsilon."""
    n, t = int(rng.integers(2, 41)), int(rng.integers(1, 4))
    X = rng.normal(size=(n, int(rng.integers(1, 6))))
    X = X[rng.integers(0, n, n)] if rng.random() < 0.5 else X
    Y = rng.standard_t(4, size=(n, t)) * rng.choice([0.01, 1, 100])
    K = kernel_between(X, X, "rbf", 10 ** rng.uniform(-3, 1))
    if rng.random() < 0.2:
        Y[:, 0] = Y[0, 0]
    return K, Y, 10 ** rng.uniform(-2, 2), rng.random()


@settings(max_examples=120, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 2**32 - 1), st.sampled_from([1e-3, 1e-6]))
def test_what_is_called_converged_is_optimal(seed, tol):
    K, Y, C, epsilon = random_problem(np.random.default_rng(seed))
    solution = douglas_rachford.solve(K, Y, C=C, epsilon=epsilon, tol=tol, max_iter=1000)
    beta = solution.dual_coef.astype(np.float64)
    assert_feasible(solution.dual_coef, C)
    size, within = np.abs(Y).max() + C, np.full(len(K), C * (1 - 1e-6))  # within rounding of a bound is at it
    slack = size * ROUNDING if solution.dual_coef.dtype == np.float32 else size * 1e-12
    for t in range(Y.shape[1]):
        gap = naive_gap(K, Y[:, t], beta[:, t], within, epsilon)
        if solution.converged[t]:
            assert gap <= tol + slack
            intercept = solution.intercept[t]
            residual = Y[:, t] - K @ beta[:, t] - intercept
            free = (np.abs(beta[:, t]) > 1e-6 * C) & (np.abs(beta[:, t]) < C * (1 - 1e-6))
            assert np.all(np.abs(np.abs(residual[free]) - epsilon) <= 2 * (tol + slack))
            assert np.all(np.abs(residual[beta[:, t] == 0]) <= epsilon + 2 * (tol + slack))
        else:
            assert solution.gap[t] > tol
            assert solution.n_iter[t] == 1000


@pytest.mark.parametrize(("tol", "share"), [(1e-3, 0.995), (1e-6, 0.98)])
def test_nearly_every_problem_converges(tol, share):
    """Measured over 300 such problems with 2,000 iterations: all at tol 1e-3, 99.4 % of targets at tol 1e-6."""
    rng = np.random.default_rng(1)
    converged = []
    for _ in range(80):
        K, Y, C, epsilon = random_problem(rng)
        solution = douglas_rachford.solve(K, Y, C=C, epsilon=epsilon, tol=tol)
        converged.extend(solution.converged)
    assert np.mean(converged) >= share


def test_adaptive_steps_equal_the_shared_step():
    K, _, Y = synthetic(n=60, n_targets=6)
    rough = douglas_rachford.solve(K, Y, tol=1e-9, max_iter=14)
    assert not rough.converged.any()
    box, tube = np.ones((1, 1)), np.full((1, 1), 0.1)
    steps = OwnSteps.build(K)
    refined = iterate(steps, steps.batch(rough, Y, box, tube), 1e-9, 2000)
    exact = douglas_rachford.solve(K, Y, tol=1e-9)
    assert refined.converged.all() and exact.converged.all()
    np.testing.assert_allclose(refined.dual_coef, exact.dual_coef, atol=1e-7)


def test_operator_of_any_step_equals_the_formula():
    K, _, Y = synthetic(n=20, n_targets=4)
    rho = np.array([[0.01, 0.3, 1.0, 50.0]])
    found = OwnSteps.build(K).operate(Y.astype(float), rho)
    for t in range(4):
        M = np.linalg.inv(K + rho[0, t] * np.eye(20))
        R = rho[0, t] * (M - np.outer(M.sum(1), M.sum(0)) / M.sum())
        np.testing.assert_allclose(found[:, t], R @ Y[:, t], atol=1e-9)


def test_permuting_rows_and_targets_permutes_the_solution():
    K, K_test, Y = synthetic()
    rng = np.random.default_rng(3)
    rows, targets = rng.permutation(len(K)), rng.permutation(Y.shape[1])
    solution = douglas_rachford.solve(K, Y)
    permuted = douglas_rachford.solve(K[np.ix_(rows, rows)], Y[np.ix_(rows, targets)])
    expected = predicted(solution, K_test)[:, targets]
    np.testing.assert_allclose(predicted(permuted, K_test[:, rows]), expected, atol=1e-3)


@pytest.mark.parametrize("chunk", [1, 7])
def test_chunks_and_tolerance_bound_the_difference(chunk):
    K, K_test, Y = synthetic(n=80, n_targets=20)
    whole, parts = (douglas_rachford.solve(K, Y, tol=1e-6, chunk=size) for size in (256, chunk))
    np.testing.assert_allclose(predicted(parts, K_test), predicted(whole, K_test), atol=1e-5)
    whole, parts = (douglas_rachford.solve(K, Y, chunk=size) for size in (256, chunk))
    np.testing.assert_allclose(predicted(parts, K_test), predicted(whole, K_test), atol=1e-3)


def test_chunks_apply_to_targets_that_need_the_second_pass():
    K, _, Y = synthetic(n=30, n_targets=7)
    Y = Y * 100
    solutions = [douglas_rachford.solve(K, Y, C=0.05, chunk=chunk) for chunk in (2, 256)]
    assert solutions[0].n_iter.max() > douglas_rachford.FIRST_PASS
    assert all(solution.converged.all() for solution in solutions)
    np.testing.assert_allclose(solutions[0].dual_coef, solutions[1].dual_coef, atol=1e-5)


def test_float32_equals_float64():
    K, K_test, Y = synthetic()
    single, double = douglas_rachford.solve(K, Y), douglas_rachford.solve(K, Y, tol=1e-6)
    assert single.dual_coef.dtype == np.float32
    assert double.dual_coef.dtype == np.float64
    np.testing.assert_allclose(predicted(single, K_test), predicted(double, K_test), atol=1e-3)
    large = douglas_rachford.solve(K, Y * 1000, C=1000.0, epsilon=100.0)
    assert large.dual_coef.dtype == np.float64


@pytest.fixture(params=["array_api_strict", "torch"])
def library(request):
    if request.param == "array_api_strict":
        yield array_api_strict
        return
    torch = pytest.importorskip("torch")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield torch
    torch.set_num_threads(threads)


@pytest.mark.parametrize(("scale", "C"), [(1, 1.0), (100, 0.05)])
@pytest.mark.parametrize("tol", [1e-3, 1e-6])
def test_other_array_libraries_equal_numpy(library, tol, scale, C):
    K, K_test, Y = synthetic(n=40, n_targets=5)
    Y = Y * scale
    expected = douglas_rachford.solve(K, Y, tol=tol, C=C)
    found = douglas_rachford.solve(library.asarray(K), library.asarray(Y), tol=tol, C=C)
    assert type(found.dual_coef) is type(library.asarray(K))
    assert (expected.n_iter.max() > douglas_rachford.FIRST_PASS) == (scale == 100)
    assert to_host(found.converged).all()
    if scale == 1:
        np.testing.assert_allclose(predicted(found, K_test), predicted(expected, K_test), atol=2 * tol)
    else:  # every β is at its bound: the intercept is any number between U and L
        np.testing.assert_allclose(to_host(found.dual_coef), expected.dual_coef, atol=1e-5)


def test_pilot_takes_some_rows_of_a_large_problem():
    K, _, Y = synthetic(n=douglas_rachford.PILOT_ROWS + 40, n_targets=3)
    solution = douglas_rachford.solve(K, Y, C=np.ones((len(K), 1)))
    assert solution.converged.all()


def test_constant_target_needs_no_support_vector():
    K, K_test, Y = synthetic(n_targets=3)
    Y[:, 1] = 2.5
    solution = douglas_rachford.solve(K, Y)
    assert np.all(solution.dual_coef[:, 1] == 0)
    np.testing.assert_allclose(predicted(solution, K_test)[:, 1], 2.5, atol=1e-3)


def test_gram_matrix_of_equal_rows_gives_a_constant():
    K, Y = np.ones((5, 5)), np.arange(5.0)[:, None]
    solution = douglas_rachford.solve(K, Y)
    assert solution.converged.all()
    np.testing.assert_allclose(predicted(solution, np.ones((1, 5))), 2.0, atol=0.11)
