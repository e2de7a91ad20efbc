"""SMO on one Gram matrix for many targets: the start, the float64 check and the targets that go on by themselves."""

import numpy as np
import pytest

from rapids_pipeline.svr import smo_shared
from rapids_pipeline.svr.optimality import optimality_gap
from rapids_pipeline.svr.smo import SmoOptions, solve_dense
from rapids_pipeline.svr.smo_shared import PRODUCT_ROUNDING, WarmStart

pytest.importorskip("numba")


def problem(n=90, targets=130, seed=0, gamma=0.1):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 6))
    return np.exp(-gamma * ((X[:, None] - X[None]) ** 2).sum(-1)), rng.standard_t(4, size=(n, targets))


def assert_optimal(K, Y, result, C, epsilon, tol):
    beta = result.dual_coef.T
    assert (np.abs(beta) <= C).all() and np.abs(beta.sum(axis=0)).max() <= 1e-10 * np.max(C)
    U, L = optimality_gap(Y - K @ beta, beta, np.broadcast_to(C, (1, 1)), np.broadcast_to(epsilon, (1, 1)))
    assert (U - L <= tol * (1 + 1e-9)).all() and result.converged.all()
    # the gap is of a product in float32 only where the rounding of that stays below tol
    largest = np.abs(Y - Y.mean(axis=0)).max() + np.max(C) * np.abs(K).max()
    rounded = largest * PRODUCT_ROUNDING < tol
    np.testing.assert_allclose(result.gap, U - L, atol=PRODUCT_ROUNDING * largest / 4 if rounded else 1e-10)


@pytest.mark.parametrize("C", [0.01, 1.0, 100.0])
@pytest.mark.parametrize("epsilon", [0.0, 0.1, 2.0])
@pytest.mark.parametrize("tol", [1e-3, 1e-6])
def test_the_start_changes_the_iterations_and_not_the_optimum(monkeypatch, C, epsilon, tol):
    K, Y = problem()
    options = SmoOptions(C=C, epsilon=epsilon, tol=tol, n_threads=1)
    assert WarmStart.build(K, Y.shape[1]) is not None
    warm = solve_dense(K, Y, options)
    monkeypatch.setattr(smo_shared, "ROWS_PER_TARGET", 0)
    assert WarmStart.build(K, Y.shape[1]) is None
    cold = solve_dense(K, Y, options)
    for result in (warm, cold):
        assert_optimal(K, Y, result, C, epsilon, tol)
    difference = K @ (warm.dual_coef - cold.dual_coef).T + warm.intercept - cold.intercept
    assert np.abs(difference).max() <= 2 * tol
    if C == 1.0:
        assert warm.n_iter.sum() <= cold.n_iter.sum()


@pytest.mark.parametrize("value", [0.0, 1.0, np.ones((40, 40)), np.zeros((40, 40)), -np.eye(40)])
def test_no_start_is_made_from_a_matrix_without_a_scale(value):
    K = np.eye(40) * value if np.ndim(value) == 0 else value
    start = WarmStart.build(K, 1000)
    assert start is None or np.isfinite(start.R).all()


def test_what_the_check_finds_not_done_goes_on_in_float64(monkeypatch):
    K, Y = problem()
    asked = []
    original = smo_shared.solve_part

    def recorded(*arguments):
        left = original(*arguments)
        asked.extend(left)
        return left

    monkeypatch.setattr(smo_shared, "solve_part", recorded)
    result = solve_dense(K, Y, SmoOptions(tol=1e-9, n_threads=1))
    assert asked  # float32 cannot reach it
    assert_optimal(K, Y, result, 1.0, 0.1, 1e-9)


def test_iterations_are_counted_over_both_passes_and_never_more_than_allowed():
    K, Y = problem()
    for limit in (1, 7, 40):
        result = solve_dense(K, Y, SmoOptions(tol=1e-9, max_iter=limit, n_threads=1))
        assert (result.n_iter <= limit).all() and not result.converged.all()
        beta = result.dual_coef
        assert np.abs(beta).max() <= 1 and np.abs(beta.sum(axis=1)).max() < 1e-10


def test_threads_and_neighbours_change_nothing_beyond_rounding():
    K, Y = problem(targets=1100)
    one, two = (solve_dense(K, Y, SmoOptions(n_threads=threads)) for threads in (1, 2))
    np.testing.assert_array_equal(one.dual_coef, two.dual_coef)
    some = solve_dense(K, Y[:, 600:], SmoOptions(n_threads=1))
    difference = K @ (some.dual_coef - one.dual_coef[600:]).T + some.intercept - one.intercept[600:]
    assert np.abs(difference).max() <= 1e-3


def test_a_box_for_each_row_and_target():
    K, Y = problem()
    box = np.random.default_rng(1).uniform(0.05, 3, Y.shape)
    result = solve_dense(K, Y, SmoOptions(C=box, n_threads=1))
    beta = result.dual_coef.T
    U, L = optimality_gap(Y - K @ beta, beta, box, np.full((1, 1), 0.1))
    assert (np.abs(beta) <= box).all() and (U - L <= 1e-3).all()
